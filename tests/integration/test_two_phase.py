"""Two-phase commit: the vote, the decision, and everything that can happen between and after them."""

import asyncio

import pytest

from integration.memory_world import World, insert, statuses, update
from integration.test_recovery import Two, pause
from warehouse import InvalidOperation, JournalUnavailable, OutcomeUnknown, StepFailed, TransactionConflict
from warehouse.errors import ConstraintViolated, StoreError, StoreUnavailable
from warehouse.journal.base import ReplyLost
from warehouse.journal.memory import MemoryJournal

pytestmark = pytest.mark.anyio
BOTH = (insert("a", {"id": 1}), insert("b", {"id": 1}))
MADE = {"a": {1: {}}, "b": {1: {}}}
NOTHING = {"a": {}, "b": {}}
TWO_PHASE = {"pattern": "two_phase_commit"}


def stores(world):
    return {tag: world.rows(tag) for tag in "ab"}


def prepared(world):
    return [item for tag in "ab" for item in world.stores[tag]._store.space.prepared]


async def nothing_left(world):
    assert await world.leftovers() == []
    assert prepared(world) == []


async def test_all_vote_before_the_decision_and_commit_after_it():
    async with World() as world:
        result = await world.run(*BOTH, **TWO_PHASE)
        assert (result.status, result.pattern, statuses(result)) == ("completed", "two_phase_commit", "cc")
        assert stores(world) == MADE
        calls = [
            call for call in world.faults.calls if call.endswith(("prepare", "decide", "commit", "finish"))
        ]
        assert sorted(calls[:2]) == ["a.prepare", "b.prepare"]
        assert calls[2] == "journal.decide"
        assert sorted(calls[3:5]) == ["a.commit", "b.commit"]
        assert calls[5:] == ["journal.finish"]
        await nothing_left(world)
        assert (await world.warehouse.undo(result.transaction_id)).ok
        assert stores(world) == NOTHING


async def test_one_vote_against_it_is_enough():
    async with World() as world:
        world.faults.fail("b.prepare", ConstraintViolated("deferred", constraint="c"))
        result = await world.run(*BOTH, **TWO_PHASE)
        assert (result.status, statuses(result)) == ("compensated", "uf")
        assert "deferred" in result.error
        assert stores(world) == NOTHING
        assert "journal.decide" not in world.faults.calls
        await nothing_left(world)


async def test_what_is_prepared_when_another_store_fails_is_rolled_back():
    """A known failure of such systems: a participant whose prepare raised gets no rollback."""
    async with World() as world:
        world.faults.lose("b.prepare", StoreUnavailable("the reply never came"))
        result = await world.run(*BOTH, **TWO_PHASE)
        assert result.status == "compensated"
        assert stores(world) == NOTHING
        await nothing_left(world)


async def test_a_vote_whose_reply_never_comes_is_bounded_by_the_timeout():
    async with World() as world:
        world.faults.delay("b.prepare", 60)
        result = await world.run(*BOTH, timeout=0.3, **TWO_PHASE)
        assert result.status == "compensated"
        assert "timeout" in result.error
        await nothing_left(world)


async def test_a_mistake_of_an_adapter_is_a_vote_against():
    async with World() as world:
        world.faults.fail("a.prepare", ValueError("a mistake"))
        result = await world.run(*BOTH, **TWO_PHASE)
        assert (result.status, statuses(result)) == ("compensated", "fu")
        await nothing_left(world)


async def test_a_journal_that_cannot_decide_leaves_nothing():
    async with World() as world:
        world.faults.fail("journal.decide", JournalUnavailable("no room"))
        with pytest.raises(JournalUnavailable):
            await world.run(*BOTH, **TWO_PHASE)
        assert stores(world) == NOTHING
        await nothing_left(world)


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_decision_whose_reply_is_lost_is_settled(arrived):
    async with World() as world:
        go_wrong = world.faults.lose if arrived else world.faults.fail
        go_wrong("journal.decide", ReplyLost("no reply"))
        if arrived:
            assert (await world.run(*BOTH, **TWO_PHASE)).ok
        else:
            with pytest.raises(JournalUnavailable):
                await world.run(*BOTH, **TWO_PHASE)
        assert stores(world) == (MADE if arrived else NOTHING)
        await nothing_left(world)


