"""The in-process store: what the contract suite does not say of it."""

import asyncio
import math
import threading

import pytest

from warehouse import conditions, updates
from warehouse.adapter import Query, Request, UnitSettings, WriteStatus
from warehouse.errors import (
    ConfigError,
    ConstraintViolated,
    InvalidOperation,
    StoreContention,
    StoreError,
)
from warehouse.records import ABSENT, Change, Entity
from warehouse.undo import merge
from warehouse_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.anyio

USER, KNOWS = Entity("User"), Entity("KNOWS", "relationship")


class Store:
    """An adapter with short ways to say what is needed here."""

    def __init__(self, **settings):
        self.adapter = MemoryAdapter(MemoryAdapter.Settings(adapter="memory", **settings))

    def unit(self, lock_timeout=5.0):
        return self.adapter.unit(UnitSettings(transaction_id="t", lock_timeout=lock_timeout))

    async def request(self, operation, entity, *, where=None, data=None, **parts):
        request = Request(
            step="step_0",
            operation=operation,
            info=await self.adapter.describe(entity),
            where=conditions.parse(where),
            assignments=updates.bind(updates.parse(data), conditions.literal) if data else (),
            **parts,
        )
        self.adapter.check(request)
        return request

    async def insert(self, entity, *records):
        return await self.request("insert", entity, records=records)

    async def do(self, *requests):
        async with self.unit() as unit:
            steps = [await unit.execute(request) for request in requests]
            changes = [change for step in steps for change in step.changes]
            if not self.adapter._settings.transactions:
                written = await unit.write(changes)
                assert [item.status for item in written] == [WriteStatus.APPLIED] * len(changes)
            await unit.commit()
        return changes

    async def add(self, entity, *records):
        return await self.do(await self.insert(entity, *records))

    async def all(self, entity, where=None, **parts):
        info = await self.adapter.describe(entity)
        return await self.adapter.find(Query(info=info, where=conditions.parse(where), **parts))

    async def undo(self, changes):
        async with self.unit() as unit:
            for change in reversed(changes):
                info = await self.adapter.describe(change.entity)
                (current,) = await unit.read(info, [change.key])
                merged = merge(change, current, info.config)
                assert not merged.clashes
                if merged.write:
                    (written,) = await unit.write([merged.write])
                    assert written.status is WriteStatus.APPLIED, written.error
            await unit.commit()


def knows(one, other, **properties):
    return {
        "start": {"entity": "User", "where": {"id": one}},
        "end": {"entity": "User", "where": {"id": other}},
        "properties": properties,
    }


def kept(one, other, **properties):
    return {
        "start": {"entity": "User", "key": {"id": one}},
        "end": {"entity": "User", "key": {"id": other}},
        "properties": properties,
    }


@pytest.fixture(params=[True, False], ids=["held", "guarded"])
async def graph(request):
    store = Store(type="graph", transactions=request.param)
    await store.add(USER, {"id": 1}, {"id": 2}, {"id": 3})
    return store


