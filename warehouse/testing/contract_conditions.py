"""Contract: every condition means in the store what `warehouse.conditions.evaluate` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse import conditions
from warehouse.conditions import And, Compare, Condition, Not, Or
from warehouse.testing.bench import Bench, logical_condition
from warehouse.testing.samples import COMBINED, CONDITIONS, ROWS

_COUNTS = st.none() | st.integers(-3, 3) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1])
_RATIOS = st.none() | st.integers(-8, 8).map(lambda number: number / 4) | st.sampled_from([1e10, -0.0])
_FLAGS = st.none() | st.booleans()
_TEXT = st.text(st.sampled_from("aAbBz%_\\.*[]()$^?'\" éÉß0"), max_size=5)
_TAGS = st.none() | st.lists(_TEXT, max_size=3)
_RECORD = st.fixed_dictionaries(
    {},
    optional={"name": st.none() | _TEXT, "count": _COUNTS, "ratio": _RATIOS, "active": _FLAGS, "tags": _TAGS},
)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.none() | _TEXT,
    "count": _COUNTS,
    "ratio": _RATIOS,
    "active": _FLAGS,
}
_ORDERED = ("$gt", "$gte", "$lt", "$lte")
_TEXT_OPERATORS = ("$like", "$ilike", "$startsWith", "$endsWith", "$contains")
_PATTERNS = ("a", "^a", "b$", "[aA]+", "a|b", "^(a|B)*$", r"\.", "a.b", "^.?$", "(aA){1,2}")


def _comparisons() -> st.SearchStrategy[Condition]:
    cases: list[st.SearchStrategy[Condition]] = []
    for path, values in _VALUES.items():
        operators = ("$eq", "$ne") if path == "active" else ("$eq", "$ne", *_ORDERED)
        cases.append(st.builds(Compare, st.just(path), st.sampled_from(operators), values))
        cases.append(
            st.builds(Compare, st.just(path), st.sampled_from(["$in", "$nin"]), st.lists(values, max_size=3))
        )
    any_field = st.sampled_from([*_VALUES, "tags"])
    cases += [
        st.builds(Compare, any_field, st.sampled_from(["$exists", "$null"]), st.booleans()),
        st.builds(Compare, st.just("name"), st.sampled_from(_TEXT_OPERATORS), _TEXT),
        st.builds(Compare, st.just("name"), st.just("$regex"), st.sampled_from(_PATTERNS)),
        st.builds(Compare, st.just("tags"), st.just("$contains"), _TEXT),
        st.builds(
            Compare,
            st.just("tags"),
            st.sampled_from(["$containsAll", "$containsAny"]),
            st.lists(_TEXT, max_size=2),
        ),
    ]
    return st.one_of(cases)


_CONDITION: st.SearchStrategy[Condition] = st.recursive(
    _comparisons(),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=4,
)


def _can(bench: Bench, condition: Condition) -> bool:
    """Whether the store holds the fields of `condition` and declares its operators."""
    return all(
        bench.has(item.path) and item.operator in bench.capabilities.conditions
        for item in conditions.comparisons(condition)
    )


async def check_found(bench: Bench, condition: Condition, rows: list[dict[str, Any]]) -> None:
    """What the store finds among `rows` is what the reference finds."""
    expected = sorted(row["id"] for row in rows if conditions.evaluate(condition, bench.known(row)))
    found = sorted(bench.logical(record)["id"] for record in await bench.adapter.find(bench.query(condition)))
    assert found == expected, f"{condition} finds {found}, not {expected}"


class ConditionContract:
    @pytest.mark.parametrize("operator", sorted(CONDITIONS))
    async def test_condition(self, bench: Bench, operator: str) -> None:
        if not bench.declared("conditions", operator):
            return
        await bench.seed(*ROWS)
        for where in CONDITIONS[operator]:
            if bench.has(*where):
                condition = logical_condition(where)
                await check_found(bench, condition, list(ROWS))
                await check_found(bench, Not(condition), list(ROWS))

    @pytest.mark.parametrize("operator", sorted(CONDITIONS))
    async def test_condition_of_an_update(self, bench: Bench, operator: str) -> None:
        if not bench.declared("conditions", operator):
            return
        await bench.seed(*ROWS)
        for where in CONDITIONS[operator]:
            if bench.has(*where):
                await self._check_update(bench, where)

    async def _check_update(self, bench: Bench, where: Mapping[str, Any]) -> None:
        condition = logical_condition(where)
        expected = [row["id"] for row in ROWS if conditions.evaluate(condition, bench.known(row))]
        async with bench.unit() as unit:
            step = await unit.execute(bench.update(where, {"email": None, "ratio": 9.5}))
        assert sorted(bench.logical(change.after)["id"] for change in step.changes) == expected, where

    @pytest.mark.parametrize("where", COMBINED, ids=str)
    async def test_combined_conditions(self, bench: Bench, where: dict[str, Any]) -> None:
        await bench.seed(*ROWS)
        condition = logical_condition(where)
        if _can(bench, condition):
            await check_found(bench, condition, list(ROWS))

    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(records=st.lists(_RECORD, min_size=1, max_size=5), condition=_CONDITION)
    async def test_any_condition_on_any_records(
        self, bench: Bench, records: list[dict[str, Any]], condition: Condition
    ) -> None:
        if not _can(bench, condition):
            return
        rows = [{"id": number, **record} for number, record in enumerate(records, 1)]
        await bench.do(bench.delete(None))
        await bench.seed(*rows)
        await check_found(bench, condition, rows)
