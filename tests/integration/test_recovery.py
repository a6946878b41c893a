"""Recovery in one process: who is dead, what is asked, what waits, and owners that wake up too late."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing

import pytest

from integration.memory_world import World, insert, statuses, update
from warehouse import AsyncWarehouse, OutcomeUnknown, UnknownTransaction
from warehouse.adapter import Outcome
from warehouse.engine.watch import Watch
from warehouse.errors import (
    ConstraintViolated,
    JournalUnavailable,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownEntity,
)
from warehouse.journal.base import Heartbeat, ReplyLost

pytestmark = pytest.mark.anyio


def shared(name, **more):
    return {"adapter": "memory", "options": {"shared": name}, **more}


class Two:
    """Warehouses on the same stores and the same journal: the `owner`, the `other` that recovers, and a `third`."""

    def __init__(self, stores="ap", **transactions):
        token = os.urandom(4).hex()
        config = {tag: shared(f"{token}-{tag}", transactions=tag in "ab") for tag in stores}
        self.worlds = [World(config, grace=0.3, **transactions) for _ in range(3)]
        self.owner, self.other, self.third = self.worlds
        for world in self.worlds:
            world.warehouse._journal.inner = world.journal = self.owner.journal
            world.warehouse._engine.lease.seconds = 0.1

    async def __aenter__(self):
        for world in self.worlds[:2]:
            await world.warehouse.open()
        return self

    async def __aexit__(self, *_):
        for task in list(self.owner.warehouse._engine.running):
            task.cancel()  # the dead never come back
        for world in self.worlds:
            await world.warehouse.close()

    async def die(self, who=None):
        """Let the owner's heartbeat (or that of somebody else) stop for good."""
        lease = (who or self.owner).warehouse._engine.lease
        lease._beating.cancel()
        lease._renewed = -1000.0

    async def lose(self):
        """The owner is taken for dead, and its transaction undone."""
        await self.die()
        assert await self.recover() == [("compensated", None)]

    async def recover(self, who=None):
        return [(item.status, item.error) for item in await (who or self.other).warehouse.recover()]


def pause(world, call):
    """Let a call wait before it is made: an event that it has come so far, and one that lets it go on."""
    paused, go = asyncio.Event(), asyncio.Event()

    async def wait():
        paused.set()
        await go.wait()

    world.faults.before(call, wait)
    return paused, go


# Who is dead


def test_a_watch_believes_in_death_after_one_lease_without_a_heartbeat():
    watch = Watch()
    assert watch.is_dead("nobody")
    watch.look({"a": Heartbeat(1, 0.05), "b": Heartbeat(7, 0.05)})
    assert not watch.is_dead("a")
    assert not watch.is_judged("a")
    time.sleep(0.06)
    watch.look({"a": Heartbeat(1, 0.05), "b": Heartbeat(8, 0.05)})
    assert (watch.is_dead("a"), watch.is_judged("a")) == (True, True)
    assert (watch.is_dead("b"), watch.is_judged("b")) == (False, True)
    watch.look({"a": Heartbeat(2, 0.05)})
    assert not watch.is_dead("a")
    assert watch.is_dead("b")


def test_a_watch_judges_alike_until_it_looks_again():
    watch = Watch()
    watch.look({"a": Heartbeat(1, 0.05)})
    time.sleep(0.06)
    assert not watch.is_dead("a")  # else recovery would find nothing to do, and then nobody to wait for
    assert not watch.is_judged("a")


async def test_the_living_are_left_alone():
    async with Two() as two:
        paused, release = pause(two.owner, "a.commit")
        running = asyncio.ensure_future(two.owner.run(insert("a", {"id": 1}), insert("p", {"id": 1})))
        await paused.wait()
        assert await two.recover() == []
        assert two.owner.rows("p") == {1: {}}
        release.set()
        assert (await running).ok
        assert await two.recover() == []


async def test_the_dead_are_taken_over_forward_and_told_by_wait():
    async with Two() as two:
        two.owner.faults.fail("p.write", StoreOutcomeUnknown("no reply"), times=None)
        two.owner.faults.fail("p.read", StoreUnavailable("away"), times=None)
        with pytest.raises(OutcomeUnknown) as caught:
            await two.owner.run(insert("a", {"id": 1}), insert("p", {"id": 1, "n": 5}), name="orders")
        with pytest.raises(OutcomeUnknown):
            await two.other.warehouse.wait(caught.value.transaction_id, timeout=0.05)
        await two.die()
        waiting = asyncio.ensure_future(two.other.warehouse.wait(caught.value.transaction_id))
        assert await two.recover() == [("completed", None)]
        assert two.owner.everything() == {"a": {1: {}}, "p": {1: {"n": 5}}}
        assert await two.other.leftovers() == []
        result = await waiting
        assert (result.status, result.name, statuses(result)) == ("completed", "orders", "cc")
        assert result.step_results["step_1"].data == [{"id": 1, "n": 5}]


