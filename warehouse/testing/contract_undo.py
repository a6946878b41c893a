"""Contract: undoing an operation leaves everything as it was; undoing it twice changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from warehouse.adapter import StepChanges
from warehouse.records import Record
from warehouse.testing.bench import Bench, without_nulls
from warehouse.testing.contract_operations import MANY
from warehouse.testing.samples import ROWS, UPDATES

NEW: dict[str, Any] = {"id": 20, "name": "new", "count": 3, "ratio": 1.5, "active": False, "email": "new@x"}


async def check_undo(bench: Bench, before: list[Record], steps: list[StepChanges]) -> None:
    """Undo all changes of `steps`; the records are then as they were, and stay so the second time."""
    changes = [change for step in steps for change in step.changes]
    await bench.undo(changes)
    await check_images(bench, before)
    assert await bench.undo(changes) == 0
    await check_images(bench, before)


async def check_images(bench: Bench, before: list[Record]) -> None:
    """All records are exactly as `before`, but that null and missing are one."""
    found = without_nulls(await bench.images())
    assert bench.same(found, without_nulls(before)), f"{found} is not {before}"


class UndoContract:
    async def test_insert_is_undone(self, bench: Bench) -> None:
        await bench.seed(*ROWS)
        before = await bench.images()
        await check_undo(bench, before, await bench.do(bench.insert(NEW, {"id": 21})))

    async def test_delete_is_undone(self, bench: Bench) -> None:
        await bench.seed(*ROWS)
        before = await bench.images()
        await check_undo(bench, before, await bench.do(bench.delete({"count": {"$ne": 2}})))

    @pytest.mark.parametrize("operator", sorted(UPDATES))
    async def test_update_is_undone(self, bench: Bench, operator: str) -> None:
        if operator not in bench.capabilities.updates:
            return
        await bench.seed(*ROWS)
        before = await bench.images()
        for data in UPDATES[operator]:
            if bench.has(*data):
                await check_undo(bench, before, await bench.do(bench.update(None, data)))

    async def test_upsert_is_undone(self, bench: Bench) -> None:
        if "upsert" not in bench.capabilities.operations:
            return
        await bench.seed(*ROWS)
        before = await bench.images()
        await check_undo(
            bench, before, await bench.do(bench.upsert({"id": 1, "name": "Anna", "count": 9}, NEW))
        )

    async def test_many_are_undone(self, bench: Bench) -> None:
        await bench.seed(*ROWS)
        before = await bench.images()
        rows = [{"id": 100 + number, "name": f"n{number}"} for number in range(MANY)]
        await check_undo(bench, before, await bench.do(bench.insert(*rows)))

    async def test_steps_on_one_record_are_undone(self, bench: Bench) -> None:
        """Each step alone can be undone from its images; together they are undone in reverse."""
        await bench.seed(*ROWS)
        before = await bench.images()
        first = await bench.do(bench.update({"id": 1}, {"count": {"$increment": 1}, "name": "x"}))
        second = await bench.do(bench.update({"id": 1}, {"count": {"$increment": 1}}), bench.insert(NEW))
        third = await bench.do(bench.delete({"id": {"$in": [1, 20]}}))
        changes = [change for step in (*first, *second, *third) for change in step.changes]
        await bench.undo(changes)
        await check_images(bench, before)
