"""Contract: every condition means in the store what `warehouse.conditions.evaluate` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings

from warehouse import conditions
from warehouse.conditions import Condition, Not
from warehouse.testing import generated
from warehouse.testing.bench import Bench, logical_condition
from warehouse.testing.samples import COMBINED, CONDITIONS, ROWS

EXAMPLES = 50  # for the conditions that Hypothesis makes up


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

    async def test_any_condition_on_any_records(self, bench: Bench) -> None:
        """Hypothesis runs in a thread beside the event loop, so that it can shrink what fails."""
        fields, operators = bench.harness.fields, bench.capabilities.conditions

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(records=generated.records(fields), condition=generated.conditions(fields, operators))
        def search(records: list[dict[str, Any]], condition: Condition) -> None:
            anyio.from_thread.run(self._check_condition, bench, records, condition)

        await anyio.to_thread.run_sync(search)

    @staticmethod
    async def _check_condition(bench: Bench, records: list[dict[str, Any]], condition: Condition) -> None:
        rows = [{"id": number, **record} for number, record in enumerate(records, 1)]
        await bench.do(bench.delete(None))
        await bench.seed(*rows)
        await check_found(bench, condition, rows)