@pytest.mark.parametrize(
    "error", [RuntimeError("a mistake"), UnknownEntity("dropped")], ids=["bug", "dropped"]
)
async def test_what_cannot_be_ended_keeps_no_other_from_its_end(error):
    async with Two("apq") as two:
        two.owner.faults.fail("journal.finish", JournalUnavailable("full"), times=None)
        for tag in "pq":
            with pytest.raises(OutcomeUnknown):
                await two.owner.run(insert("a", {"id": tag}), insert(tag, {"id": 1}))
        await two.die()
        two.other.faults.fail("p.describe", error, times=None)
        found = await two.recover()
        assert sorted(status or "" for status, _ in found) == ["", "completed"]
        assert any(message and str(error) in message for _, message in found)
        two.other.faults.clear()
        assert await two.recover() == [("completed", None)]
        assert await two.other.leftovers() == []


async def test_an_owner_that_closes_leaves_what_is_open_to_be_taken_over_at_once():
    async with Two() as two:
        two.owner.faults.fail("journal.finish", JournalUnavailable("full"), times=None)
        with pytest.raises(OutcomeUnknown):
            await two.owner.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        two.owner.warehouse._engine.lease.seconds = 1000
        await two.owner.warehouse.close()
        began = time.monotonic()
        assert await two.recover() == [("completed", None)]
        assert time.monotonic() - began < 5


async def test_an_owner_that_comes_back_tells_no_residue_of_what_others_undid_for_it():
    """What it committed in time was undone by whoever took over; and since then somebody has changed the record."""
    async with Two("ab") as two:
        await two.owner.fill("a", {"id": 1, "n": 5})
        paused, go = pause(two.owner, "b.execute")
        running = asyncio.ensure_future(
            two.owner.run(update("a", 1, {"n": 6}), insert("b", {"id": 1}), pattern="saga")
        )
        await asyncio.wait_for(paused.wait(), 5)
        await two.die()
        assert await two.recover() == [("compensated", None)]
        await two.other.foreign("a", 1, {"n": 9})
        go.set()
        result = await running
        assert (result.status, result.residue) == ("compensated", [])
        assert two.owner.everything() == {"a": {1: {"n": 9}}, "b": {}}


@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_an_owner_that_lost_its_only_step_is_told_how_it_ended(pattern):
    """Others took it over, and undid it, between its decision and its first effect."""
    async with Two("ap") as two:

        async def lose():
            await two.die()
            assert [status for status, _ in await two.recover()] in (["compensated"], ["completed"])

        two.owner.faults.after("journal.decide", lose)
        step = insert("p", {"id": 1})
        result = await two.owner.run(step, **({"pattern": "saga"} if pattern == "saga" else {}))
        assert result.status == {"saga": "compensated", "staged": "completed"}[pattern]
        assert result.residue == []
        assert two.owner.rows("p") == ({} if pattern == "saga" else {1: {}})


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("forward", [False, True])
async def test_who_recovers_too_late_takes_back_what_it_made_again(forward, away):
    """Between its check and its write a third one took over, and ended it: backward, where q is another meanwhile."""
    async with Two("pq") as two:
        await two.owner.fill("q", {"id": 1, "n": 5})
        await two.owner.fill("p", {"id": 1, "n": 5})
        paused, _ = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("p", 1, {"n": 6}), update("q", 1, {"n": 6})))
        await asyncio.wait_for(paused.wait(), 5)
        await two.die()
        running.cancel()

        async def overtake():
            await two.die(two.other)
            if not forward:
                await two.other.foreign("q", 1, {"n": 9})
            await two.third.warehouse.open()
            ended.extend(await two.recover(two.third))

        ended = []
        two.other.faults.before("p.write", overtake)
        if away:  # the journal, for a moment, just after the write
            two.other.faults.fail("journal.is_mine", JournalUnavailable("restarting"), nth=2)
        await two.recover()
        assert ended == [("completed" if forward else "failed", None)]
        assert two.owner.everything() == (
            {"p": {1: {"n": 6}}, "q": {1: {"n": 6}}} if forward else {"p": {1: {"n": 5}}, "q": {1: {"n": 9}}}
        )


