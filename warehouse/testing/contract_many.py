"""Contract: many thousands of records in one operation, in statements that grow by chunks and not by records."""

from __future__ import annotations

from typing import Any

import pytest

from warehouse.adapter import Request, StepChanges
from warehouse.records import Record
from warehouse.testing.bench import Bench
from warehouse.testing.contract_undo import check_images

CHUNK = 50  # the fewest records that a statement may handle on average,
FEW = 10  # but for so many
PATIENCE = 60.0  # a busy machine may take so many seconds for one of them


class Counted:
    """A bench whose every call must not need more statements than chunks."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        bench.lock_timeout = PATIENCE
        self._many = bench.harness.many

    async def do(self, request: Request) -> StepChanges:
        before = self._bench.harness.statements()
        (step,) = await self._bench.do(request)
        self._check(before, request.operation)
        assert step.affected == len(step.changes) == self._many
        return step

    async def undo(self, step: StepChanges, before: list[Record]) -> None:
        """Undo `step`; the records are then as they were `before`."""
        sent = self._bench.harness.statements()
        assert await self._bench.undo(step.changes) == self._many
        self._check(sent, f"undo of what was {step.changes[0].action}")
        await check_images(self._bench, before)

    def _check(self, before: int | None, what: str) -> None:
        after = self._bench.harness.statements()
        if before is not None and after is not None:
            sent = after - before
            assert 0 < sent <= self._many / CHUNK + FEW, f"{what}: {sent} statements for {self._many} records"
            self._bench.note(f"{what} of {self._many} records", f"{sent} statements")


class ManyContract:
    @pytest.mark.timeout(600)
    async def test_many_thousands_of_records(self, bench: Bench) -> None:
        counted, many = Counted(bench), bench.harness.many
        rows = [{"id": number, "name": f"n{number}", "count": number} for number in range(1, many + 1)]
        inserted = await counted.do(bench.insert(*rows))
        first = await bench.images()
        assert [bench.logical(record)["count"] for record in first] == [row["count"] for row in rows]
        updated = await counted.do(bench.update({"count": {"$gte": 1}}, {"count": {"$increment": 1}}))
        second = await bench.images()
        assert [bench.logical(record)["count"] for record in second] == list(range(2, many + 2))
        third, upserted = second, None
        if "upsert" in bench.capabilities.operations:
            upserted = await counted.do(bench.upsert(*self._renamed(rows)))
            third = await bench.images()
        deleted = await counted.do(bench.delete(None))
        assert await bench.images() == []
        await counted.undo(deleted, third)
        if upserted is not None:
            await counted.undo(upserted, second)
        await counted.undo(updated, first)
        await counted.undo(inserted, [])

    @staticmethod
    def _renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"name": f"other {row['id']}"} for row in rows]
