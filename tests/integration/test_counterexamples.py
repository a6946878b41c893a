"""The counterexamples to earlier drafts of the protocol, by their numbers, against the engine as it is.

Those about other parts stand there: C2, C8 and C17 in the journal's tests, too; C12 with the sagas, C13 and C22 with
two-phase commit, C14 and C20 with `find`, C16 with what is held, C19 with the idempotency keys.
"""

import asyncio
import time

import pytest

from integration.memory_world import World, insert, statuses, update
from integration.test_recovery import Two, pause
from warehouse import ConstraintViolated, JournalUnavailable, OutcomeUnknown, StoreError
from warehouse.adapter import Outcome
from warehouse.errors import StoreOutcomeUnknown
from warehouse.journal.base import ReplyLost

pytestmark = pytest.mark.anyio
PLUS_ONE = {"n": {"$increment": 1}}


async def filled(world, tags):
    for tag in tags:
        await world.fill(tag, {"id": 1, "n": 0})
    return world


def number(world, tag):
    return world.rows(tag)[1]["n"]


async def test_c01_a_write_that_arrives_after_its_reply_was_given_up():
    """The owner reads its record only when the write can no longer arrive."""
    async with World() as world:
        await filled(world, "ap")
        world.faults.declare("p", settle=0.3)
        late = []

        async def arrive():
            await asyncio.sleep(0.15)
            await world.foreign("p", 1, {"n": 1})

        async def send():
            late.append(asyncio.ensure_future(arrive()))
            raise StoreOutcomeUnknown("no reply")

        world.faults.before("p.write", send)
        result = await world.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE))
        await late[0]
        assert (result.status, number(world, "a"), number(world, "p")) == ("completed", 1, 1)
        assert await world.leftovers() == []


async def test_c02_a_decision_that_arrives_after_it_was_given_up(monkeypatch):
    """The tombstone is there first: what the caller was told stays true."""
    async with World() as world:
        await filled(world, "ap")
        decide, sent = world.journal.decide, []

        async def lose(entry, since, **_):
            sent.append((entry, since))
            raise ReplyLost("no reply")

        monkeypatch.setattr(world.journal, "decide", lose)
        with pytest.raises(JournalUnavailable):
            await world.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE))
        with pytest.raises(JournalUnavailable):
            await decide(*sent[0])
        assert await world.warehouse.recover() == []
        assert (number(world, "a"), number(world, "p")) == (0, 0)


async def test_c03_nobody_is_told_completed_before_that_is_durable():
    async with World() as world:
        await filled(world, "ap")
        world.faults.fail("journal.finish", JournalUnavailable("away"))
        with pytest.raises(OutcomeUnknown):
            await world.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE))
        await world.foreign("p", 1, {"n": 101})
        (found,) = await world.warehouse.recover()
        assert (found.status, number(world, "a"), number(world, "p")) == ("completed", 1, 101)


async def test_c04_a_commit_on_its_way_is_waited_for():
    """Recovery reads the record under its lock, which the commit holds."""
    async with Two("ap", lock_timeout=0.2) as two:
        await filled(two.owner, "ap")
        paused, go_on = pause(two.owner, "a.commit")
        steps = [update("p", 1, PLUS_ONE), update("a", 1, PLUS_ONE)]
        running = asyncio.ensure_future(two.owner.run(*steps))
        await paused.wait()
        await two.die()
        await two.owner.foreign("p", 1, {"n": 101})
        ((status, _),) = await two.recover()
        assert status is None
        go_on.set()
        with pytest.raises(OutcomeUnknown):
            await running
        assert await two.recover() == [("completed", None)]
        assert (number(two.owner, "a"), number(two.owner, "p")) == (1, 101)


async def test_c04b_a_commit_on_its_way_is_waited_for_on_the_way_back_too():
    async with Two("ab", lock_timeout=0.2) as two:
        await filled(two.owner, "ab")
        two.owner.faults.fail("a.commit", StoreError("refused"))
        paused, go_on = pause(two.owner, "b.commit")
        running = asyncio.ensure_future(two.owner.run(update("a", 1, PLUS_ONE), update("b", 1, PLUS_ONE)))
        await paused.wait()
        await two.die()
        two.other.faults.fail("a.commit", ConstraintViolated("refused", constraint="c"))
        ((status, _),) = await two.recover()
        assert status is None
        go_on.set()
        with pytest.raises(OutcomeUnknown):
            await running
        ((status, _),) = await two.recover()
        assert status in {"completed", "compensated"}
        assert number(two.owner, "a") == number(two.owner, "b") == (1 if status == "completed" else 0)
        assert await two.other.leftovers() == []


