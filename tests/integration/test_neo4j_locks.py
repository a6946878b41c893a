"""Nothing is lost between units that want the same records at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from integration.neo4j_kit import STORES, kit_of, knows
from warehouse import conditions
from warehouse.adapter import Query
from warehouse.errors import ConstraintViolated, StoreContention
from warehouse_adapters.neo4j.work import Work

pytestmark = pytest.mark.anyio
TASKS, TURNS = 8, 20


@pytest.fixture(params=STORES)
async def kit(request):
    async with kit_of(request) as kit:
        kit.unique("Stock")
        yield kit


async def everybody(work):
    await asyncio.gather(*(work(number) for number in range(TASKS)))


DECREMENTS = {
    "key": {"id": 1, "quantity": {"$gte": 1}},
    "no key": {"quantity": {"$gte": 1}},
    "narrowed here": {"name": {"$like": "a%"}, "quantity": {"$gte": 1}},
}


@pytest.mark.parametrize("where", DECREMENTS.values(), ids=DECREMENTS)
@pytest.mark.parametrize("indexed", [False, True])
async def test_only_what_is_there_is_taken(kit, where, indexed):
    """Each decrement needs one left: exactly as many succeed as there were, each with its own before image."""
    if indexed and kit.is_neo4j:
        kit.run("CREATE INDEX stock_quantity IF NOT EXISTS FOR (n:Stock) ON (n.quantity)")
    info = await kit.info("Stock")
    others = [{"id": 10 + number, "name": "none", "quantity": 0} for number in range(20)]
    await kit.do(await kit.insert(info, {"id": 1, "name": "anvil", "quantity": 100}, *others))
    request = await kit.update(info, where, {"quantity": {"$decrement": 1}})
    changes = []

    async def work(_):
        for _ in range(TURNS):
            changes.extend(await kit.insisting(request))

    await everybody(work)
    assert sorted(change.before["quantity"] for change in changes) == list(range(1, 101))
    assert all(change.after["quantity"] == change.before["quantity"] - 1 for change in changes)
    assert (await kit.find(info, {"id": 1}))[0]["quantity"] == 0
    kit.run("DROP INDEX stock_quantity IF EXISTS")


@pytest.mark.parametrize("operator", ["$increment", "$push", "$addToSet"])
async def test_no_update_is_lost(kit, operator):
    info = await kit.info("Stock")
    await kit.do(await kit.insert(info, {"id": 1}))

    async def work(number):
        for turn in range(TURNS):
            value = 1 if operator == "$increment" else number * TURNS + turn
            await kit.insisting(await kit.update(info, {"id": 1}, {"field": {operator: value}}))

    await everybody(work)
    found = (await kit.find(info))[0]["field"]
    total = TASKS * TURNS
    assert found == total if operator == "$increment" else sorted(found) == list(range(total))


async def test_relationships_are_locked_too(kit):
    kit.unique("User")
    await kit.do(await kit.insert(await kit.info("User"), {"id": 1}, {"id": 2}))
    info = await kit.info("LIKES", "relationship")
    await kit.do(await kit.insert(info, knows(2) | {"properties": {"count": 50}}))
    request = await kit.update(
        info, {"properties.count": {"$gte": 1}}, {"properties.count": {"$increment": -1}}
    )
    done = []

    async def work(_):
        for _ in range(TURNS):
            done.extend(await kit.insisting(request))

    await everybody(work)
    assert len(done) == 50
    assert (await kit.find(info))[0]["properties"] == {"count": 0}


async def test_upserts_of_one_key_make_one_node(kit):
    info = await kit.info("Stock")

    async def work(number):
        while True:
            with suppress(StoreContention, ConstraintViolated):  # ArcadeDB notices at the commit
                await kit.do(await kit.upsert(info, {"id": 1, f"by{number}": True}))
                return

    await everybody(work)
    assert await kit.find(info) == [{"id": 1} | {f"by{number}": True for number in range(TASKS)}]


async def test_an_upsert_that_comes_too_late_runs_again(kit, monkeypatch):
    """Where the node came to be after it was looked for, MERGE finds it and writes nothing."""
    info = await kit.info("Stock")
    await kit.do(await kit.insert(info, {"id": 1, "by": "them"}))

    async def nothing(work, shape, keys):
        return [[] for _ in keys]

    monkeypatch.setattr(Work, "lookup", nothing)
    with pytest.raises(StoreContention):
        await kit.do(await kit.upsert(info, {"id": 1, "by": "us"}))
    assert await kit.find(info) == [{"id": 1, "by": "them"}]


async def test_two_nodes_are_connected_once(kit):
    kit.unique("User")
    await kit.do(await kit.insert(await kit.info("User"), {"id": 1}, {"id": 2}))
    info = await kit.info("KNOWS", "relationship")
    refused = []

    async def work(_):
        try:
            await kit.insisting(await kit.insert(info, knows(2)))
        except ConstraintViolated as error:
            refused.append(error)

    await everybody(work)
    assert len(await kit.find(info)) == 1
    assert len(refused) == TASKS - 1


async def test_what_was_read_stays_until_the_end(kit):
    """A unit that read a record under lock cannot commit over somebody else's write of it."""
    info = await kit.info("Stock")
    await kit.do(await kit.insert(info, {"id": 1, "quantity": 5}, {"id": 2}))
    reads = (
        lambda unit: unit.read(info, [{"id": 1}]),
        lambda unit: unit.find(Query(info=info, where=conditions.parse({"id": 1}), lock=True)),
    )
    for read in reads:
        async with kit.unit() as reader, kit.unit(lock_timeout=0.3) as writer:
            await read(reader)
            await reader.execute(await kit.update(info, {"id": 2}, {"seen": 5}))
            wrote = met = False
            with suppress(StoreContention):
                await writer.execute(await kit.update(info, {"id": 1}, {"quantity": {"$increment": 1}}))
                await writer.commit()
                wrote = True
            try:
                await reader.commit()
            except StoreContention:
                met = True
            assert wrote is met


async def test_a_deadlock_is_contention(kit):
    info = await kit.info("Stock")
    await kit.do(await kit.insert(info, {"id": 1}, {"id": 2}))
    results = []

    async def work(first, second):
        async with kit.unit() as unit:
            try:
                await unit.execute(await kit.update(info, {"id": first}, {"by": first}))
                await asyncio.sleep(0.2)
                await unit.execute(await kit.update(info, {"id": second}, {"by": first}))
                await unit.commit()
                results.append("committed")
            except StoreContention:
                results.append("contention")

    await asyncio.gather(work(1, 2), work(2, 1))
    assert sorted(results) == ["committed", "contention"]


async def test_a_deleted_record_is_not_matched_any_more(kit):
    info = await kit.info("Stock")
    await kit.do(await kit.insert(info, {"id": 1, "quantity": 5}))
    async with kit.unit() as unit:
        await unit.execute(await kit.delete(info, {"id": 1}))
        waiting = asyncio.create_task(
            kit.insisting(await kit.update(info, {"quantity": {"$gt": 1}}, {"quantity": 9}))
        )
        await asyncio.sleep(0.2)
        with suppress(StoreContention):
            await unit.commit()
    assert len(await waiting) == len(await kit.find(info))
