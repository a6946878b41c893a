"""Contract: every update operator does in the store what `warehouse.updates.apply` says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from warehouse import conditions, updates
from warehouse.errors import InvalidOperation, StoreError
from warehouse.testing.bench import Bench, Logical, without_nulls
from warehouse.testing.samples import ROWS, UPDATES

CLOCKS_DIFFER = timedelta(minutes=1)


def _applied(bench: Bench, record: Logical, data: Mapping[str, Any]) -> Logical:
    items = updates.bind(updates.parse(data), conditions.literal)
    return bench.expected(updates.apply(items, record))


class UpdateContract:
    @pytest.mark.parametrize("operator", sorted(UPDATES.keys() - {"$currentDate"}))
    async def test_update_operator(self, bench: Bench, operator: str) -> None:
        cases = bench.declared_cases("updates", operator, UPDATES[operator])
        await bench.seed(*ROWS)
        for data in cases:
            before = await bench.contents()
            (step,) = await bench.do(bench.update(None, data))
            assert step.affected == len(ROWS)
            expected = [_applied(bench, record, data) for record in before]
            changes = sorted(step.changes, key=lambda change: bench.logical(change.before)["id"])
            assert bench.same([bench.logical(change.before) for change in changes], before)
            for found in ([bench.logical(change.after) for change in changes], await bench.contents()):
                assert bench.same(without_nulls(found), without_nulls(expected)), data

    async def test_current_date(self, bench: Bench) -> None:
        if not bench.declared_cases("updates", "$currentDate", UPDATES["$currentDate"]):
            return
        await bench.seed(*ROWS)
        (step,) = await bench.do(bench.update({"id": 1}, {"moment": {"$currentDate": True}}))
        moment = bench.logical(step.changes[0].after)["moment"]
        assert abs(datetime.now(UTC) - moment) < CLOCKS_DIFFER
        assert (await bench.contents())[0]["moment"] == moment

    @pytest.mark.parametrize(
        ("operator", "data"),
        [
            ("$increment", {"name": {"$increment": 1}}),
            ("$push", {"name": {"$push": "x"}}),
            ("$increment", {"details.city": {"$increment": 1}}),
            ("$push", {"details.level": {"$push": "x"}}),
            ("$addToSet", {"details.deep": {"$addToSet": "x"}}),
            ("$set", {"details.city.part": 1}),
            ("$set", {"details.deep.tags.first": 1}),
            ("$min", {"details.level": {"$min": "x"}}),
        ],
    )
    async def test_an_operator_on_a_value_that_does_not_fit_is_an_error(
        self, bench: Bench, operator: str, data: dict[str, Any]
    ) -> None:
        if operator not in bench.capabilities.updates or not bench.has(*data):
            return
        await bench.seed(*ROWS)
        async with bench.unit() as unit:
            with pytest.raises((StoreError, InvalidOperation)):  # `check` may know the type already
                await unit.execute(bench.update({"id": 1}, data))
        assert (await bench.contents())[0] == bench.expected(ROWS[0])
