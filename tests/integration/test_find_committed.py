"""`find` shows what is committed everywhere: before images while a transaction is on its way, never half of it."""

import asyncio
import random

import pytest

from integration.memory_world import World, delete, insert, update, upsert
from integration.test_recovery import Two, crash, pause
from warehouse import OutcomeUnknown, ReadConflict
from warehouse.errors import JournalUnavailable
from warehouse.records import ABSENT

pytestmark = pytest.mark.anyio


async def seen(world, tag, **query):
    """What `find` shows, by id."""
    found = await world.warehouse.find({"tag": tag, "entity": "things"}, **query)
    return {record["id"]: {k: v for k, v in record.items() if k != "id"} for record in found}


CHANGES = [
    (insert("p", {"id": 9, "n": 9}), {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 0}}),
    (update("p", 1, {"n": 50}), {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 0}}),
    (update("p", 1, {"new": 1, "m": {"$unset": True}}), {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 0}}),
    (delete("p", 2), {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 0}}),
    (upsert("p", [{"id": 2, "n": 7}, {"id": 3, "n": 7}]), {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 0}}),
]


@pytest.mark.parametrize(("operation", "before"), CHANGES, ids=lambda item: item.get("operation", ""))
@pytest.mark.parametrize("at", ["p.write", "a.commit", "journal.finish"])
async def test_what_is_on_its_way_is_shown_as_it_was(operation, before, at):
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 1, "m": 0}, {"id": 2, "n": 2, "m": 0})
        paused, go = pause(world, at)
        running = asyncio.ensure_future(world.run(operation, insert("a", {"id": 1})))
        await paused.wait()
        assert await seen(world, "p") == before
        assert await seen(world, "a") == {}
        latest = await seen(world, "p", isolation="latest")
        assert (latest != before) is (at != "p.write")
        go.set()
        assert (await running).ok
        assert await seen(world, "p") == world.rows("p") != before
        assert await seen(world, "a") == {1: {}}


async def test_conditions_order_and_limit_are_of_what_is_shown():
    async with World() as world:
        await world.fill("p", *({"id": n, "n": n} for n in range(1, 7)))
        paused, go = pause(world, "a.commit")
        running = asyncio.ensure_future(
            world.run(
                update("p", 2, {"n": 60}),
                delete("p", 4),
                insert("p", {"id": 7, "n": 0}),
                update("p", 6, {"n": -1}),
                insert("a", {"id": 1}),
            )
        )
        await paused.wait()
        assert list(await seen(world, "p", order_by=["n"])) == [1, 2, 3, 4, 5, 6]
        assert list(await seen(world, "p", order_by=["-n"], limit=2)) == [6, 5]
        assert list(await seen(world, "p", order_by=["n"], limit=2, offset=1)) == [2, 3]
        assert list(await seen(world, "p", order_by=["n"], offset=4)) == [5, 6]
        assert list(await seen(world, "p", where={"n": {"$lte": 2}}, order_by=["n"])) == [1, 2]
        assert await seen(world, "p", where={"n": 60}) == {}
        assert await seen(world, "p", where={"n": 4}) == {4: {"n": 4}}
        assert list(await seen(world, "p", where={"id": {"$in": [4, 6, 7]}}, order_by=["id"])) == [4, 6]
        go.set()
        assert (await running).ok
        assert list(await seen(world, "p", order_by=["n"])) == [6, 7, 1, 3, 5, 2]


async def test_what_somebody_else_writes_beside_it_is_shown():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 1, "m": 0})
        paused, go = pause(world, "a.commit")
        running = asyncio.ensure_future(world.run(update("p", 1, {"n": 2}), insert("a", {"id": 1})))
        await paused.wait()
        await world.foreign("p", 1, {"m": 5})
        assert await seen(world, "p") == {1: {"n": 1, "m": 5}}
        await world.foreign("p", 1, ABSENT)
        go.set()
        await running


async def test_c14_what_ended_between_the_two_looks_is_read_again():
    """C14: a transaction that fits between the first look into the journal and the last."""
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 1})
        world.faults.after("p.find", lambda: world.run(update("p", 1, {"n": 2}), insert("q", {"id": 1})))
        assert await seen(world, "p") == {1: {"n": 2}}
        assert world.faults.calls.count("p.find") == 2


async def test_what_ended_elsewhere_meanwhile_does_not_matter():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 1})
        world.faults.after("p.find", lambda: world.run(insert("a", {"id": 1}), insert("q", {"id": 1})))
        assert await seen(world, "p") == {1: {"n": 1}}
        assert world.faults.calls.count("p.find") == 1


async def test_a_read_that_is_never_consistent_ends():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 1})
        world.faults.after(
            "p.find",
            lambda: world.run(update("p", 1, {"n": {"$increment": 1}}), update("q", 1, {"n": 1})),
            times=None,
        )
        with pytest.raises(ReadConflict):
            await seen(world, "p", timeout=0.2)


async def test_c20_what_was_told_is_seen_at_once():
    """C20: read-your-writes."""
    async with World() as world:
        for number in range(20):
            assert (await world.run(insert("p", {"id": number}), insert("a", {"id": number}))).ok
            assert number in await seen(world, "p")
            assert number in await seen(world, "a")


async def test_an_open_end_is_hidden_until_it_is_recovered():
    async with Two() as two:
        await crash(two, insert("a", {"id": 1}), insert("p", {"id": 1}), at="a.commit")
        assert await seen(two.other, "p") == await seen(two.other, "a") == {}
        assert await two.recover() == [("completed", None)]
        assert await seen(two.other, "p") == await seen(two.other, "a") == {1: {}}


async def test_a_journal_that_cannot_be_read_is_an_error_not_a_guess():
    async with World() as world:
        world.faults.fail("journal.sequence", JournalUnavailable("away"))
        with pytest.raises(JournalUnavailable):
            await seen(world, "p")
        assert await seen(world, "p", isolation="latest") == {}


async def test_totals_are_right_in_every_find_while_money_moves():
    async with World(lock_timeout=20, timeout=60) as world:
        await world.fill("p", *({"id": n, "n": 100} for n in range(6)))
        world.faults.delay("p.write", 0.001)
        world.faults.delay("a.commit", 0.001)
        done = asyncio.Event()
        chance = random.Random(7)

        async def move():
            for _ in range(8):
                source, target = chance.sample(range(6), 2)
                await world.run(
                    update("p", source, {"n": {"$decrement": 5}}),
                    update("p", target, {"n": {"$increment": 5}}),
                    insert("a", {"n": 1}),
                )

        async def look():
            looks = 0
            while not done.is_set():
                found = await seen(world, "p", timeout=30)
                assert sum(record["n"] for record in found.values()) == 600
                looks += 1
                await asyncio.sleep(0.001)
            return looks

        looking = asyncio.ensure_future(look())
        await asyncio.gather(*(move() for _ in range(6)))
        done.set()
        assert await looking > 3
        latest = await seen(world, "p", isolation="latest")
        assert sum(record["n"] for record in latest.values()) == 600


async def test_an_unknown_end_keeps_its_records_as_they_were():
    async with World(grace=0.2) as world:
        await world.fill("p", {"id": 1, "n": 1})
        world.faults.fail("journal.finish", JournalUnavailable("full"))
        with pytest.raises(OutcomeUnknown):
            await world.run(update("p", 1, {"n": 2}), insert("a", {"id": 1}))
        assert await seen(world, "p") == {1: {"n": 1}}
        await world.warehouse.recover()
        assert await seen(world, "p") == {1: {"n": 2}}