class TestGraph:
    async def test_it_needs_one_node_at_each_end(self, graph):
        await graph.add(USER, {"id": 4, "name": "x"}, {"id": 5, "name": "x"})
        ambiguous = knows(1, 2) | {"end": {"entity": "User", "where": {"name": "x"}}}
        for record in (knows(1, 99), ambiguous):
            with pytest.raises(StoreError, match="nodes match"):
                await graph.add(KNOWS, record)
        with pytest.raises(ConstraintViolated):
            await graph.add(KNOWS, knows(1, 2), knows(1, 2))
        assert await graph.all(KNOWS) == []

    async def test_affected_counts_nodes_only(self, graph):
        await graph.add(KNOWS, knows(1, 2), knows(3, 1))
        async with graph.unit() as unit:
            step = await unit.execute(await graph.request("delete", USER, where={"id": 1}))
        assert (step.affected, len(step.changes)) == (1, 3)

    async def test_a_write_never_leaves_a_relationship_without_its_node(self, graph):
        await graph.add(KNOWS, knows(1, 2))
        node = Change(entity=USER, key={"id": 1}, before={"id": 1}, after=ABSENT, written=frozenset({"id"}))
        ends = {name: kept(1, 99)[name] for name in ("start", "end")}
        relationship = Change(
            entity=KNOWS, key=ends, before=ABSENT, after=kept(1, 99), written=frozenset({"properties"})
        )
        for change in (node, relationship):
            async with graph.unit() as unit:
                (written,) = await unit.write([change])
            assert written.status is WriteStatus.REFUSED
            assert isinstance(written.error, ConstraintViolated)

    async def test_a_configured_key(self):
        entities = {"KNOWS": {"key": ["properties.id"]}}
        store = Store(type="graph", entities=entities)
        await store.add(USER, {"id": 1}, {"id": 2})
        await store.add(KNOWS, knows(1, 2, id=7), knows(1, 2, id=8))
        with pytest.raises(ConstraintViolated, match="ends"):
            await store.do(
                await store.request(
                    "upsert", KNOWS, records=(knows(2, 1, id=7),), conflict_keys=("properties.id",)
                )
            )
        assert await store.all(KNOWS) == [kept(1, 2, id=7), kept(1, 2, id=8)]

    @pytest.mark.parametrize(
        ("record", "field"),
        [
            ({"start": {"entity": "User", "where": {"id": 1}}}, "end"),
            (knows(1, 2) | {"end": {"entity": "User", "where": {}}}, "end"),
            (knows(1, 2) | {"end": {"entity": "User", "key": {"id": 1}}}, "end"),
            (knows(1, 2) | {"since": 1}, "since"),
            (knows(1, 2) | {"properties": 1}, "properties"),
        ],
    )
    async def test_malformed_relationships_are_refused(self, record, field):
        with pytest.raises(InvalidOperation) as caught:
            await Store(type="graph").insert(KNOWS, record)
        assert caught.value.field == field

    async def test_only_a_graph_has_relationships(self):
        for kind in ("database", "vector"):
            with pytest.raises(InvalidOperation):
                await Store(type=kind).insert(KNOWS, knows(1, 2))


@pytest.fixture(params=[True, False], ids=["held", "guarded"])
def points(request):
    return Store(type="vector", transactions=request.param)


POINTS = Entity("points")


class TestVectors:
    async def test_vectors_are_single_precision(self, points):
        (change,) = await points.add(POINTS, {"id": 1, "vector": [0.1, 1], "metadata": {"ratio": 0.1}})
        assert change.after["vector"] == [0.10000000149011612, 1.0]
        assert change.after["metadata"] == {"ratio": 0.1}
        assert await points.all(POINTS) == [change.after]

    async def test_the_nearest_come_first(self, points):
        await points.add(
            POINTS,
            {"id": 1, "vector": [1.0, 0.0], "metadata": {"kind": "a"}},
            {"id": 2, "vector": [0.0, 9.0], "metadata": {"kind": "a"}},
            {"id": 3, "vector": [2.0, 2.0], "metadata": {"kind": "b"}},
        )

        async def near(limit=5, where=None):
            found = await points.all(POINTS, where, near={"vector": [0.1, 1.0], "limit": limit})
            return [record["id"] for record in found]

        assert await near() == [2, 3, 1]
        assert await near(limit=1) == [2]
        assert await near(where={"metadata.kind": "a"}) == [2, 1]

    async def test_the_first_vector_fixes_the_dimension(self):
        store = Store(type="vector")
        await store.add(POINTS, {"id": 1, "vector": [1.0, 2.0]})
        with pytest.raises(ConstraintViolated) as caught:
            await store.add(POINTS, {"id": 2, "vector": [1.0]})
        assert caught.value.constraint == "dimension"
        with pytest.raises(ConstraintViolated):
            await store.add(Entity("other"), {"id": 1, "vector": [1.0]}, {"id": 2, "vector": [1.0, 2.0]})

    async def test_the_dimension_can_be_given(self):
        store = Store(type="vector", options={"dimension": 3})
        with pytest.raises(ConstraintViolated):
            await store.add(POINTS, {"id": 1, "vector": [1.0]})

    @pytest.mark.parametrize(
        ("record", "field"),
        [
            ({"id": 1, "vector": "abc"}, "vector"),
            ({"id": 1, "vector": [1, True]}, "vector"),
            ({"id": 1, "vector": {"a": [1, "x"]}}, "vector"),
            ({"id": 1, "metadata": [1]}, "metadata"),
            ({"id": 1, "payload": {}}, "payload"),
        ],
    )
    async def test_malformed_points_are_refused(self, points, record, field):
        with pytest.raises(InvalidOperation) as caught:
            await points.insert(POINTS, record)
        assert caught.value.field == field

    async def test_only_vectors_are_searched_by_vector(self):
        with pytest.raises(InvalidOperation):
            await Store().all(USER, near={"vector": [1.0]})


