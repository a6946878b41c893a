"""Qdrant in local mode: ids, vectors, payloads, and what the store's own peculiarities must not show."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from pydantic import ValidationError
from qdrant_client import AsyncQdrantClient, models

from warehouse import conditions, updates
from warehouse.adapter import Query, Request, UnitSettings, WriteStatus, Written
from warehouse.errors import (
    ConfigError,
    InvalidOperation,
    StoreUnavailable,
    UnknownEntity,
    UnknownField,
)
from warehouse.records import ABSENT, Change, Entity, Record, float32, get, put
from warehouse_adapters.qdrant import QdrantAdapter, QdrantSettings
from warehouse_adapters.qdrant.points import CollectionInfo

pytestmark = pytest.mark.anyio
APPLIED, CONFLICT = WriteStatus.APPLIED, WriteStatus.CONFLICT
NAMED = {
    "image": models.VectorParams(size=2, distance=models.Distance.EUCLID),
    "text": models.VectorParams(size=3, distance=models.Distance.COSINE),
    "pages": models.VectorParams(
        size=2,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    ),
}


def settings(**place: Any) -> QdrantSettings:
    return QdrantSettings.model_validate({"adapter": "qdrant", **place})


@asynccontextmanager
async def connected(**place: Any) -> AsyncIterator[QdrantAdapter]:
    adapter = QdrantAdapter(settings(**place))
    await adapter.connect()
    try:
        yield adapter
    finally:
        await adapter.close()


class Store:
    """An adapter, one collection of it, and operations as the engine hands them on."""

    def __init__(self, adapter: QdrantAdapter, info: CollectionInfo) -> None:
        self.adapter = adapter
        self.info = info

    @property
    def client(self) -> AsyncQdrantClient:
        return self.adapter._connected()

    async def do(self, operation: Any, *records: Record, where: Any = None, data: Any = None) -> list[Change]:
        async with self.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            step = await unit.execute(self.request(operation, *records, where=where, data=data))
            for written in await unit.write(step.changes):
                assert written.status is APPLIED, written.error
        return list(step.changes)

    def request(self, operation: Any, *records: Record, where: Any = None, data: Any = None) -> Request:
        items = () if data is None else updates.bind(updates.parse(data), conditions.literal)
        request = Request(
            step="step_0",
            operation=operation,
            info=self.info,
            records=records,
            where=conditions.parse(where),
            assignments=items,
            conflict_keys=("id",),
        )
        self.adapter.check(request)
        return request

    async def find(self, where: Any = None, **parts: Any) -> list[Record]:
        return await self.adapter.find(Query(info=self.info, where=conditions.parse(where), **parts))

    async def read(self, identifier: Any) -> Any:
        async with self.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            (image,) = await unit.read(self.info, [{"id": identifier}])
        return image

    async def write(self, change: Change) -> Written:
        async with self.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            (written,) = await unit.write([change])
        return written

    async def change(self, identifier: Any, **values: Any) -> Change:
        """Set paths (dots written `__`) of the record as it is now."""
        before = await self.read(identifier)
        after = before
        paths = {name.replace("__", "."): value for name, value in values.items()}
        for path, value in paths.items():
            after = put(after, path, value)
        return Change(
            entity=self.info.entity,
            key={"id": identifier},
            before=before,
            after=after,
            written=frozenset(paths),
        )


async def make(adapter: QdrantAdapter, name: str = "things", **config: Any) -> Store:
    vectors = config.pop(
        "vectors_config", models.VectorParams(size=2, distance=config.pop("distance", models.Distance.DOT))
    )
    await adapter._connected().create_collection(name, vectors_config=vectors, **config)
    return Store(adapter, await adapter.describe(Entity(name)))


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with connected(location=":memory:") as adapter:
        yield await make(adapter)


@pytest.fixture
async def named() -> AsyncIterator[Store]:
    async with connected(location=":memory:") as adapter:
        sparse = {"words": models.SparseVectorParams()}
        yield await make(adapter, vectors_config=NAMED, sparse_vectors_config=sparse)


# Settings and connection


@pytest.mark.parametrize(
    "place", [{}, {"url": "http://x", "path": "y"}, {"location": ":memory:", "path": "y"}, {"location": "x"}]
)
def test_exactly_one_place(place: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"exactly one of|can only be"):
        settings(**place)


def test_the_key_is_secret() -> None:
    assert "hunter2" not in repr(settings(url="https://x", api_key="hunter2"))


async def test_nothing_is_known_before_connecting() -> None:
    adapter = QdrantAdapter(settings(location=":memory:"))
    with pytest.raises(RuntimeError):
        _ = adapter.capabilities
    await adapter.close()


def test_a_missing_driver_names_the_extra() -> None:
    script = """
