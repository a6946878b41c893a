"""Contract: units of work: what is seen when, rollback, commit, errors, locks, cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from warehouse.adapter import Outcome, StepChanges, WriteStatus
from warehouse.errors import ConstraintViolated, StoreContention
from warehouse.testing.bench import Bench
from warehouse.testing.contract_operations import ANN, BOB

PAUSES = (0.0, 0.0, 0.0002, 0.001, 0.005)  # seconds until a call is cancelled


class UnitContract:
    async def test_steps_of_one_unit_see_each_other(self, bench: Bench) -> None:
        async with bench.unit() as unit:
            inserted = await unit.execute(bench.insert(ANN, BOB))
            updated = await unit.execute(bench.update({"name": "Ann"}, {"count": {"$increment": 1}}))
            again = await unit.execute(bench.update({"count": 2}, {"count": {"$increment": 1}}))
            deleted = await unit.execute(bench.delete({"name": "Bob"}))
            found = await unit.find(bench.query())
            await bench.finish(unit, inserted, updated, again, deleted)
        assert (inserted.affected, updated.affected, again.affected, deleted.affected) == (2, 1, 2, 1)
        assert bench.logical(again.changes[0].before)["count"] == 2
        expected = [bench.expected(ANN | {"count": 3})]
        assert [bench.logical(record) for record in found] == expected
        assert await bench.contents() == expected

    async def test_a_deleted_record_can_be_inserted_again(self, bench: Bench) -> None:
        await bench.seed(ANN)
        await bench.do(bench.delete({"id": 1}), bench.insert({"id": 1, "name": "new"}))
        assert await bench.contents() == [bench.expected({"id": 1, "name": "new"})]

    async def test_nothing_is_visible_before_the_end(self, bench: Bench) -> None:
        await bench.seed(ANN)
        async with bench.unit() as unit:
            steps = [
                await unit.execute(bench.insert(BOB)),
                await unit.execute(bench.update({"id": 1}, {"name": "Anna"})),
            ]
            assert await bench.contents() == [bench.expected(ANN)]
            await bench.finish(unit, *steps)
        assert await bench.contents() == [bench.expected(ANN | {"name": "Anna"}), bench.expected(BOB)]

    async def test_rollback_leaves_nothing(self, bench: Bench) -> None:
        await bench.seed(ANN)
        async with bench.unit() as unit:
            await unit.execute(bench.insert(BOB))
            await unit.execute(bench.update({"id": 1}, {"name": "Anna"}))
            await unit.execute(bench.delete({"id": 1}))
            await unit.rollback()
            await unit.rollback()
        assert await bench.contents() == [bench.expected(ANN)]

    async def test_leaving_a_unit_rolls_it_back(self, bench: Bench) -> None:
        await bench.seed(ANN)
        async with bench.unit() as unit:
            await unit.execute(bench.delete({"id": 1}))
        async with bench.unit():
            pass
        assert await bench.contents() == [bench.expected(ANN)]
        await bench.do(bench.update({"id": 1}, {"name": "Anna"}))  # nothing stayed locked
        assert await bench.contents() == [bench.expected(ANN | {"name": "Anna"})]

    async def test_find_in_a_unit(self, bench: Bench) -> None:
        await bench.seed(ANN, BOB)
        async with bench.unit() as unit:
            query = bench.query({"count": {"$gte": 2}}, order_by=(bench.harness.path("id"),), lock=True)
            found = await unit.find(query)
        assert [bench.logical(record) for record in found] == [bench.expected(BOB)]

    # Errors

    async def test_a_duplicate_key_names_its_constraint(self, bench: Bench) -> None:
        await bench.seed(ANN)
        async with bench.unit() as unit:
            with pytest.raises(ConstraintViolated) as caught:
                await unit.execute(bench.insert({"id": 1}))
        assert caught.value.constraint
        if bench.harness.driver and bench.capabilities.holds:
            assert caught.value.__cause__ is not None

    async def test_a_taken_unique_value_names_its_constraint(self, bench: Bench) -> None:
        if not bench.harness.unique:
            return
        await bench.seed(ANN)
        error = await self._insert_failing(bench, {"id": 3, "email": ANN["email"]})
        assert isinstance(error, ConstraintViolated)
        assert error.constraint
        assert error.__cause__ is not None or not bench.harness.driver
        assert await bench.contents() == [bench.expected(ANN)]

    @staticmethod
    async def _insert_failing(bench: Bench, record: dict[str, object]) -> Exception | None:
        async with bench.unit() as unit:
            try:
                step = await unit.execute(bench.insert(record))
            except ConstraintViolated as error:
                return error
            assert not bench.capabilities.holds, "the store let it pass"
            (written,) = await unit.write(step.changes)
            assert written.status is WriteStatus.REFUSED
            return written.error

    async def test_a_savepoint_saves_the_unit(self, bench: Bench) -> None:
        if not bench.capabilities.savepoints:
            return
        await bench.seed(ANN)
        async with bench.unit() as unit:
            first = await unit.execute(bench.insert(BOB), savepoint=True)
            with pytest.raises(ConstraintViolated):
                await unit.execute(bench.insert({"id": 3}, {"id": 1}), savepoint=True)
            last = await unit.execute(bench.insert({"id": 4}), savepoint=True)
            await bench.finish(unit, first, last)
        assert [record["id"] for record in await bench.contents()] == [1, 2, 4]

    # Meeting others

    async def test_two_units_cannot_both_change_a_record(self, bench: Bench) -> None:
        await bench.seed(ANN)
        request = bench.update({"id": 1}, {"count": {"$increment": 1}})
        async with bench.unit() as one, bench.unit(lock_timeout=0.3) as other:
            mine = await one.execute(request)
            if bench.capabilities.holds:
                with pytest.raises(StoreContention):
                    await self._both(one, other, mine, request, bench)
            else:
                theirs = await other.execute(request)
                assert (await one.write(mine.changes))[0].status is WriteStatus.APPLIED
                assert (await other.write(theirs.changes))[0].status is WriteStatus.CONFLICT
        assert await bench.contents() == [bench.expected(ANN | {"count": 2})]

    @staticmethod
    async def _both(one: object, other: object, mine: StepChanges, request: object, bench: Bench) -> None:
        """The other unit loses, when it executes or at the latest when it commits; the first one commits."""
        try:
            theirs = await other.execute(request)  # type: ignore[attr-defined]
        finally:
            await bench.finish(one, mine)  # type: ignore[arg-type]
        await bench.finish(other, theirs)  # type: ignore[arg-type]

    async def test_a_unit_waits_for_the_one_before(self, bench: Bench) -> None:
        """What waited for a lock counts on what it finds then; without locks, one of the two loses."""
        if not bench.capabilities.holds:
            return
        await bench.seed(ANN)
        request = bench.update({"count": 1}, {"count": {"$increment": 1}})

        async def second() -> int:
            try:
                (step,) = await bench.do(request)
            except StoreContention:
                return 0
            return step.affected

        async with bench.unit() as unit:
            step = await unit.execute(request)
            waiting = asyncio.create_task(second())
            await asyncio.sleep(0.05)
            first = step.affected
            try:
                await bench.finish(unit, step)
            except StoreContention:
                first = 0
        assert first + await waiting == 1
        assert await bench.contents() == [bench.expected(ANN | {"count": 2})]

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_the_outcome_can_be_asked(self, bench: Bench, end: str) -> None:
        if not bench.capabilities.asks:
            return
        async with bench.unit() as unit:
            await unit.execute(bench.insert(ANN))
            token = unit.token
            assert token
            await (unit.commit() if end == "commit" else unit.rollback())
        expected = Outcome.COMMITTED if end == "commit" else Outcome.ROLLED_BACK
        assert await bench.adapter.outcome(token) is expected

    async def test_a_cancelled_call_can_be_rolled_back(self, bench: Bench) -> None:
        await bench.seed(ANN)
        for number, pause in enumerate(PAUSES):
            async with bench.unit() as unit:
                await unit.execute(bench.update({"id": 1}, {"name": "cancelled"}))
                call = asyncio.create_task(unit.execute(bench.insert({"id": 10 + number})))
                await asyncio.sleep(pause)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                await unit.rollback()
        assert await bench.contents() == [bench.expected(ANN)]
        await bench.do(bench.update({"id": 1}, {"name": "Anna"}))
        assert await bench.contents() == [bench.expected(ANN | {"name": "Anna"})]