class TestStore:
    async def test_a_missing_key_is_generated(self):
        store = Store()
        one, other = await store.add(USER, {"name": "a"}, {"name": "b"})
        assert len(one.after["id"]) == 32
        assert one.key["id"] != other.key["id"]
        assert one.written == {"name"}

    async def test_a_configured_key_of_several_fields_must_be_given(self):
        store = Store(entities={"User": {"key": ["a", "b"]}})
        await store.add(USER, {"a": 1, "b": 1}, {"a": 1, "b": 2})
        with pytest.raises(StoreError) as caught:
            await store.add(USER, {"a": 1})
        assert caught.value.field == "b"

    async def test_nobody_elses_objects_are_kept(self):
        store = Store()
        given = {"id": 1, "tags": ["a"]}
        (change,) = await store.add(USER, given)
        given["tags"].append("given")
        change.after["tags"].append("image")
        (found,) = await store.all(USER)
        assert found["tags"] == ["a"]
        found["tags"].append("found")
        async with store.unit() as unit:
            (image,) = await unit.read(await store.adapter.describe(USER), [{"id": 1}])
            image["tags"].append("read")
            (record,) = await unit.find(Query(info=await store.adapter.describe(USER)))
            record["tags"].append("seen")
        assert await store.all(USER) == [{"id": 1, "tags": ["a"]}]

    async def test_adapters_share_only_what_is_named(self):
        one, other, third = (Store(options={"shared": name} if name else {}) for name in ("s", "s", None))
        for store in (one, other, third):
            await store.adapter.connect()
        await one.add(USER, {"id": 1})
        assert await other.all(USER) == [{"id": 1}]
        assert await third.all(USER) == []
        identities = [store.adapter.capabilities.identity for store in (one, other, third)]
        assert identities[0] == identities[1] != identities[2]

    async def test_unknown_options_are_errors(self):
        with pytest.raises(ConfigError, match="did you mean 'unique'"):
            Store(options={"uniqe": {}})

    async def test_deadlock_ends_by_the_time_out(self):
        store = Store()
        await store.add(USER, {"id": 1, "n": 0}, {"id": 2, "n": 0})
        requests = [
            await store.request("update", USER, where={"id": number}, data={"n": {"$inc": 1}})
            for number in (1, 2)
        ]

        async def both(first, second, lock_timeout):
            async with store.unit(lock_timeout) as unit:
                await unit.execute(first)
                await asyncio.sleep(0.01)
                await unit.execute(second)
                await unit.commit()

        ends = await asyncio.gather(
            both(*requests, 5.0), both(*reversed(requests), 0.1), return_exceptions=True
        )
        assert ends[0] is None
        assert isinstance(ends[1], StoreContention)
        assert [record["n"] for record in await store.all(USER)] == [1, 1]

    async def test_an_insert_waits_for_the_unique_value_of_another(self):
        store = Store(options={"unique": {"User": [["email"]]}})

        async def insert(number):
            async with store.unit() as unit:
                await unit.execute(await store.insert(USER, {"id": number, "email": "x"}))
                await asyncio.sleep(0.01)
                await unit.commit()

        ends = await asyncio.gather(*(insert(number) for number in range(5)), return_exceptions=True)
        assert [end for end in ends if end is None] == [None]
        assert sum(isinstance(end, ConstraintViolated) for end in ends) == 4
        assert len(await store.all(USER)) == 1

    def test_threads_share_a_space(self):
        """Waiters of other event loops are woken, and nothing is lost."""
        options = {"shared": "threads"}
        store = Store(options=options)
        asyncio.run(store.add(USER, {"id": 1, "n": 0}))

        async def work():
            mine = Store(options=options)
            request = await mine.request("update", USER, where={"id": 1}, data={"n": {"$inc": 1}})
            for _ in range(25):
                await mine.do(request)

        threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert asyncio.run(store.all(USER)) == [{"id": 1, "n": 100}]

    async def test_special_floats_survive(self):
        store = Store()
        await store.add(USER, {"id": 1, "x": math.inf, "y": math.nan})
        (found,) = await store.all(USER)
        assert found["x"] == math.inf
        assert math.isnan(found["y"])