@pytest.mark.parametrize("arrived", [True, False])
async def test_what_may_be_decided_stays_prepared_until_that_is_known(arrived):
    async with World() as world:
        go_wrong = world.faults.lose if arrived else world.faults.fail
        go_wrong("journal.decide", ReplyLost("no reply"))
        world.faults.fail("journal.settle", JournalUnavailable("away"))
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(*BOTH, **TWO_PHASE)
        assert len(prepared(world)) == 2
        assert stores(world) == NOTHING
        (found,) = await world.warehouse.recover()
        assert found.transaction_id == caught.value.transaction_id
        assert found.status == ("completed" if arrived else "compensated")
        assert stores(world) == (MADE if arrived else NOTHING)
        await nothing_left(world)
        assert await world.warehouse.recover() == []


@pytest.mark.parametrize("made", [True, False])
async def test_after_the_decision_a_failed_commit_is_made_by_another_connection(made):
    """A known failure of such systems: after a failed commit, a participant that committed is rolled back."""
    async with World() as world:
        (world.faults.lose if made else world.faults.fail)("b.commit", StoreUnavailable("connection lost"))
        result = await world.run(*BOTH, **TWO_PHASE)
        assert result.ok
        assert stores(world) == MADE
        await nothing_left(world)


async def test_c22_a_store_that_does_not_know_it_is_asked_again():
    """C22: "unknown" is never taken for "done"."""
    async with World() as world:
        world.faults.fail("b.commit", StoreUnavailable("connection lost"))
        world.faults.fail("b.finish", StoreError("unknown XID"), times=3)
        assert (await world.run(*BOTH, **TWO_PHASE)).ok
        assert stores(world) == MADE
        assert world.faults.calls.count("b.finish") == 4


async def test_a_store_that_stays_away_after_the_decision_is_committed_by_recovery():
    async with World(grace=0.2) as world:
        world.faults.fail("b.commit", StoreUnavailable("away"))
        world.faults.fail("b.prepared", StoreUnavailable("away"), times=None)
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(*BOTH, **TWO_PHASE)
        assert stores(world) == {**NOTHING, "a": {1: {}}}
        shown = await world.warehouse.find({"tag": "a", "entity": "things"})
        assert shown == []  # not committed everywhere yet
        (found,) = await world.warehouse.recover()
        assert found.status is None
        world.faults.clear()
        world.faults._plans.clear()
        (found,) = await world.warehouse.recover()
        assert (found.transaction_id, found.status) == (caught.value.transaction_id, "completed")
        assert stores(world) == MADE
        await nothing_left(world)


async def test_an_owner_that_died_before_the_decision_is_rolled_back_by_presumed_abort():
    async with Two("ab") as two:
        paused, _ = pause(two.owner, "journal.decide")
        running = asyncio.ensure_future(two.owner.run(*BOTH, **TWO_PHASE))
        await paused.wait()
        assert len(prepared(two.owner)) == 2
        assert await two.recover() == []  # it lives
        assert len(prepared(two.owner)) == 2
        await two.die()
        assert await two.recover() == [("compensated", None)]
        assert stores(two.owner) == NOTHING
        await nothing_left(two.other)
        running.cancel()


async def test_c13_a_paused_owner_cannot_decide_what_was_rolled_back():
    """C13: the tombstone comes before the rollback, and the decision fails on it."""
    async with Two("ab") as two:
        paused, go_on = pause(two.owner, "journal.decide")
        running = asyncio.ensure_future(two.owner.run(*BOTH, **TWO_PHASE))
        await paused.wait()
        await two.die()
        rolling, finish = pause(two.other, "b.finish")
        recovering = asyncio.ensure_future(two.recover())
        await rolling.wait()  # one is rolled back, the other not yet
        go_on.set()
        with pytest.raises(JournalUnavailable):
            await running
        finish.set()
        await recovering
        assert stores(two.owner) == NOTHING
        await nothing_left(two.other)


async def test_c13_what_was_decided_is_committed_by_whoever_comes():
    async with Two("ab") as two:
        paused, go_on = pause(two.owner, "a.commit")
        running = asyncio.ensure_future(two.owner.run(*BOTH, **TWO_PHASE))
        await paused.wait()
        await two.die()
        assert await two.recover() == [("completed", None)]
        assert stores(two.owner) == MADE
        go_on.set()
        assert (await running).ok  # the store does not know it any more, and that is not an error
        await nothing_left(two.other)