async def test_c05_a_recoverer_that_was_paused_commits_nothing_any_more():
    """It looks whether the transaction is still its own while it holds the records."""
    async with Two("ap", lock_timeout=0.2) as two, World(grace=0.3) as third:
        for tag, store in two.owner.stores.items():
            third.stores[tag]._store = store._store
        third.warehouse._journal.inner = third.journal = two.owner.journal
        await filled(two.owner, "ap")
        steps = [update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE)]
        paused, _ = pause(two.owner, "p.write")
        dead = asyncio.ensure_future(two.owner.run(*steps))
        await paused.wait()
        await two.die()
        two.owner.stores["a"]._store.space.locks._owners.clear()  # its connection is cut
        stopped, go_on = pause(two.other, "a.write")
        recovering = asyncio.ensure_future(two.recover())
        await stopped.wait()
        two.owner.stores["a"]._store.space.locks._owners.clear()  # this one only seems to be
        lease = two.other.warehouse._engine.lease
        lease._beating.cancel()
        lease._renewed = -1000.0
        await two.owner.foreign("p", 1, {"n": 101})
        third.warehouse._recovery._lock_timeout = 0.2
        await third.warehouse.recover()
        (entry,) = await two.owner.journal.entries()
        assert entry.state in {"failed", "completed"}
        before = number(two.owner, "a")
        go_on.set()
        await recovering
        assert number(two.owner, "a") == before
        dead.cancel()


async def test_c06_a_write_that_passes_its_guard_too_late_is_taken_back():
    async with Two("pq") as two:
        await filled(two.owner, "pq")
        paused, go_on = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("p", 1, PLUS_ONE), update("q", 1, PLUS_ONE)))
        await paused.wait()
        await two.die()
        two.other.faults.fail("q.write", ConstraintViolated("refused", constraint="c"), times=None)
        assert await two.recover() == [("compensated", None)]
        assert number(two.owner, "p") == 0
        go_on.set()
        result = await running
        assert (result.status, number(two.owner, "p"), number(two.owner, "q")) == ("compensated", 0, 0)


async def test_c07_who_was_paused_before_the_look_at_its_lease_sends_nothing():
    """Paused after that look, in a store without a clock, its write may slip in: limit 1 of the README."""
    async with Two("pq") as two:
        await filled(two.owner, "pq")
        stopped, go_on = asyncio.Event(), asyncio.Event()

        async def stop():
            await two.die()
            stopped.set()
            await go_on.wait()

        two.owner.faults.after("journal.decide", stop)
        running = asyncio.ensure_future(two.owner.run(update("p", 1, PLUS_ONE), update("q", 1, PLUS_ONE)))
        await stopped.wait()
        assert await two.recover() == [("completed", None)]
        assert (await two.other.run(update("p", 1, {"n": {"$decrement": 1}}))).ok  # as it was before
        go_on.set()
        assert (await running).ok
        assert (number(two.owner, "p"), number(two.owner, "q")) == (0, 1)
        assert "p.write" not in two.owner.faults.calls


async def test_c09_what_was_never_applied_is_no_residue():
    async with World(lock_timeout=0.3) as world:
        await filled(world, "ap")
        count = iter(range(100, 10_000))

        async def foreign():
            await world.foreign("p", 1, {"n": next(count)})

        world.faults.before("p.write", foreign, times=None)
        result = await world.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE))
        assert (result.status, result.residue, number(world, "a")) == ("compensated", [], 0)
        assert number(world, "p") >= 100
        assert await world.leftovers() == []


async def test_c10_recovery_applies_before_it_commits():
    async with Two("ap") as two:
        await filled(two.owner, "ap")
        paused, _ = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE)))
        await paused.wait()
        await two.die()
        two.owner.stores["a"]._store.space.locks._owners.clear()
        assert await two.recover() == [("completed", None)]
        calls = [call for call in two.other.faults.calls if call in {"p.write", "a.write", "a.commit"}]
        assert calls == ["p.write", "a.write", "a.commit"]
        assert (number(two.owner, "a"), number(two.owner, "p")) == (1, 1)
        running.cancel()