import sys
sys.modules["qdrant_client"] = None
from warehouse.errors import ConfigError
try:
    import warehouse_adapters.qdrant
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'warehouse[qdrant]'" in done.stdout


async def test_a_folder_is_shared_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    async with connected(path=str(tmp_path / "data")) as one:
        mine = await make(one)
        async with connected(path=str(tmp_path / "link")) as other:
            assert other.capabilities.identity == one.capabilities.identity
            await mine.do("insert", {"id": 1, "vector": [1, 2]})
            theirs = Store(other, await other.describe(Entity("things")))
            assert await theirs.find() == [{"id": 1, "vector": [1.0, 2.0], "metadata": {}}]
        assert len(await mine.find()) == 1


async def test_a_folder_is_open_in_one_process_only(tmp_path: Path) -> None:
    script = (
        "import sys, time; from qdrant_client import QdrantClient;"
        f"c = QdrantClient(path={str(tmp_path)!r}); print('open', flush=True); sys.stdin.read(); c.close()"
    )
    other = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs here
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreUnavailable, match="open in another process"):
            await QdrantAdapter(settings(path=str(tmp_path))).connect()
    finally:
        other.communicate("")
    async with connected(path=str(tmp_path)) as adapter:
        await make(adapter)


@pytest.mark.parametrize("distance", [models.Distance.COSINE, models.Distance.DOT])
async def test_reopening_changes_no_image(tmp_path: Path, distance: models.Distance) -> None:
    generator = np.random.default_rng(1)
    async with connected(path=str(tmp_path)) as adapter:
        store = await make(adapter, distance=distance)
        ulps = adapter.capabilities.float_ulps
        rows = [{"id": n, "vector": generator.normal(size=2).tolist()} for n in range(50)]
        images = {change.key["id"]: change.after for change in await store.do("insert", *rows)}
        for vector in (generator.normal(size=2).tolist() for _ in range(3)):
            changes = await store.do("update", where={"id": {"$lt": 20}}, data={"vector": vector})
            images |= {change.key["id"]: change.after for change in changes}
        before = await store.find()
    async with connected(path=str(tmp_path)) as adapter:
        store = Store(adapter, await adapter.describe(Entity("things")))
        after = await store.find()
    from warehouse.records import same

    for record in (*before, *after):
        assert same(record, images[record["id"]], ulps=ulps)


# Collections


async def test_describe(named: Store) -> None:
    assert named.info.key == ("id",)
    assert named.info.fields == {"id", "vector", "metadata"}
    assert set(named.info.vectors) == {"image", "text", "pages", "words"}
    assert named.info.required == frozenset()


async def test_unknown_collections(store: Store) -> None:
    describe = store.adapter.describe
    with pytest.raises(UnknownEntity, match="did you mean 'things'"):
        await describe(Entity("thing"))
    with pytest.raises(UnknownEntity, match="no name of a collection"):
        await describe(Entity(".."))
    with pytest.raises(UnknownEntity, match="no relationships"):
        await describe(Entity("things", "relationship"))
    alias = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name="things", alias_name="latest")
    )
    await store.client.update_collection_aliases([alias])
    with pytest.raises(UnknownEntity, match=r"alias.*'things'"):
        await describe(Entity("latest"))


async def test_another_key_is_refused() -> None:
    config = {"things": {"key": ["metadata.sku"]}}
    async with connected(location=":memory:", entities=config) as adapter:
        with pytest.raises(ConfigError, match="by its id alone"):
            await make(adapter)


# Ids


