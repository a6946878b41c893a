"""Contract: every condition means in the store what `warehouse.conditions.evaluate` says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import strategies as st

from warehouse import conditions
from warehouse.conditions import Compare, Condition, Not
from warehouse.errors import InvalidOperation
from warehouse.testing import generated
from warehouse.testing.bench import Bench, logical_condition, search
from warehouse.testing.samples import COMBINED, CONDITIONS, ROWS

SETS = 100 if os.environ.get("CI") else 10  # of records that Hypothesis makes up
EACH = 20  # conditions that are tried on one of them


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
        cases = bench.declared_cases("conditions", operator, CONDITIONS[operator])
        await bench.seed(*ROWS)
        for where in cases:
            condition = logical_condition(where)
            await check_found(bench, condition, list(ROWS))
            await check_found(bench, Not(condition), list(ROWS))

    @pytest.mark.parametrize("operator", sorted(CONDITIONS))
    async def test_condition_of_an_update(self, bench: Bench, operator: str) -> None:
        cases = bench.declared_cases("conditions", operator, CONDITIONS[operator])
        await bench.seed(*ROWS)
        for where in cases:
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

    async def test_a_whole_mapping_is_equal_by_its_contents_or_is_refused(self, bench: Bench) -> None:
        if not bench.has("details"):
            return
        await bench.seed(*ROWS)
        one = {"deep": {"on": True, "tags": ["x", "y"]}, "level": 3.0, "city": "Oslo"}
        for operand in (
            one,
            {},
            {"city": "Oslo"},
            one | {"deep": {"on": True, "tags": ["y", "x"]}},
            "Oslo",
            ["x"],
        ):
            for operator in sorted({"$eq", "$ne"} & bench.capabilities.conditions):
                with suppress(InvalidOperation):
                    await check_found(bench, Compare("details", operator, operand), list(ROWS))

    @pytest.mark.parametrize("field", ["name", "count", "ratio", "active"])
    async def test_an_operand_of_another_kind_matches_nothing_or_is_refused(
        self, bench: Bench, field: str
    ) -> None:
        await bench.seed(*ROWS, {"id": 9, "name": "1", "count": 1, "ratio": 1.0, "active": False})
        rows = await bench.contents()
        for operator in {"$eq", "$ne", "$gt", "$lte", "$in"} & bench.capabilities.conditions:
            for operand in (True, False, 0, 1, "1", "true", "", {"a": 1}):
                if not bench.harness.booleans and (field == "active" or isinstance(operand, bool)):
                    continue
                condition = Compare(field, operator, [operand] if operator == "$in" else operand)
                with suppress(InvalidOperation):
                    await check_found(bench, condition, rows)

    @pytest.mark.parametrize("field", ["count", "ratio"])
    @pytest.mark.parametrize("operand", [2**63 - 1, 2.0**63, -(2**63), 2**53 + 1, 2.0**53], ids=repr)
    async def test_numbers_are_compared_exactly_where_doubles_are_coarse(
        self, bench: Bench, field: str, operand: float
    ) -> None:
        near: list[dict[str, Any]] = [
            {"count": 2**63 - 1},
            {"ratio": 2.0**63},
            {"count": 2**53, "ratio": 2.0**53},
            {"count": 2**53 + 1},
        ]
        await bench.seed(*({"id": number, **record} for number, record in enumerate(near, 1)))
        rows = await bench.contents()
        for operator in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"):
            if operator in bench.capabilities.conditions:
                value = [operand] if operator in {"$in", "$nin"} else operand
                await check_found(bench, Compare(field, operator, value), rows)

    async def test_any_condition_on_any_records(self, bench: Bench) -> None:
        fields, operators = bench.harness.fields, bench.capabilities.conditions
        tried: list[int] = []
        await search(
            self._check_conditions,
            bench,
            tried,
            examples=SETS,
            records=generated.records(fields),
            asked=st.lists(generated.conditions(fields, operators), min_size=EACH, max_size=EACH),
        )
        assert sum(tried) >= SETS * EACH
        bench.note("generated conditions", str(SETS * EACH))

    @staticmethod
    async def _check_conditions(
        bench: Bench, tried: list[int], records: list[dict[str, Any]], asked: list[Condition]
    ) -> None:
        given = [{"id": number, **record} for number, record in enumerate(records, 1)]
        await bench.do(bench.delete(None))
        await bench.seed(*given)
        rows = await bench.contents()  # where doubles are kept only nearly, what is compared is what is kept
        kept, sent = (_without_number_kinds(records) for records in (rows, map(bench.expected, given)))
        assert bench.same(kept, sent)
        for condition in asked:
            await check_found(bench, condition, rows)
        tried.append(len(asked))


def _without_number_kinds(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with doubles in place of the integers in `details`: some JSON does not tell them apart."""

    def doubles(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: doubles(item) for name, item in value.items()}
        return float(value) if type(value) is int else value

    return [
        record | {"details": doubles(record["details"])} if "details" in record else record
        for record in records
    ]
