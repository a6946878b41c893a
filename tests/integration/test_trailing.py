"""One durable write: where all who hold can be asked, `completed` is told before the journal has it (DESIGN 5.1)."""

import asyncio

import pytest

from integration.memory_world import World, insert, update
from integration.test_durable_writes import writes
from integration.test_recovery import Two, pause
from warehouse.adapter import Outcome
from warehouse.engine import trailing
from warehouse.errors import JournalUnavailable
from warehouse.journal.base import ReplyLost

pytestmark = pytest.mark.anyio
PLUS_ONE = {"n": {"$increment": 1}}
BOTH = [update("a", 1, PLUS_ONE), update("p", 1, PLUS_ONE)]
A, P = ({"type": "database", "tag": tag, "entity": "things"} for tag in "ap")


class Asked(World):
    """Stores of which those with transactions can be asked for their outcome."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for tag in "ab":
            self.faults.declare(tag, asks=True)

    async def __aenter__(self):
        await super().__aenter__()
        for tag in "ap":
            await self.fill(tag, {"id": 1, "n": 0})
        return self

    def numbers(self):
        return self.rows("a")[1]["n"], self.rows("p")[1]["n"]


def refuse_to_complete(world, times=1000):
    world.faults.fail("journal.complete", JournalUnavailable("away"), times=times)


async def test_one_durable_write_and_its_end_goes_with_the_next(monkeypatch):
    monkeypatch.setattr(trailing, "_WAIT", 0.5)  # longer than five transactions take on a busy machine
    async with Asked() as world:
        for _ in range(5):
            assert (await world.run(*BOTH)).ok
        assert world.numbers() == (5, 5)
        assert writes(world) == ["decide"] * 5
        await asyncio.sleep(1)
        assert writes(world) == ["decide"] * 5 + ["complete"]
        assert await world.leftovers() == []


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        ([update("p", 1, PLUS_ONE), insert("q", {"id": 1})], {}),  # nobody who could be asked
        (BOTH, {"idempotency_key": "k"}),
        (BOTH, {"pattern": "saga"}),
        ([*BOTH, {"operation": "call", "action": "ask"}], {}),
    ],
    ids=["nobody holds", "a key", "a saga", "a call"],
)
async def test_otherwise_the_end_is_durable_before_it_is_told(steps, options):
    async with Asked() as world:
        world.warehouse.action("ask")(lambda: "answer")
        assert (await world.run(*steps, **options)).ok
        assert writes(world)[-1] == "finish"


async def test_one_that_cannot_be_asked_is_enough_to_wait():
    async with Asked() as world:
        world.faults.declare("b", asks=False)
        assert (await world.run(*BOTH, insert("b", {"id": 1}))).ok
        assert writes(world) == ["decide", "finish"]


async def test_c20_a_find_shows_what_was_told():
    """Counterexample C20: the lock is still there, and no reason to show the image before."""
    async with Asked() as world:
        refuse_to_complete(world)
        assert (await world.run(*BOTH)).ok
        for source in (A, P):
            assert [row["n"] for row in await world.warehouse.find(source)] == [1]
        async with world.warehouse.begin() as tx:
            assert [row["n"] for row in await tx.find(None, "a", "things", lock=True)] == [1]
        assert await world.journal.locked((await world.journal.entries())[0].locks()) is not None


async def test_a_find_between_two_commits_is_read_again():
    """It saw one store before, and the end of it all meanwhile: nothing half is shown."""
    async with Asked() as world:
        refuse_to_complete(world)
        committing, commit = pause(world, "a.commit")
        reading, read = pause(world, "a.find")
        running = asyncio.ensure_future(world.run(*BOTH))
        await committing.wait()
        finding = asyncio.ensure_future(world.warehouse.find(A))
        await reading.wait()
        commit.set()
        assert (await running).ok
        read.set()
        assert [row["n"] for row in await finding] == [1]
        assert world.faults.calls.count("a.find") == 2


@pytest.mark.parametrize("steps", [BOTH, [BOTH[1]]], ids=["both", "a planned one"])
async def test_the_next_one_builds_on_it(steps):
    async with Asked(lock_timeout=0.01) as world:
        refuse_to_complete(world)
        for _ in range(3):
            assert (await world.run(*BOTH)).ok
            assert (await world.run(*steps)).ok
        assert world.numbers() == (6 if steps != [BOTH[1]] else 3, 6 if steps != BOTH[:1] else 3)


@pytest.mark.parametrize("where", ["q.execute", "journal.decide"])
async def test_who_read_before_it_completed_stages_again(monkeypatch, where):
    """No update is lost: its read did not see the other's write. The decide notices, carry it that or not."""
    async with Asked(lock_timeout=5) as world:
        if where == "q.execute":
            monkeypatch.setattr(trailing, "_WAIT", 60)  # so that the decide carries it
        staged, go = pause(world, where)
        slow = asyncio.ensure_future(world.run(update("p", 1, PLUS_ONE), insert("q", {"id": 1})))
        await staged.wait()
        assert (await world.run(*BOTH)).ok
        go.set()
        assert (await slow).ok
        assert world.numbers() == (1, 2)
        assert world.faults.calls.count("p.write") == 2  # refused before it applied anything