async def test_a_text_id_is_kept_beside_a_stable_uuid(store: Store) -> None:
    (change,) = await store.do("insert", {"id": "order-7", "vector": [1, 2], "metadata": {"a": 1}})
    assert change.key == {"id": "order-7"}
    (point,), _ = await store.client.scroll("things")
    assert point.id == "6bfdb052-0ec6-5e88-81c7-a2b1b16ecea0"
    assert point.payload == {"a": 1, "_id": "order-7"}
    expected = {"id": "order-7", "vector": [1.0, 2.0], "metadata": {"a": 1}}
    assert await store.find({"id": "order-7"}) == [expected]
    await store.do("update", where={"id": "order-7"}, data={"metadata": {"b": 2}, "vector": [3, 4]})
    await store.do("update", where={"id": "order-7"}, data={"metadata": {"c": 3}})
    assert await store.read("order-7") == {"id": "order-7", "vector": [3.0, 4.0], "metadata": {"c": 3}}
    await store.do("delete", where={"id": "order-7"})
    assert await store.read("order-7") is ABSENT


async def test_id_field_is_configured() -> None:
    async with connected(location=":memory:", entities={"things": {"id_field": "key"}}) as adapter:
        store = await make(adapter)
        await store.do("insert", {"id": "a b", "vector": [1, 2], "metadata": {"_id": "mine"}})
        assert (await store.read("a b"))["metadata"] == {"_id": "mine"}
        with pytest.raises(InvalidOperation, match="keeps the id"):
            store.request("insert", {"id": 1, "vector": [1, 2], "metadata": {"key": 1}})
        with pytest.raises(InvalidOperation, match="keeps the id"):
            store.request("update", data={"metadata.key": 1})


async def test_a_foreign_payload_field_of_that_name_is_shown(store: Store) -> None:
    identifier = str(uuid4())
    await store.client.upsert(
        "things", [models.PointStruct(id=identifier, vector=[1, 2], payload={"_id": "x"})]
    )
    await store.do("update", where={"id": identifier}, data={"metadata.a": 1, "vector": [2, 3]})
    assert (await store.read(identifier))["metadata"] == {"_id": "x", "a": 1}


async def test_an_id_is_generated(store: Store) -> None:
    (change,) = await store.do("insert", {"vector": [1, 2]})
    assert str(UUID(change.key["id"])) == change.key["id"]


async def test_numbers_and_uuids_are_different(store: Store) -> None:
    rows = [{"id": value, "vector": [1, 2]} for value in (5, "5", str(UUID(int=5)), 2**64 - 1)]
    await store.do("insert", *rows)
    assert {record["id"] for record in await store.find()} == {row["id"] for row in rows}


# Vectors


async def test_images_show_float32(store: Store) -> None:
    (change,) = await store.do("insert", {"id": 1, "vector": np.array([0.1, 0.2])})
    assert get(change.after, "vector") == [float32(0.1), float32(0.2)] != [0.1, 0.2]
    assert await store.read(1) == change.after


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1, 2], "give a mapping of names"),
        ({"picture": [1, 2]}, "no such vector"),
        ({"image": [1, 2, 3]}, "3 dimensions, and the collection takes 2"),
        ({"image": [1, float("nan")]}, "no finite number"),
        ({"image": [1, 1e39]}, "no finite number"),
        ({"image": ["1", 2]}, "vectors hold numbers"),
        ({"image": [True, 2]}, "vectors hold numbers"),
        ({"image": {"indices": [1], "values": [1]}}, "a list of numbers"),
        ({"words": [1, 2]}, "a sparse vector is"),
        ({"words": {"indices": [1, 1], "values": [1, 2]}}, "each once"),
        ({"words": {"indices": [1], "values": [1, 2]}}, "as many values"),
        ({"words": {"indices": [-1], "values": [1]}}, "no index"),
        ({"words": {"indices": [2**32], "values": [1]}}, "no index"),
        ({"pages": []}, "non-empty list of vectors"),
    ],
)
async def test_vectors_that_are_refused(named: Store, vector: Any, message: str) -> None:
    with pytest.raises(InvalidOperation, match=message) as caught:
        named.request("insert", {"id": 1, "vector": vector})
    assert str(caught.value.field).startswith("vector")


async def test_updates_of_vectors_that_are_refused(named: Store, store: Store) -> None:
    for data in ({"vector.image": {"$increment": 1}}, {"vector.picture": [1]}, {"vector.image.0": 1}):
        with pytest.raises(InvalidOperation):
            named.request("update", data=data)
    with pytest.raises(InvalidOperation, match="vector"):
        store.request("update", data={"vector.0": 1.0})


