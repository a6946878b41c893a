"""Relationships: what identifies them, what their images say, and what goes and comes back with a node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from integration.neo4j_kit import STORES, kit_of, knows
from warehouse.adapter import WriteStatus
from warehouse.errors import ConstraintViolated, InvalidOperation, StoreError
from warehouse.journal import codec
from warehouse.records import ABSENT

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


async def test_insert_names_both_ends(kit, info):
    record = knows(2) | {"properties": {"since": 1999, "gone": None}}
    (change, other) = await kit.do(await kit.insert(info, record, knows(3)))
    assert change.key == {"start": ONE, "end": TWO}
    assert change.after == {"start": ONE, "end": TWO, "properties": {"since": 1999}}
    assert change.written == {"start", "end", "properties.since", "properties.gone"}
    assert other.after == {"start": ONE, "end": THREE, "properties": {}}
    assert codec.decode(codec.encode(change.after)) == change.after
    assert await kit.find(info, {"end.key.id": 2}) == [change.after]


async def test_ends_may_be_found_by_any_condition(kit, info):
    where = {"id": {"$gt": 2}, "name": {"$null": True}}
    record = {"start": {"entity": "User", "where": where}, "end": {"entity": "User", "where": {"id": 1}}}
    (change,) = await kit.do(await kit.insert(info, record))
    assert change.after["start"] == THREE
    inexact = record | {"start": {"entity": "User", "where": {"id": 2, "name": {"$not": {"$like": "x"}}}}}
    (change,) = await kit.do(await kit.insert(info, inexact))
    assert change.after["start"] == TWO


@pytest.mark.parametrize(("where", "count"), [({"id": 9}, 0), ({"id": {"$gt": 1}}, 2)])
@pytest.mark.parametrize("end", ["start", "end"])
async def test_an_end_is_exactly_one_node(kit, info, end, where, count):
    record = knows(2) | {end: {"entity": "User", "where": where}}
    with pytest.raises(StoreError, match=f"`{end}` .* {count} match") as caught:
        await kit.do(await kit.insert(info, record))
    assert caught.value.field == end


async def test_a_second_one_between_the_same_nodes_is_refused(kit, info):
    await kit.do(await kit.insert(info, knows(2)))
    for records in ([knows(2)], [knows(3), knows(3)]):
        with pytest.raises(ConstraintViolated) as caught:
            await kit.do(await kit.insert(info, *records))
        assert caught.value.constraint == "KNOWS(start, end)"
    await kit.do(await kit.insert(info, knows(1, start=2)))
    assert len(await kit.find(info)) == 2


async def test_an_ambiguous_one_is_refused(kit, info):
    kit.run("MATCH (a:User {id: 1}), (b:User {id: 2}) CREATE (a)-[:KNOWS]->(b), (a)-[:KNOWS]->(b)")
    async with kit.unit() as unit:
        with pytest.raises(ConstraintViolated, match="several"):
            await unit.read(info, [{"start": ONE, "end": TWO}])
    with pytest.raises(ConstraintViolated, match="several"):
        await kit.do(await kit.delete(await kit.info("User"), {"id": 1}))
    assert len(await kit.find(info)) == 2


async def test_update_and_delete(kit, info):
    records = [knows(number) | {"properties": {"weight": number}} for number in (2, 3)]
    before = [change.after for change in await kit.do(await kit.insert(info, *records))]
    update = await kit.update(
        info, {"properties.weight": {"$gte": 3}, "start.key.id": 1}, {"properties.weight": {"$increment": 1}}
    )
    (change,) = await kit.do(update)
    assert (change.before, change.after["properties"]) == (before[1], {"weight": 4})
    assert change.written == {"properties.weight"}
    assert change.effects["properties.weight"].value == 1
    (capped,) = await kit.do(
        await kit.update(info, {"properties.weight": 4}, {"properties.weight": {"$min": 1}})
    )
    assert capped.after["properties"] == {"weight": 1}
    (gone,) = await kit.do(await kit.delete(info, {"properties.weight": 2}))
    assert (gone.before, gone.after) == (before[0], ABSENT)
    assert await kit.undo([change, capped, gone]) == [WriteStatus.APPLIED] * 3
    assert sorted(await kit.find(info), key=str) == before


async def test_insert_is_undone(kit, info):
    changes = await kit.do(await kit.insert(info, knows(2) | {"properties": {"x": 1}}, knows(3)))
    assert await kit.undo(changes) == [WriteStatus.APPLIED] * 2
    assert await kit.find(info) == []
    assert await kit.undo(changes) == []


async def test_upsert(kit, info):
    await kit.do(await kit.insert(info, knows(2) | {"properties": {"a": 1, "b": 1}}))
    records = [knows(2) | {"properties": {"a": 2}}, knows(3), knows(3) | {"properties": {"c": 3}}]
    changes = await kit.do(await kit.upsert(info, *records))
    assert [change.action for change in changes] == ["updated", "inserted", "updated"]
    assert changes[0].after["properties"] == {"a": 2, "b": 1}
    assert changes[0].written == {"properties.a"}
    assert changes[2].before == changes[1].after
    assert changes[2].after["properties"] == {"c": 3}


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


# Nodes with relationships


async def test_a_deleted_node_takes_its_relationships_along(kit, info):
    """They are dependent changes before those of the nodes, so that undo restores the nodes first."""
    users = await kit.info("User")
    records = [knows(2) | {"properties": {"since": 1999}}, knows(1, start=3), knows(3, start=2), knows(1)]
    inserted = await kit.do(await kit.insert(info, *records))
    changes = await kit.do(await kit.delete(users, {"id": {"$lte": 2}}))
    assert [change.dependent for change in changes] == [True] * 4 + [False] * 2
    links = [change.before for change in changes if change.dependent]
    assert sorted(links, key=str) == sorted((change.after for change in inserted), key=str)
    assert len(await kit.find(users)) == 1
    assert await kit.find(info) == []
    assert await kit.undo(changes) == [WriteStatus.APPLIED] * 6
    assert len(await kit.find(users)) == 3
    assert sorted(await kit.find(info), key=str) == sorted(links, key=str)
    assert await kit.undo(changes) == []


async def test_without_detach_a_connected_node_stays(kit, info):
    users = await kit.info("User")
    await kit.do(await kit.insert(info, knows(2)))
    with pytest.raises(ConstraintViolated) as caught:
        await kit.do(await kit.delete(users, {"id": 2}, detach=False))
    assert caught.value.constraint == "relationships"
    assert [change.key for change in await kit.do(await kit.delete(users, {"id": 3}, detach=False))] == [
        {"id": 3}
    ]
    assert len(await kit.find(users)) == 2


async def test_undo_does_not_detach_what_others_connected(kit, info):
    users = await kit.info("User")
    changes = await kit.do(await kit.insert(users, {"id": 4}))
    await kit.do(await kit.insert(info, knows(4)))
    assert await kit.undo(changes) == [WriteStatus.REFUSED]
    assert len(await kit.find(users)) == 4
    assert len(await kit.find(info)) == 1


async def test_a_relationship_is_not_restored_without_its_ends(kit, info):
    (change,) = await kit.do(await kit.insert(info, knows(2)))
    await kit.do(await kit.delete(await kit.info("User"), {"id": 2}))
    async with kit.unit() as unit:
        (written,) = await unit.write([change])
    assert written.status is WriteStatus.REFUSED
    assert isinstance(written.error, ConstraintViolated)
    assert written.error.constraint == "end"


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