async def test_a_late_owner_takes_nothing_back_of_a_record_that_others_have_written_since():
    """One field is as it left it by chance: another transaction has made the same number of it."""
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5, "last": "nobody"})

        async def lose():
            await two.die()
            assert await two.recover() == [("compensated", None)]
            await two.other.foreign("p", 1, {"n": 6, "last": "other"})

        two.owner.faults.after("p.write", lose)
        change = update("p", 1, {"n": {"$increment": 1}, "last": "mine"})
        await two.owner.run(change, insert("a", {"id": 1}), pattern="saga")
        assert two.owner.everything() == {"a": {}, "p": {1: {"n": 6, "last": "other"}}}


async def test_a_late_owner_of_a_saga_takes_back_what_it_made_before_it_goes_on():
    """The longer it waits, the more others build on a write that came when all was over."""
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5})

        two.owner.faults.before("p.write", two.lose)
        result = await two.owner.run(update("p", 1, {"n": 6}), insert("a", {"id": 1}), pattern="saga")
        assert (result.status, result.residue) == ("compensated", [])
        assert two.owner.everything() == {"a": {}, "p": {1: {"n": 5}}}
        assert "a.execute" not in two.owner.faults.calls


async def test_a_late_owner_takes_nothing_back_of_a_store_with_transactions():
    """Whoever took over waited for its commit, and undid it: the same number there is somebody else's by now."""
    async with Two("ab") as two:
        await two.owner.fill("a", {"id": 1, "n": 5})

        async def lose():
            await two.lose()
            assert two.owner.rows("a") == {1: {"n": 5}}
            await two.other.foreign("a", 1, {"n": 6})

        two.owner.faults.after("a.commit", lose)
        result = await two.owner.run(update("a", 1, {"n": 6}), insert("b", {"id": 1}), pattern="saga")
        assert (result.status, result.residue) == ("compensated", [])
        assert two.owner.everything() == {"a": {1: {"n": 6}}, "b": {}}


@pytest.mark.parametrize("ended", [True, False])
async def test_a_late_owner_leaves_the_same_change_that_somebody_else_has_made_since(ended):
    """As a caller does that gets no answer, and calls again."""
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5})
        steps = update("p", 1, {"n": 6}), insert("a", {"id": 1})
        twins = []

        async def lose():
            await two.lose()
            await two.third.warehouse.open()
            made, go_on = pause(two.third, "a.commit") if not ended else (None, None)
            twins.append((asyncio.ensure_future(two.third.run(*steps, pattern="saga")), go_on))
            await asyncio.wait_for(twins[0][0] if ended else made.wait(), 5)

        two.owner.faults.after("p.write", lose)
        result = await two.owner.run(*steps, pattern="saga")
        assert (result.status, result.residue) == ("compensated", [])
        assert two.owner.rows("p") == {1: {"n": 6}}
        ((twin, go_on),) = twins
        if not ended:
            go_on.set()
        assert (await twin).status == "completed"
        assert two.owner.everything() == {"a": {1: {}}, "p": {1: {"n": 6}}}


@pytest.mark.parametrize("kind", ["before", "another field", "undone"])
async def test_a_late_owner_takes_back_what_nobody_else_has_made_since(kind):
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5, "m": 5})
        twin = update("p", 1, {"n": 6})
        if kind == "before":
            assert (await two.other.run(twin)).status == "completed"
            assert (await two.other.run(update("p", 1, {"n": 5}))).status == "completed"

        async def lose():
            await two.lose()
            await two.third.warehouse.open()
            if kind == "another field":
                assert (await two.third.run(update("p", 1, {"m": 6}), pattern="saga")).status == "completed"
            elif kind == "undone":
                two.third.faults.fail("a.execute", ConstraintViolated("no"))
                await two.third.run(twin, insert("a", {"id": 1}), pattern="saga")

        two.owner.faults.before("p.write", lose)
        result = await two.owner.run(twin, insert("a", {"id": 1}), pattern="saga")
        assert (result.status, result.residue) == ("compensated", [])
        assert two.owner.everything() == {
            "a": {},
            "p": {1: {"n": 5, "m": 6 if kind == "another field" else 5}},
        }