async def test_datatypes() -> None:
    async with connected(location=":memory:") as adapter:
        params = {
            "half": models.VectorParams(
                size=1, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16
            ),
            "byte": models.VectorParams(size=1, distance=models.Distance.DOT, datatype=models.Datatype.UINT8),
        }
        store = await make(adapter, vectors_config=params)
        (change,) = await store.do("insert", {"id": 1, "vector": {"half": [0.1], "byte": [255]}})
        assert get(change.after, "vector") == {"half": [float(np.float16(0.1))], "byte": [255.0]}
        assert await store.read(1) == change.after
        for vector in ({"byte": [1.5]}, {"byte": [256]}, {"half": [1e6]}):
            with pytest.raises(InvalidOperation):
                store.request("insert", {"id": 1, "vector": vector})


# Payloads


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"a": 2**63}, "metadata.a"),
        ({"a": {"b": [1, float("inf")]}}, "metadata.a.b.1"),
        ({"a": Decimal("1.5")}, "metadata.a"),
        ({"a": b"x"}, "metadata.a"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "metadata.a"),
        ({"a": "\ud800"}, "metadata.a"),
        ({1: "x"}, "metadata"),
        ({"_id": "x"}, "metadata._id"),
        ("x", "metadata"),
    ],
)
async def test_metadata_that_is_refused(store: Store, value: Any, field: str) -> None:
    with pytest.raises(InvalidOperation) as caught:
        store.request("insert", {"id": 1, "vector": [1, 2], "metadata": value})
    assert caught.value.field == field


async def test_a_payload_field_at_top_level_gives_a_hint(store: Store) -> None:
    attempts = [
        ("insert", ({"id": 1, "color": "red"},), None, None),
        ("update", (), {"color": "red"}, {"metadata.a": 1}),
        ("update", (), None, {"color": "red"}),
    ]
    for operation, records, where, data in attempts:
        with pytest.raises(UnknownField, match=r"`metadata\.color`"):
            store.request(operation, *records, where=where, data=data)
    with pytest.raises(InvalidOperation, match="cannot be changed"):
        store.request("update", data={"id": 2})


async def test_null_equals_missing(store: Store) -> None:
    given = {"a": None, "b": {"c": None, "d": 1}, "e": [None, {"f": None}]}
    (change,) = await store.do("insert", {"id": 1, "vector": [1, 2], "metadata": given})
    assert get(change.after, "metadata") == {"b": {"d": 1}, "e": [None, {}]}
    assert await store.read(1) == change.after
    await store.do("update", where={"id": 1}, data={"metadata.b.d": None, "metadata.e": None})
    assert (await store.read(1))["metadata"] == {"b": {}}
    await store.client.upsert("things", [models.PointStruct(id=2, vector=[1, 2], payload=given)])
    assert (await store.read(2))["metadata"] == {"b": {"d": 1}, "e": [None, {}]}


async def test_writes_leave_alone_what_they_do_not_name(store: Store) -> None:
    metadata = {"a": {"x": 1, "y": {"z": 1}}, "b.c": 1, 'q"q': {"r": 1}, "l": [1, {"m": 2}]}
    await store.do("insert", {"id": 1, "vector": [1, 2], "metadata": metadata})
    change = await store.change(1, metadata__a__x=2)
    await store.client.set_payload("things", {"z": 2}, points=[1], key="a.y")
    await store.client.set_payload("things", {"new": 3}, points=[1])
    assert (await store.write(change)).status is APPLIED
    expected = {**metadata, "a": {"x": 2, "y": {"z": 2}}, "new": 3}
    assert (await store.read(1))["metadata"] == expected
    change = await store.change(1, metadata__a__y__w=5, metadata__l__1__m=3, metadata__n__o=1)
    assert (await store.write(change)).status is APPLIED
    expected |= {"a": {"x": 2, "y": {"z": 2, "w": 5}}, "l": [1, {"m": 3}], "n": {"o": 1}}
    assert (await store.read(1))["metadata"] == expected
    change = await store.change(1, **{'metadata__q"q__r': 2}, vector=[5.0, 6.0])
    await store.client.set_payload("things", {"late": 4}, points=[1])
    assert (await store.write(change)).status is APPLIED
    expected |= {'q"q': {"r": 2}, "late": 4}
    assert await store.read(1) == {"id": 1, "vector": [5.0, 6.0], "metadata": expected}


