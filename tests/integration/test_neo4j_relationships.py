"""Relationships: what identifies them, what their images say, and what goes and comes back with a node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from integration.neo4j_kit import STORES, kit_of, knows
from warehouse.adapter import WriteStatus
from warehouse.errors import ConstraintViolated, InvalidOperation, StoreError

pytestmark = pytest.mark.anyio
KNOWS, RATED = "KNOWS", "RATED"
ONE, TWO, THREE = ({"entity": "User", "key": {"id": number}} for number in (1, 2, 3))


@pytest.fixture(params=STORES)
async def kit(request):
    async with kit_of(request, keys={RATED: ("id",), "Place": ("name",)}) as kit:
        kit.unique("User")
        await kit.do(await kit.insert(await kit.info("User"), *({"id": number} for number in (1, 2, 3))))
        yield kit


@pytest.fixture
async def info(kit):
    return await kit.info(KNOWS, "relationship")


async def test_ends_may_be_found_by_any_condition(kit, info):
    where = {"id": {"$gt": 2}, "name": {"$null": True}}
    record = {"start": {"entity": "User", "where": where}, "end": {"entity": "User", "where": {"id": 1}}}
    (change,) = await kit.do(await kit.insert(info, record))
    assert change.after["start"] == THREE
    inexact = record | {"start": {"entity": "User", "where": {"id": 2, "name": {"$not": {"$like": "x"}}}}}
    (change,) = await kit.do(await kit.insert(info, inexact))
    assert change.after["start"] == TWO


async def test_an_ambiguous_one_is_refused(kit, info):
    kit.run("MATCH (a:User {id: 1}), (b:User {id: 2}) CREATE (a)-[:KNOWS]->(b), (a)-[:KNOWS]->(b)")
    async with kit.unit() as unit:
        with pytest.raises(ConstraintViolated, match="several"):
            await unit.read(info, [{"start": ONE, "end": TWO}])
    with pytest.raises(ConstraintViolated, match="several"):
        await kit.do(await kit.delete(await kit.info("User"), {"id": 1}))
    assert len(await kit.find(info)) == 2


async def test_a_configured_key(kit):
    info = await kit.info(RATED, "relationship")
    assert info.key == ("properties.id",)
    records = [knows(2) | {"properties": {"id": number, "stars": 5}} for number in (7, 8)]
    changes = await kit.do(await kit.insert(info, *records))
    assert [change.key for change in changes] == [{"properties.id": 7}, {"properties.id": 8}]
    with pytest.raises(ConstraintViolated):
        await kit.do(await kit.insert(info, knows(3) | {"properties": {"id": 7}}))
    (change,) = await kit.do(await kit.upsert(info, knows(2) | {"properties": {"id": 8, "stars": 1}}))
    assert (change.action, change.after["properties"]) == ("updated", {"id": 8, "stars": 1})
    with pytest.raises(ConstraintViolated, match="other nodes"):
        await kit.do(await kit.upsert(info, knows(3) | {"properties": {"id": 8}}))
    with pytest.raises(StoreError, match="is missing"):
        await kit.do(await kit.insert(info, knows(2) | {"properties": {"stars": 1}}))


async def test_writes_are_guarded(kit, info):
    (change,) = await kit.do(await kit.insert(info, knows(2) | {"properties": {"x": 1}}))
    after = change.after | {"properties": {"x": 2}}
    update = replace(change, before=change.after, after=after, written=frozenset({"properties.x"}))
    async with kit.unit() as unit:
        assert [item.status for item in await unit.write([change])] == [WriteStatus.CONFLICT]
    async with kit.unit() as unit:
        statuses = [item.status for item in await unit.write([update, update])]
        assert statuses == [WriteStatus.APPLIED, WriteStatus.CONFLICT]


async def test_a_node_without_key_cannot_be_an_end(kit, info):
    record = knows(2) | {"end": {"entity": "Thing", "where": {"id": 1}}}
    with pytest.raises(InvalidOperation, match="constraint"):
        await kit.insert(info, record)
    kit.run("MATCH (a:User {id: 1}) CREATE (a)-[:KNOWS]->(:Thing {id: 1})")
    with pytest.raises(StoreError, match="constraint"):
        await kit.do(await kit.delete(await kit.info("User"), {"id": 1}))
    assert len(kit.run("MATCH (n:User)-[r:KNOWS]->() RETURN n.id AS id")) == 1


async def test_a_configured_node_key_can_be_an_end(kit, info):
    await kit.do(await kit.insert(await kit.info("Place"), {"name": "Rome"}))
    record = knows(2) | {"end": {"entity": "Place", "where": {"name": "Rome"}}}
    (change,) = await kit.do(await kit.insert(info, record))
    assert change.after["end"] == {"entity": "Place", "key": {"name": "Rome"}}
    assert await kit.undo([change]) == [WriteStatus.APPLIED]


WRONG = {
    "a field of its own": knows(2) | {"since": 1999},
    "no start": {"end": knows(2)["end"]},
    "no condition": knows(2) | {"end": {"entity": "User", "where": {}}},
    "dotted": knows(2) | {"properties": {"a.b": 1}},
    "nested": knows(2) | {"properties": {"a": {"b": 1}}},
}


@pytest.mark.parametrize("record", WRONG.values(), ids=WRONG)
async def test_what_is_no_relationship_is_refused(kit, info, record):
    with pytest.raises(InvalidOperation):
        await kit.insert(info, record)


async def test_only_properties_are_updated(kit, info):
    for path in ("since", "start", "start.key.id", "properties.a.b"):
        with pytest.raises(InvalidOperation):
            await kit.update(info, {"properties.x": 1}, {path: 1})
    with pytest.raises(InvalidOperation):
        await kit.update(info, {"since": 1}, {"properties.x": 1})