async def test_what_came_too_late_and_was_changed_since_is_logged(caplog):
    async with Two("pq") as two:
        await two.owner.fill("p", {"id": 1, "n": 5})
        await two.owner.fill("q", {"id": 1, "n": 5})
        paused, _ = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("p", 1, {"n": 6}), update("q", 1, {"n": 6})))
        await asyncio.wait_for(paused.wait(), 5)
        await two.die()
        running.cancel()

        async def overtake():
            await two.die(two.other)
            await two.other.foreign("q", 1, {"n": 9})
            await two.third.warehouse.open()
            await two.recover(two.third)

        async def meddle():
            await two.other.foreign("p", 1, {"n": 7})

        two.other.faults.before("p.write", overtake)
        two.other.faults.after("p.write", meddle)
        await two.recover()
        assert two.owner.everything() == {"p": {1: {"n": 7}}, "q": {1: {"n": 9}}}
        assert "too late" in caplog.text


async def test_a_late_owner_does_not_wait_for_the_end_to_take_back_what_it_made():
    """Whoever took over has looked, found nothing made, and takes longer than the owner waits."""
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5})
        paused, go = pause(two.other, "p.commit")
        recovering = []

        async def lose():
            await two.die()
            recovering.append(asyncio.ensure_future(two.recover()))
            await asyncio.wait_for(paused.wait(), 5)

        two.owner.faults.before("p.write", lose)
        with pytest.raises(OutcomeUnknown):
            await two.owner.run(update("p", 1, {"n": 6}), insert("a", {"id": 1}), pattern="saga")
        go.set()
        assert await recovering[0] == [("compensated", None)]
        assert two.owner.everything() == {"a": {}, "p": {1: {"n": 5}}}


@pytest.mark.parametrize("taken", [True, False])
async def test_an_owner_that_gets_no_reply_to_its_take_over_looks_who_has_it(taken):
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5})

        async def lose():
            await two.die()
            if taken:
                assert await two.recover() == [("compensated", None)]

        two.owner.faults.before("p.write", lose)
        two.owner.faults.lose("journal.take_over", ReplyLost("no reply"))
        result = await two.owner.run(update("p", 1, {"n": 6}), insert("a", {"id": 1}), pattern="saga")
        assert (result.status, result.residue) == ("compensated" if taken else "completed", [])
        assert two.owner.everything() == (
            {"a": {}, "p": {1: {"n": 5}}} if taken else {"a": {1: {}}, "p": {1: {"n": 6}}}
        )


@pytest.mark.parametrize("call", ["beat", "take_over"])
@pytest.mark.parametrize("error", [JournalUnavailable("restarting"), ReplyLost("no reply")])
async def test_a_late_owner_asks_a_journal_that_is_away_again(call, error):
    async with Two("ap") as two:
        await two.owner.fill("p", {"id": 1, "n": 5})

        async def lose():
            await two.lose()
            two.owner.faults.fail(f"journal.{call}", error)

        two.owner.faults.before("p.write", lose)
        result = await two.owner.run(update("p", 1, {"n": 6}), insert("a", {"id": 1}), pattern="saga")
        assert (result.status, result.residue) == ("compensated", [])
        assert two.owner.everything() == {"a": {}, "p": {1: {"n": 5}}}


async def test_a_take_over_that_may_still_arrive_leaves_the_outcome_unknown():
    async with Two("ap") as two:
        two.owner.faults.before("p.write", two.die)
        two.owner.faults.fail("journal.take_over", ReplyLost("no reply"), times=None)
        with pytest.raises(OutcomeUnknown):
            await two.owner.run(insert("p", {"id": 1}), insert("a", {"id": 1}), pattern="saga")


async def test_a_late_owner_takes_back_what_it_made_of_a_step_that_failed():
    """It was paused before its first write, and its second one is refused."""
    async with Two("p") as two:
        await two.owner.fill("p", {"id": 1, "n": 5}, {"id": 2, "n": 5})

        async def refuse():
            raise ConstraintViolated("no")

        two.owner.faults.before("p.write", two.lose)
        two.owner.faults.before("p.write", refuse, nth=2)
        result = await two.owner.run(
            update("p", {"id": {"$in": [1, 2]}}, {"n": {"$increment": 1}}), pattern="saga"
        )
        assert result.status == "compensated"
        assert two.owner.rows("p") == {1: {"n": 5}, 2: {"n": 5}}