async def test_c13_a_late_vote_is_found_by_the_next_look():
    """C13: with a single look, what is prepared later would stay for ever."""
    async with Two("ab") as two:
        paused, go_on = pause(two.owner, "b.prepare")
        running = asyncio.ensure_future(two.owner.run(*BOTH, **TWO_PHASE))
        await paused.wait()
        await two.die()
        assert await two.recover() == [("compensated", None)]
        two.owner.faults.fail("*.rollback", asyncio.CancelledError(), times=None)
        go_on.set()
        await asyncio.sleep(0.1)
        running.cancel()
        two.owner.faults._plans.clear()
        await two.recover()
        assert stores(two.owner) == NOTHING
        assert prepared(two.other) == []


async def test_what_another_journal_decides_is_left_alone():
    async with Two("ab") as two:
        two.other.warehouse._journal.inner = two.other.journal = MemoryJournal()
        paused, go_on = pause(two.owner, "journal.decide")
        running = asyncio.ensure_future(two.owner.run(*BOTH, **TWO_PHASE))
        await paused.wait()
        assert await two.recover() == []
        assert len(prepared(two.owner)) == 2
        go_on.set()
        assert (await running).ok
        assert stores(two.owner) == MADE


async def test_others_wait_for_what_is_prepared():
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 0})
        await world.fill("b", {"id": 1, "n": 0})
        steps = [update(tag, 1, {"n": {"$increment": 1}}) for tag in "ab"]
        results = await asyncio.gather(*(world.run(*steps, lock_timeout=10, **TWO_PHASE) for _ in range(8)))
        assert all(result.ok for result in results)
        assert stores(world) == {tag: {1: {"n": 8}} for tag in "ab"}
        await nothing_left(world)


async def test_a_block():
    async with World() as world:
        async with world.warehouse.begin(pattern="two_phase_commit") as tx:
            await tx.insert("database", "a", "things", {"id": 1})
            await tx.insert("database", "b", "things", {"id": 1})
        assert tx.result.pattern == "two_phase_commit"
        assert stores(world) == MADE
        with pytest.raises(StepFailed):
            async with world.warehouse.begin(pattern="two_phase_commit") as tx:
                await tx.insert("database", "b", "things", {"id": 2})
                await tx.insert("database", "a", "things", {"id": 1})
        assert stores(world) == MADE
        with pytest.raises(InvalidOperation, match="memory cannot take part in two-phase commit"):
            async with world.warehouse.begin(pattern="two_phase_commit") as tx:
                await tx.insert("database", "p", "things", {"id": 2})
        await nothing_left(world)


async def test_a_lock_of_the_journal_keeps_it_out():
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 0})
        world.faults.fail("journal.decide", TransactionConflict("somebody has it"), times=2)
        result = await world.run(update("a", 1, {"n": 1}), insert("b", {"id": 1}), **TWO_PHASE)
        assert result.ok
        assert world.faults.calls.count("journal.decide") == 3
        await nothing_left(world)


# Which pattern is chosen


RULES = [
    ("ab", {}, "staged"),
    ("a", {"consistency": "immediate"}, "staged"),
    ("ab", {"consistency": "immediate"}, "two_phase_commit"),
    ("ab", {"consistency": "strong"}, "two_phase_commit"),
    ("ap", {"consistency": "strong"}, "staged"),
    ("ap", {"consistency": "strong", "availability": "high"}, "saga"),
    ("ab", {"consistency": "immediate", "availability": "high"}, "two_phase_commit"),
    ("ab", {"availability": "high"}, "saga"),
    ("ab", {"consistency": "eventual"}, "saga"),
    ("a", {"availability": "high"}, "staged"),
    ("ap", {}, "staged"),
    ("p", {}, "staged"),
]


@pytest.mark.parametrize(("tags", "options", "pattern"), RULES)
async def test_the_first_rule_that_applies_chooses(tags, options, pattern):
    async with World() as world:
        steps = [insert(tag, {"id": 1}) for tag in tags]
        told = await world.warehouse.explain(steps, **options)
        assert told.pattern == pattern
        assert (await world.run(*steps, **options)).pattern == pattern


@pytest.mark.parametrize("options", [TWO_PHASE, {"consistency": "immediate"}])
async def test_who_cannot_prepare_is_named(options):
    async with World() as world:
        steps = [insert(tag, {"id": 1}) for tag in "apq"]
        with pytest.raises(InvalidOperation, match=r"two-phase commit: p \(memory\), q \(memory\)") as caught:
            await world.run(*steps, **options)
        assert caught.value.field == next(iter(options))
        assert world.rows("a") == {}