async def test_what_filters_cannot_guard_is_compared_before(store: Store) -> None:
    await store.do("insert", {"id": 1, "vector": [1, 2], "metadata": {"f": 1.5, "l": [1], "d": {"x": 1}}})
    for path, value in (
        ("metadata__f", 2.5),
        ("metadata__l", [1, 2]),
        ("metadata__d", {}),
        ("vector", [0.0, 1.0]),
    ):
        stale = replace(await store.change(1, **{path: value}), before=await store.read(1))
        other = [9.0, 9.0] if path == "vector" else "theirs"
        theirs = await store.change(1, **{path: other})
        assert (await store.write(theirs)).status is APPLIED
        assert (await store.write(stale)).status is CONFLICT
        assert get(await store.read(1), path.replace("__", ".")) == other


# Reading


async def test_near(named: Store) -> None:
    rows = [
        {
            "id": n,
            "vector": {"image": [n, 0], "words": {"indices": [n], "values": [1.0]}},
            "metadata": {"even": n % 2 == 0, "name": f"n{n}"},
        }
        for n in range(1, 30)
    ]
    await named.do("insert", *rows)
    near = {"vector": [10.2, 0], "using": "image", "limit": 3}
    found = await named.find(near=near)
    assert [record["id"] for record in found] == [10, 11, 9]
    assert found[0]["score"] == pytest.approx(0.2, rel=1e-3)
    assert set(found[0]) == {"id", "vector", "metadata", "score"}
    found = await named.find({"metadata.even": True}, near=near)
    assert [record["id"] for record in found] == [10, 12, 8]
    # no filter of the store says this, so more than three are asked for
    found = await named.find({"metadata.name": {"$endsWith": "5"}}, near=near, offset=1)
    assert [record["id"] for record in found] == [5, 25]
    sparse = {"vector": {"indices": [4], "values": [1]}, "using": "words", "limit": 1}
    assert [record["id"] for record in await named.find(near=sparse)] == [4]


@pytest.mark.parametrize(
    "near",
    [
        {"vector": [1, 2]},
        {"vector": [1], "using": "image"},
        {"vector": [1, 2], "using": "image", "limit": 0},
        {"k": 1},
    ],
)
async def test_near_that_is_refused(named: Store, near: dict[str, Any]) -> None:
    with pytest.raises(InvalidOperation):
        await named.find(near=near)


async def test_pages(store: Store) -> None:
    rows = [{"id": n, "vector": [n, 0], "metadata": {"n": n}} for n in range(600)]
    await store.do("insert", *rows)
    assert len(await store.find()) == 600
    assert len(await store.find({"metadata.n": {"$gte": 100}}, limit=300, offset=10)) == 300
    assert [record["id"] for record in await store.find(order_by=("-metadata.n",), limit=2)] == [599, 598]
    assert await store.find({"id": {"$in": []}}) == []


# Concurrency


@pytest.mark.parametrize("place", ["memory", "folder"])
async def test_compare_and_set_loses_nothing(tmp_path: Path, place: str) -> None:
    where = {"location": ":memory:"} if place == "memory" else {"path": str(tmp_path)}
    async with connected(**where) as adapter:
        store = await make(adapter)
        await store.do("insert", {"id": 1, "vector": [1, 2], "metadata": {"n": 0}})
        wins = 0

        async def worker() -> None:
            nonlocal wins
            for _ in range(20):
                change = await store.change(1, metadata__n=None)
                raised = change.before["metadata"]["n"] + 1  # type: ignore[index]
                await asyncio.sleep(0)
                change = replace(change, after=put(change.before, "metadata.n", raised))  # type: ignore[arg-type]
                wins += (await store.write(change)).status is APPLIED

        await asyncio.gather(*(worker() for _ in range(8)))
        assert 20 <= wins < 160
        assert (await store.read(1))["metadata"]["n"] == wins


async def test_one_of_many_inserts_wins(store: Store) -> None:
    async def insert(number: int) -> bool:
        after = {"id": 1, "vector": [1.0, 2.0], "metadata": {"by": number}}
        change = Change(
            entity=store.info.entity, key={"id": 1}, before=ABSENT, after=after, written=frozenset(after)
        )
        return (await store.write(change)).status is APPLIED

    won = await asyncio.gather(*(insert(number) for number in range(8)))
    assert sum(won) == 1
    assert (await store.read(1))["metadata"] == {"by": won.index(True)}
