"""Held transactions: staged now, under a name, and ended later, by whoever comes first, or never."""

import asyncio
import os
import time

import pytest

from integration.memory_world import World, statuses, update
from integration.test_recovery import pause
from warehouse import (
    AlreadyFinished,
    InvalidOperation,
    JournalUnavailable,
    OutcomeUnknown,
    StoreUnavailable,
    TransactionCompensated,
    TransactionConflict,
    TransactionExpired,
    UnknownTransaction,
)
from warehouse.errors import ConstraintViolated, StoreOutcomeUnknown
from warehouse.journal.base import ReplyLost

pytestmark = pytest.mark.anyio
# a and b can prepare; h has transactions, and cannot; p is planned.
SHARED = {"a": True, "h": True, "p": False}


class Worlds:
    """Two processes, as it were, on the same stores and journal."""

    def __init__(self, **transactions):
        token = os.urandom(4).hex()
        stores = {
            tag: {"adapter": "memory", "transactions": holds, "options": {"shared": f"{token}-{tag}"}}
            for tag, holds in SHARED.items()
        }
        self.one, self.two = World(stores, **transactions), World(stores, **transactions)
        self.two.warehouse._journal.inner = self.two.journal = self.one.journal
        for world in (self.one, self.two):
            world.faults.declare("h", prepares=False)
            world.warehouse._engine.lease.seconds = 0.1

    async def __aenter__(self):
        await self.one.warehouse.open()
        await self.two.warehouse.open()
        return self

    async def __aexit__(self, *_):
        await self.one.warehouse.close()
        await self.two.warehouse.close()

    def everything(self):
        return self.one.everything()

    def prepared(self):
        return len(self.one.stores["a"]._store.space.prepared)

    async def hold(self, name="order", *, expires_in=600.0):
        """Insert into every store, and change what `filled` has put there."""
        async with self.one.warehouse.begin(name, hold=True, expires_in=expires_in) as tx:
            for tag in SHARED:
                await tx.insert(None, tag, "things", {"id": 2})
                await tx.update(None, tag, "things", {"id": 1}, {"n": {"$increment": 1}})
        return tx

    async def filled(self):
        for tag in SHARED:
            await self.one.fill(tag, {"id": 1, "n": 10})
        return self

    async def nothing_left(self):
        assert await self.one.leftovers() == []
        assert self.prepared() == 0
        assert await self.one.warehouse.transactions("held") == []


BEFORE = {tag: {1: {"n": 10}} for tag in SHARED}
AFTER = {tag: {1: {"n": 11}, 2: {}} for tag in SHARED}