async def test_recover_waits_for_what_its_own_warehouse_is_ending_already():
    async with Two() as two:
        two.owner.faults.fail("journal.finish", JournalUnavailable("full"), times=None)
        with pytest.raises(OutcomeUnknown):
            await two.owner.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        await two.die()
        two.owner.faults.clear()
        paused, go = pause(two.other, "journal.finish")
        background = asyncio.ensure_future(two.other.warehouse._recovery.run())
        await asyncio.wait_for(paused.wait(), 5)
        recovering = asyncio.ensure_future(two.recover())
        await asyncio.sleep(0.3)
        assert not recovering.done()
        go.set()
        assert await recovering == [("completed", None)]
        background.cancel()
        assert await two.other.leftovers() == []


async def test_a_warehouse_recovers_its_own_lost_ends():
    async with World(grace=0.3) as world:
        world.faults.fail("journal.finish", JournalUnavailable("full"))
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        assert await world.leftovers() != []
        (found,) = await world.warehouse.recover()
        assert found.transaction_id == caught.value.transaction_id
        assert (await world.warehouse.wait(found.transaction_id)).ok
        assert await world.leftovers() == []


async def test_wait_knows_only_what_was_journaled():
    async with World() as world:
        with pytest.raises(UnknownTransaction, match="nobody"):
            await world.warehouse.wait("nobody")


# What recovery finds


async def crash(two, *operations, at, **options):
    """Let the owner die at a call: it never comes back from it."""
    reached = asyncio.Event()

    async def never():
        reached.set()
        await asyncio.Event().wait()

    two.owner.faults.after(at, never)
    two.task = asyncio.ensure_future(two.owner.run(*operations, **options))
    two.task.add_done_callback(lambda task: task.cancelled() or task.exception())
    await reached.wait()
    await two.die()


async def test_what_somebody_else_wrote_since_stays_and_is_named():
    async with Two("pq") as two:
        await two.owner.fill("p", {"id": 1, "n": 1, "m": 0})
        await crash(two, update("p", 1, {"n": 2}), insert("q", {"id": 1}), at="p.write")
        await two.owner.foreign("p", 1, {"n": 77, "m": 5})
        assert await two.recover() == [("failed", None)]
        assert two.owner.everything() == {"p": {1: {"n": 77, "m": 5}}, "q": {}}
        (entry,) = await two.other.journal.entries(["failed"])
        (residue,) = entry.detail["residue"]
        assert (residue["field"], residue["expected"], residue["found"]) == ("n", 2, 77)


async def test_a_store_that_is_away_delays_only_what_needs_it():
    async with Two("abpq") as two:
        await crash(two, insert("p", {"id": 1}), insert("q", {"id": 1}), at="journal.decide")
        two.owner.faults.clear()
        two.other.faults.fail("q.write", StoreUnavailable("away"), times=None)
        two.other.faults.fail("q.read", StoreUnavailable("away"), times=None)
        ((status, error),) = await two.recover()
        assert status is None
        assert "away" in error
        two.other.faults.clear()
        assert await two.recover() == [("completed", None)]
        assert two.owner.rows("p") == two.owner.rows("q") == {1: {}}


async def test_a_store_that_still_has_it_open_is_waited_for():
    async with Two("ab") as two:
        two.other.faults.declare("a", asks=True)
        answers = [Outcome.OPEN, Outcome.ROLLED_BACK]
        await crash(two, insert("a", {"id": 1}), insert("b", {"id": 1}), at="journal.decide")
        (entry,) = await two.other.journal.entries()
        entry.tokens[entry.steps[0].store] = "42"

        async def outcome(token):
            assert token == "42"
            return answers.pop(0)

        two.other.stores["a"].outcome = outcome
        ((status, error),) = await two.recover()
        assert (status, "open" in error) == (None, True)
        # With its process go the locks that it had in the stores.
        two.owner.stores["a"]._store.space.locks._owners.clear()
        two.owner.stores["b"]._store.space.locks._owners.clear()
        assert await two.recover() == [("completed", None)]
        assert two.owner.everything() == {"a": {1: {}}, "b": {1: {}}}


# Owners that wake up too late


async def test_an_owner_that_was_paused_before_it_applied_applies_nothing():
    async with Two("pq") as two:
        await two.owner.fill("p", {"id": 1, "n": 1})
        go = asyncio.Event()
        two.owner.faults.after("journal.decide", go.wait)
        running = asyncio.ensure_future(two.owner.run(update("p", 1, {"n": 2}), insert("q", {"id": 1})))
        await asyncio.sleep(0.05)
        await two.die()
        assert await two.recover() == [("completed", None)]
        await two.owner.foreign("p", 1, {"n": 1})
        go.set()
        assert (await running).status == "completed"
        assert two.owner.rows("p") == {1: {"n": 1}}  # it was not written a second time
        assert "p.write" not in two.owner.faults.calls