async def test_what_commits_without_the_journal_waits_for_its_end():
    """Others show the record as before until the end is journaled: beside what builds on it, that would be half."""
    async with Asked() as world:
        assert (await world.run(*BOTH)).ok
        world.faults.calls.clear()
        assert (await world.run(update("a", 1, PLUS_ONE), insert("a", {"id": 2}))).ok
        calls = world.faults.calls
        assert calls.index("journal.complete") < calls.index("a.commit")


async def test_what_commits_without_the_journal_is_refused_while_its_end_cannot_be_journaled():
    async with Asked() as world:
        refuse_to_complete(world)
        assert (await world.run(*BOTH)).ok
        with pytest.raises(JournalUnavailable):
            await world.run(update("a", 1, PLUS_ONE))
        assert world.numbers() == (1, 1)


async def test_an_end_that_somebody_else_took_over_trails_until_it_is_there():
    """Its owner was paused beyond its lease after it had told: what it told, its own reads go on to show."""
    async with Asked() as world:
        refuse_to_complete(world, times=3)
        assert (await world.run(*BOTH)).ok
        (entry,) = await world.journal.entries()
        world.warehouse._engine.lease._renewed -= 100
        taken = await world.journal.take_over(entry.claim, "somebody else")
        await asyncio.sleep(0.6)
        assert [row["n"] for row in await world.warehouse.find(A)] == [1]
        await world.journal.finish(taken, "completed", {})
        await asyncio.sleep(1.5)
        assert entry.transaction_id not in world.warehouse._engine.lease.trailing


async def test_a_block_waits_for_a_decide_that_carries_it():
    """It cannot be run again by us, so that a lock of what has completed is no reason to refuse it."""
    async with Asked() as world:
        carrying, go = asyncio.Event(), asyncio.Event()

        async def wait():
            carrying.set()
            await go.wait()

        world.faults.before("journal.decide", wait, nth=2)
        assert (await world.run(*BOTH)).ok
        other = asyncio.ensure_future(world.run(insert("a", {"id": 7}), insert("p", {"id": 7})))
        await carrying.wait()

        async def block():
            async with world.warehouse.begin() as tx:
                await tx.update(None, "a", "things", {"id": 1}, PLUS_ONE)
                await tx.update(None, "p", "things", {"id": 1}, PLUS_ONE)

        running = asyncio.ensure_future(block())
        await asyncio.sleep(0.05)
        go.set()
        await running
        assert (await other).ok
        assert world.numbers() == (2, 2)


async def test_a_saga_builds_on_it():
    async with Asked(lock_timeout=0.01) as world:
        assert (await world.run(*BOTH)).ok
        assert (await world.run(*BOTH, pattern="saga")).ok
        assert world.numbers() == (2, 2)
        assert await world.leftovers() == []


async def test_its_end_is_journaled_once_the_journal_is_back():
    async with Asked() as world:
        refuse_to_complete(world, times=2)
        assert (await world.run(*BOTH)).ok
        assert await world.leftovers() != []
        await asyncio.sleep(1)
        assert await world.leftovers() == []


async def test_the_decide_that_carried_it_lost_its_reply():
    async with Asked() as world:
        assert (await world.run(*BOTH)).ok
        world.faults.lose("journal.decide", ReplyLost("no reply"))
        assert (await world.run(*BOTH)).ok
        assert world.numbers() == (2, 2)
        await asyncio.sleep(0.1)
        assert await world.leftovers() == []


async def test_who_looks_finds_it_ended():
    async with Asked() as world:
        done = await world.run(*BOTH)
        assert (await world.warehouse.show(done.transaction_id)).status == "completed"
        done = await world.run(*BOTH)
        assert (await world.warehouse.wait(done.transaction_id)).status == "completed"
        done = await world.run(*BOTH)
        assert [item.status for item in await world.warehouse.transactions(limit=9)] == ["completed"] * 3
        done = await world.run(*BOTH)
        assert (await world.warehouse.undo(done.transaction_id)).ok
        assert world.numbers() == (3, 3)
        done = await world.run(*BOTH)
        assert [item.status for item in await world.warehouse.history(A, {"id": 1})] == ["completed"] * 6


async def test_closing_leaves_nothing_open():
    world = Asked()
    async with world:
        assert (await world.run(*BOTH)).ok
        assert await world.leftovers() != []
    assert await world.leftovers() == []


async def test_its_own_recovery_leaves_it_alone():
    async with Asked() as world:
        refuse_to_complete(world)
        assert (await world.run(*BOTH)).ok
        assert await world.warehouse.recover() == []


@pytest.mark.parametrize("foreign", [None, "a", "p"])
async def test_whoever_recovers_asks_and_finds_the_same(foreign):
    """Counterexample C3: whatever somebody wrote since, what was told stays true."""
    async with Two("ap") as two:
        for world in (two.owner, two.other):
            world.faults.declare("a", asks=True)
        for tag in "ap":
            await two.owner.fill(tag, {"id": 1, "n": 0})

        async def outcome(_):
            return Outcome.COMMITTED

        two.other.stores["a"].outcome = outcome
        refuse_to_complete(two.owner)
        assert (await two.owner.run(*BOTH)).ok
        await two.die()
        if foreign:
            await two.owner.foreign(foreign, 1, {"n": 100})
        assert await two.recover() == [("completed", None)]
        wanted = {"a": 1, "p": 1} | ({foreign: 100} if foreign else {})
        assert {tag: two.owner.rows(tag)[1]["n"] for tag in "ap"} == wanted
        assert await two.other.leftovers() == []