@pytest.mark.parametrize("who", ["one", "two"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_staged_now_and_ended_later(end, who):
    async with Worlds() as worlds:
        await worlds.filled()
        tx = await worlds.hold()
        assert worlds.everything() == BEFORE
        assert worlds.prepared() == 1
        (held,) = await worlds.two.warehouse.transactions("held")
        assert (held.name, held.status, held.transaction_id) == ("order", "held", tx.transaction_id)
        for tag in SHARED:
            shown = await worlds.two.warehouse.find({"tag": tag, "entity": "things"})
            assert shown == [{"id": 1, "n": 10}]
        with pytest.raises(InvalidOperation, match="held under the name 'order'"):
            _ = tx.result
        world = getattr(worlds, who)
        result = await getattr(world.warehouse, end)("order")
        assert result.status == ("completed" if end == "commit" else "compensated")
        assert statuses(result) == ("c" if end == "commit" else "u") * 6
        assert worlds.everything() == (AFTER if end == "commit" else BEFORE)
        await worlds.nothing_left()
        with pytest.raises(AlreadyFinished):
            await worlds.one.warehouse.commit("order")
        assert (await world.warehouse.wait(tx.transaction_id)).status == result.status
        if end == "commit":
            assert (await world.warehouse.undo(tx.transaction_id)).ok
            assert worlds.everything() == BEFORE


async def test_its_records_are_locked_and_nothing_else():
    async with Worlds() as worlds:
        await worlds.filled()
        for tag in SHARED:
            await worlds.one.fill(tag, {"id": 3, "n": 0})
        await worlds.hold()
        for tag in SHARED:
            result = await worlds.two.run(update(tag, 1, {"n": 99}), lock_timeout=0.2)
            assert result.status == "compensated"
            assert (await worlds.two.run(update(tag, 3, {"n": 99}))).ok
        assert (await worlds.one.warehouse.commit("order")).ok
        assert (await worlds.two.run(update("h", 1, {"n": 99}))).ok


async def test_c16_the_locks_are_durable_before_anything_is_rolled_back():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        calls = [
            call for call in worlds.one.faults.calls if call in {"h.rollback", "journal.decide", "a.prepare"}
        ]
        assert calls == ["a.prepare", "journal.decide", "h.rollback"]


async def test_exactly_one_of_many_ends_it():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        finishers = [
            worlds.one.warehouse.commit("order"),
            worlds.two.warehouse.rollback("order"),
            worlds.two.warehouse.commit("order"),
            worlds.one.warehouse.rollback("order"),
        ]
        results = await asyncio.gather(*finishers, return_exceptions=True)
        (winner,) = [result for result in results if not isinstance(result, Exception)]
        assert sum(isinstance(result, AlreadyFinished) for result in results) == 3
        assert worlds.everything() == (AFTER if winner.ok else BEFORE)
        await worlds.nothing_left()


async def test_what_is_held_too_long_is_rolled_back():
    async with Worlds() as worlds:
        await worlds.filled()
        tx = await worlds.hold(expires_in=0.3)
        assert await worlds.two.warehouse.recover() == []
        assert worlds.prepared() == 1
        await asyncio.sleep(0.35)
        (found,) = await worlds.two.warehouse.recover()
        assert (found.transaction_id, found.status) == (tx.transaction_id, "compensated")
        assert worlds.everything() == BEFORE
        with pytest.raises(TransactionExpired):
            await worlds.one.warehouse.commit("order")
        await worlds.nothing_left()


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_who_comes_too_late_rolls_it_back(end):
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold(expires_in=0.05)
        await asyncio.sleep(0.1)
        with pytest.raises(TransactionExpired):
            await getattr(worlds.two.warehouse, end)("order")
        assert worlds.everything() == BEFORE
        await worlds.nothing_left()


async def test_an_owner_that_closes_or_dies_leaves_it_held():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        assert await worlds.one.warehouse.recover() == []
        await worlds.one.warehouse.close()
        await asyncio.sleep(0.2)
        assert await worlds.two.warehouse.recover() == []
        for world in (worlds.one, worlds.two):  # to look at what is prepared costs no durable write
            assert "journal.settle" not in world.faults.calls
        assert (await worlds.two.warehouse.commit("order")).ok
        assert worlds.everything() == AFTER


@pytest.mark.parametrize("tag", ["p", "h"])
async def test_a_foreign_write_meanwhile_survives_and_all_is_given_up(tag):
    """Nothing of it was ever written, which is known: so there is no residue."""
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        await worlds.one.foreign(tag, 1, {"n": 50})
        with pytest.raises(TransactionCompensated):
            await worlds.one.warehouse.commit("order")
        assert worlds.everything() == {**BEFORE, tag: {1: {"n": 50}}}
        await worlds.nothing_left()


async def test_a_foreign_write_to_another_field_is_no_conflict():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        for tag in "hp":
            await worlds.one.foreign(tag, 1, {"other": 5})
        assert (await worlds.one.warehouse.commit("order")).ok
        assert worlds.one.rows("h")[1] == worlds.one.rows("p")[1] == {"n": 11, "other": 5}


async def test_a_name_is_held_once():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        with pytest.raises(InvalidOperation, match="a transaction is held under the name 'order'"):
            async with worlds.two.warehouse.begin("order", hold=True):
                raise AssertionError
        await worlds.one.warehouse.rollback("order")
        await worlds.hold()
        assert (await worlds.one.warehouse.commit("order")).ok


async def test_of_two_that_take_a_name_at_once_one_gets_it():
    async with Worlds() as worlds:
        late = worlds.one.warehouse.begin("order", hold=True)
        await late.__aenter__()
        await late.insert(None, "a", "things", {"id": 7})
        async with worlds.two.warehouse.begin("order", hold=True) as other:
            await other.insert(None, "a", "things", {"id": 8})
        with pytest.raises(InvalidOperation, match="is held under the name"):
            await late.__aexit__(None, None, None)
        assert late.result.status == "compensated"
        await worlds.two.warehouse.commit("order")
        assert worlds.one.rows("a") == {8: {}}
        await worlds.nothing_left()


@pytest.mark.parametrize("name", [None, "", "a b", "x" * 121, "a;DROP TABLE b", "ä"])
async def test_names_are_checked(name):
    async with World() as world:
        with pytest.raises(InvalidOperation):
            world.warehouse.begin(name, hold=True)
        if name is not None:
            with pytest.raises(InvalidOperation):
                await world.warehouse.commit(name)


async def test_mistakes():
    async with World() as world:
        with pytest.raises(UnknownTransaction):
            await world.warehouse.commit("nobody")
        for options in (
            {"pattern": "saga", "hold": True},
            {"expires_in": 5},
            {"hold": True, "expires_in": 0},
        ):
            with pytest.raises(InvalidOperation):
                world.warehouse.begin("order", **options)


async def test_an_exception_in_the_block_holds_nothing():
    async with Worlds() as worlds:
        with pytest.raises(RuntimeError):
            async with worlds.one.warehouse.begin("order", hold=True) as tx:
                await tx.insert(None, "a", "things", {"id": 7})
                raise RuntimeError
        assert tx.result.status == "compensated"
        await worlds.nothing_left()
        with pytest.raises(UnknownTransaction):
            await worlds.one.warehouse.commit("order")


async def test_an_empty_block_can_be_held():
    async with World() as world:
        async with world.warehouse.begin("nothing", hold=True):
            pass
        assert (await world.warehouse.commit("nothing")).ok


async def test_a_vote_against_holds_nothing():
    async with Worlds() as worlds:
        await worlds.filled()
        worlds.one.faults.fail("a.prepare", ConstraintViolated("no", constraint="c"))
        with pytest.raises(TransactionCompensated):
            await worlds.hold()
        assert worlds.everything() == BEFORE
        await worlds.nothing_left()


@pytest.mark.parametrize("error", [JournalUnavailable("away"), TransactionConflict("taken")])
async def test_a_journal_that_does_not_take_it_holds_nothing(error):
    async with Worlds() as worlds:
        await worlds.filled()
        worlds.one.faults.fail("journal.decide", error)
        with pytest.raises(type(error)):
            await worlds.hold()
        assert worlds.everything() == BEFORE
        await worlds.nothing_left()


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_lost_reply_of_the_journal_is_settled(arrived):
    async with Worlds() as worlds:
        await worlds.filled()
        (worlds.one.faults.lose if arrived else worlds.one.faults.fail)(
            "journal.decide", ReplyLost("no reply")
        )
        if arrived:
            await worlds.hold()
            assert (await worlds.two.warehouse.commit("order")).ok
        else:
            with pytest.raises(JournalUnavailable):
                await worlds.hold()
        assert worlds.everything() == (AFTER if arrived else BEFORE)
        await worlds.nothing_left()


async def test_a_store_that_is_away_before_the_end_changes_nothing():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        worlds.two.faults.fail("h.connect", StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            await worlds.two.warehouse.commit("order")
        (held,) = await worlds.one.warehouse.transactions("held")
        assert held.name == "order"
        assert (await worlds.two.warehouse.commit("order")).ok
        assert worlds.everything() == AFTER


async def test_a_store_that_goes_away_in_the_middle_is_ended_by_recovery():
    async with Worlds(grace=0.2) as worlds:
        await worlds.filled()
        await worlds.hold()
        worlds.one.faults.fail("h.commit", StoreUnavailable("away"), times=None)
        with pytest.raises(OutcomeUnknown):
            await worlds.one.warehouse.commit("order")
        assert worlds.prepared() == 1
        worlds.one.faults.clear()
        (found,) = await worlds.one.warehouse.recover()
        assert found.status == "completed"
        assert worlds.everything() == AFTER
        await worlds.nothing_left()


@pytest.mark.parametrize("call", ["p.write", "h.unit", "h.write", "h.commit", "a.finish", "journal.finish"])
async def test_a_finisher_that_dies_at_any_point_is_followed_by_another(call):
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        paused, _ = pause(worlds.one, call)
        committing = asyncio.ensure_future(worlds.one.warehouse.commit("order"))
        await paused.wait()
        lease = worlds.one.warehouse._engine.lease
        lease._beating.cancel()
        lease._renewed = -1000.0
        with pytest.raises(AlreadyFinished):
            await worlds.two.warehouse.commit("order")
        for task in worlds.one.warehouse._engine.running:
            task.cancel()  # dead: its connections are cut
        worlds.one.stores["h"]._store.space.locks._owners.clear()
        (found,) = await worlds.two.warehouse.recover()
        assert found.status == "completed"
        assert worlds.everything() == AFTER
        await worlds.nothing_left()
        committing.cancel()


async def test_a_lost_reply_at_the_end_is_told_by_wait():
    async with Worlds() as worlds:
        await worlds.filled()
        tx = await worlds.hold()
        worlds.one.faults.lose("journal.take_over", ReplyLost("no reply"))
        with pytest.raises(OutcomeUnknown) as caught:
            await worlds.one.warehouse.commit("order")
        assert caught.value.transaction_id == tx.transaction_id
        (found,) = await worlds.one.warehouse.recover()
        assert found.status == "completed"
        assert (await worlds.two.warehouse.wait(tx.transaction_id)).ok
        assert worlds.everything() == AFTER


async def test_a_write_that_gets_no_reply_is_looked_up():
    async with Worlds() as worlds:
        await worlds.filled()
        await worlds.hold()
        worlds.one.faults.lose("p.write", StoreOutcomeUnknown("no reply"))
        assert (await worlds.one.warehouse.commit("order")).ok
        assert worlds.everything() == AFTER


async def test_an_idempotency_key_of_what_is_held():
    async with Worlds() as worlds:
        async with worlds.one.warehouse.begin("order", hold=True, idempotency_key="k") as tx:
            await tx.insert(None, "a", "things", {"id": 7})
        with pytest.raises(AlreadyFinished):
            async with worlds.one.warehouse.begin(idempotency_key="k"):
                raise AssertionError
        await worlds.one.warehouse.rollback("order")
        async with worlds.one.warehouse.begin("order", hold=True, idempotency_key="k") as tx:
            await tx.insert(None, "a", "things", {"id": 7})
        await worlds.one.warehouse.commit("order")
        with pytest.raises(AlreadyFinished):
            async with worlds.one.warehouse.begin(idempotency_key="k"):
                raise AssertionError


async def test_the_owner_is_quick():
    """The settle time of a store is not waited for where nothing can be on its way."""
    async with Worlds() as worlds:
        await worlds.filled()
        worlds.one.faults.declare("p", settle=5.0)
        await worlds.hold()
        began = time.monotonic()
        assert (await worlds.one.warehouse.commit("order")).ok
        assert time.monotonic() - began < 4