async def test_an_owner_that_finds_itself_superseded_backward_takes_back_what_it_wrote_too_late():
    async with Two("pq") as two:
        await two.owner.fill("p", {"id": 1, "n": 1})
        paused, go = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("p", 1, {"n": 2}), insert("q", {"id": 1})))
        await paused.wait()
        await two.die()
        two.other.faults.fail("q.write", ConstraintViolated("no", constraint="c"))
        assert await two.recover() == [("compensated", None)]
        assert two.owner.rows("p") == {1: {"n": 1}}
        go.set()
        result = await running
        assert (result.status, two.owner.everything()) == ("compensated", {"p": {1: {"n": 1}}, "q": {}})
        assert "taken over" in result.error


async def test_a_lease_that_ran_out_unnoticed_is_taken_up_again():
    async with Two("pq") as two:

        async def late():
            two.owner.warehouse._engine.lease._renewed = -1000.0

        two.owner.faults.after("journal.decide", late)
        result = await two.owner.run(insert("p", {"id": 1}), insert("q", {"id": 1}))
        assert result.ok
        (entry,) = await two.owner.journal.entries()
        assert entry.epoch == 2


async def test_a_saga_that_was_taken_over_ends_as_its_heir_ended_it():
    async with Two("ab") as two:
        paused, go = pause(two.owner, "b.execute")
        running = asyncio.ensure_future(
            two.owner.run(insert("a", {"id": 1}), insert("b", {"id": 1}), pattern="saga")
        )
        await paused.wait()
        await two.die()
        assert await two.recover() == [("compensated", None)]
        go.set()
        result = await running
        assert (result.status, two.owner.everything()) == ("compensated", {"a": {}, "b": {}})


async def test_a_finish_whose_reply_was_lost_is_looked_up():
    async with World() as world:
        world.faults.lose("journal.finish", ReplyLost("no reply"))
        assert (await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))).ok
        assert await world.leftovers() == []


PAUSED = """
    import asyncio, sys
    from warehouse import AsyncWarehouse
    from warehouse.testing.faults import inject

    async def main():
        warehouse = AsyncWarehouse.from_config({config!r})
        async def pause():
            print("paused", flush=True)
            sys.stdin.readline()  # SIGSTOP comes here, and lasts until it was taken over
        inject(warehouse).before("t.write", pause)
        async with warehouse:
            place = lambda tag: {{"tag": tag, "entity": "things"}}
            steps = [
                {{"operation": "insert", "from": place(tag), "data": {{"id": 1, "n": 1}}}} for tag in ("s", "t")
            ]
            result = await warehouse.transaction(steps)
            print(result.status, flush=True)

    asyncio.run(main())
"""


async def test_a_process_stopped_past_its_lease_commits_nothing_any_more(tmp_path):
    """SIGSTOP right before its commit; another process takes over and completes; it wakes up, and follows."""
    config = {
        "journal": {"url": f"sqlite:///{tmp_path}/journal.db", "lease": 0.5, "recover": "manual"},
        "adapters": {
            tag: {"adapter": "sql", "url": f"sqlite+aiosqlite:///{tmp_path}/{tag}.db"} for tag in "st"
        },
        "transactions": {"lock_timeout": 1, "grace": 5},
    }
    for tag in "st":
        with closing(sqlite3.connect(tmp_path / f"{tag}.db")) as connection, connection:
            connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, n INTEGER)")
    code = textwrap.dedent(PAUSED).format(config=config).replace("t.write", "t.commit")
    child = subprocess.Popen(  # noqa: ASYNC220 - it is stopped and woken by signals
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "paused\n"
        os.kill(child.pid, signal.SIGSTOP)
        async with AsyncWarehouse.from_config(config) as warehouse:
            first = await warehouse.recover()
            assert [item.status for item in first] == [None], first  # its store is still locked by it
            os.kill(child.pid, signal.SIGCONT)
            child.stdin.write("go\n")
            child.stdin.flush()
            assert child.stdout.readline() in {"completed\n", "compensated\n", ""}
            await warehouse.recover()
            rows = []
            for tag in "st":
                with closing(sqlite3.connect(tmp_path / f"{tag}.db")) as connection:
                    rows.append(connection.execute("SELECT * FROM things").fetchall())
            assert rows in ([[(1, 1)], [(1, 1)]], [[], []])
    finally:
        child.kill()
        child.communicate()