async def test_c11_the_stores_own_answer_outranks_images():
    async with Two("ap") as two:
        await filled(two.owner, "ap")
        for world in (two.owner, two.other):
            world.faults.declare("a", asks=True)
        asked = []

        async def outcome(token):
            asked.append(token)
            return Outcome.COMMITTED

        two.other.stores["a"].outcome = outcome
        two.owner.faults.fail("journal.complete", JournalUnavailable("away"), times=1000)
        assert (await two.owner.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE))).ok
        await two.die()
        await two.owner.foreign("a", 1, {"n": 0})
        assert await two.recover() == [("completed", None)]
        assert asked == ["a-token"]
        assert number(two.owner, "a") == 0  # what somebody else wrote


async def test_c15_a_transaction_of_one_store_builds_on_nothing_that_is_taken_back():
    """It looks at the locks after staging: then whoever touched the record before is known."""
    async with World(lock_timeout=5) as world:
        await filled(world, "ab")
        refused = ConstraintViolated("refused", constraint="c")
        world.faults.fail("b.commit", refused, times=2)
        paused, go_on = pause(world, "journal.change_state")
        first = asyncio.ensure_future(world.run(update("a", 1, PLUS_ONE), update("b", 1, PLUS_ONE)))
        await paused.wait()
        assert number(world, "a") == 1
        second = asyncio.ensure_future(world.run(update("a", 1, {"n": {"$increment": 10}})))
        await asyncio.sleep(0.1)
        assert not second.done()
        go_on.set()
        assert statuses(await first) == "uf"
        assert (await second).ok
        assert (number(world, "a"), number(world, "b")) == (10, 0)


async def test_c17_of_those_that_decide_at_once_each_stands_alone():
    async with World(lock_timeout=0.2) as world:
        await world.fill("a", *({"id": key, "n": 0} for key in range(1, 4)))
        await filled(world, "p")
        async with world.warehouse.begin("taken", hold=True) as tx:
            await tx.update(None, "a", "things", {"id": 2}, {"n": 5})
        free, taken = await asyncio.gather(
            world.run(update("a", 3, PLUS_ONE), update("p", 1, PLUS_ONE)),
            world.run(update("a", 1, PLUS_ONE), update("a", 2, PLUS_ONE), insert("p", {"id": 9})),
        )
        assert (free.status, taken.status) == ("completed", "compensated")
        assert {key: row["n"] for key, row in world.rows("a").items()} == {1: 0, 2: 0, 3: 1}
        assert (await world.run(update("a", 1, PLUS_ONE), insert("p", {"id": 9}))).ok
        await world.warehouse.rollback("taken")
        assert await world.leftovers() == []


async def test_c18_an_open_warehouse_looks_again_when_the_lease_has_run_out():
    """It was opened while the lease of the dead was still good."""
    async with Two("ap") as two:
        await filled(two.owner, "ap")
        paused, _ = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE)))
        await paused.wait()
        looking = asyncio.ensure_future(two.other.warehouse._recovery.run())
        await asyncio.sleep(0.15)
        assert number(two.owner, "p") == 0
        await two.die()
        two.owner.stores["a"]._store.space.locks._owners.clear()
        (entry,) = await two.owner.journal.entries()
        assert (await two.other.warehouse.wait(entry.transaction_id, timeout=10)).ok
        assert await two.other.leftovers() == []
        assert (number(two.owner, "a"), number(two.owner, "p")) == (1, 1)
        looking.cancel()
        running.cancel()


@pytest.mark.parametrize("hours", [1, -1])
async def test_c21_whose_clock_is_wrong_takes_nothing_from_the_living(monkeypatch, hours):
    async with Two("ap") as two:
        await filled(two.owner, "ap")
        paused, go_on = pause(two.owner, "p.write")
        running = asyncio.ensure_future(two.owner.run(update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE)))
        await paused.wait()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
        assert await two.recover() == []
        go_on.set()
        assert (await running).ok
        assert (number(two.owner, "a"), number(two.owner, "p")) == (1, 1)
