"""What the adapter says to a Qdrant server and makes of its replies, against a scripted peer over REST.

And the same against a real one, where a URL gives it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from integration.qdrant_peer import Peer, failure, ok
from warehouse.adapter import UnitSettings, WriteStatus, Written
from warehouse.errors import StoreError, StoreOutcomeUnknown, StoreUnavailable
from warehouse.records import ABSENT, Change, Entity, Image, get, put
from warehouse_adapters.qdrant import QdrantAdapter, QdrantSettings
from warehouse_adapters.qdrant.errors import NotFound, translate
from warehouse_adapters.qdrant.filters import guards, only
from warehouse_adapters.qdrant.points import CollectionInfo

pytestmark = pytest.mark.anyio
APPLIED, CONFLICT = WriteStatus.APPLIED, WriteStatus.CONFLICT
REFUSED, UNKNOWN = WriteStatus.REFUSED, WriteStatus.UNKNOWN
BEFORE: dict[str, Any] = {
    "id": 1,
    "vector": [1.0, 0.0],
    "metadata": {"n": 5, "s": "x", "f": 0.1, "l": ["a", "b"], "d": {"e": True}, "z": None},
}
URL = "WAREHOUSE_TEST_QDRANT_URL"


class Writer:
    """Guarded writes to one collection, past the unit's planning."""

    def __init__(self, adapter: QdrantAdapter, info: CollectionInfo) -> None:
        self.adapter = adapter
        self.info = info

    @property
    def client(self) -> Any:
        return self.adapter._connected()

    async def read(self, identifier: Any = 1) -> Image:
        async with self.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            (image,) = await unit.read(self.info, [{"id": identifier}])
        return image

    async def write(self, before: Image, after: Image, *written: str) -> Written:
        change = Change(
            entity=self.info.entity, key={"id": 1}, before=before, after=after, written=frozenset(written)
        )
        async with self.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            (done,) = await unit.write([change])
        return done

    async def insert(self) -> Image:
        assert (await self.write(ABSENT, BEFORE, *BEFORE)).status is APPLIED
        return await self.read()

    async def set(self, before: Image, path: str, value: Any) -> Written:
        assert before is not ABSENT
        return await self.write(before, put(before, path, value), path)


async def connect(peer: Peer, **more: Any) -> QdrantAdapter:
    options = {"transport": httpx.MockTransport(peer.handle)}
    adapter = QdrantAdapter(
        QdrantSettings.model_validate(
            {"adapter": "qdrant", "url": "http://peer.test", "options": options, **more}
        )
    )
    await adapter.connect()
    return adapter


async def make(adapter: QdrantAdapter) -> Writer:
    name = f"things_{uuid4().hex}"
    await adapter._connected().create_collection(
        name, vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE)
    )
    info = await adapter.describe(Entity(name))
    return Writer(adapter, info)


@pytest.fixture(params=["1.15.4", "1.16.3", "1.17.1"])
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    peer = Peer(request.param)
    yield peer
    await peer.close()


@pytest.fixture
async def writer(peer: Peer) -> AsyncIterator[Writer]:
    adapter = await connect(peer)
    yield await make(adapter)
    await adapter.close()


@pytest.mark.parametrize(
    ("version", "guarded"), [("1.15.4", "none"), ("1.16.0", "partial"), ("2.0.0", "partial")]
)
async def test_capabilities_follow_the_version(version: str, guarded: str) -> None:
    peer = Peer(version)
    adapter = await connect(peer, settle=2.5, prefer_grpc=False)
    assert adapter.capabilities.guards == guarded
    assert adapter.capabilities.version == version
    assert adapter.capabilities.settle == 2.5
    assert adapter.capabilities.identity == "qdrant://peer.test:6333"
    await adapter.close()
    await peer.close()


async def test_no_server_there() -> None:
    adapter = QdrantAdapter(QdrantSettings(adapter="qdrant", url="http://127.0.0.1:9"))
    with pytest.raises(StoreUnavailable):
        await adapter.connect()


# Somebody else writes between our comparison and our write

FORMS: dict[str, tuple[Any, ...]] = {
    "payload": ("metadata.n", 6),
    "nested": ("metadata.d.e", False),
    "list": ("metadata.l", ["c"]),
    "float": ("metadata.f", 0.3),
    "whole metadata": ("metadata", {"n": 6}),
    "null": ("metadata.z", 1),
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_foreign_write_in_between_is_a_conflict(peer: Peer, writer: Writer, form: str) -> None:
    path, value = FORMS[form]
    before = await writer.insert()
    theirs: list[Image] = []

    async def others(kind: str, name: str) -> None:
        peer.before = None
        foreign = put(before, "metadata.n" if path == "metadata" else path, "theirs")  # type: ignore[arg-type]
        await peer.store.set_payload(name, foreign["metadata"], points=[1])
        peer.operations += 1
        peer.versions[name, 1] = peer.operations
        theirs.append(await writer.read())

    peer.before = others
    assert (await writer.set(before, path, value)).status is CONFLICT
    assert [await writer.read()] == theirs


@pytest.mark.parametrize("form", ["both", "delete", "insert", "vector"])
async def test_other_forms_conflict_too(peer: Peer, writer: Writer, form: str) -> None:
    if peer.version < "1.16":
        return  # its upserts know no condition: `guards` says so
    name = writer.info.entity.name

    async def others(kind: str, _: str) -> None:
        peer.before = None
        peer.operations += 1
        peer.versions[name, 1] = peer.operations
        if form == "insert":
            await peer.store.upsert(name, [models.PointStruct(id=1, vector=[0, 1], payload={"n": 7})])
        else:
            await peer.store.set_payload(name, {"n": 7}, points=[1])

    if form == "insert":
        peer.before = others
        assert (await writer.write(ABSENT, BEFORE, *BEFORE)).status is CONFLICT
    else:
        before = await writer.insert()
        peer.before = others
        after: Image = put(put(before, "vector", [0.0, 1.0]), "metadata.n", 6)  # type: ignore[arg-type]
        paths = {"both": ("vector", "metadata.n"), "vector": ("vector",), "delete": tuple(BEFORE)}[form]
        change = Change(
            entity=writer.info.entity,
            key={"id": 1},
            before=before,
            after=ABSENT if form == "delete" else after,
            written=frozenset(paths),
            guard=frozenset({"metadata.n"}),
        )
        async with writer.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            (done,) = await unit.write([change])
        assert done.status is CONFLICT
    assert get(await writer.read(), "metadata.n") == 7
    assert get(await writer.read(), "vector") == ([0.0, 1.0] if form == "insert" else [1.0, 0.0])


@pytest.mark.parametrize("path", ["metadata.n", "vector"])
async def test_gone_in_between_is_never_made_again(peer: Peer, writer: Writer, path: str) -> None:
    before = await writer.insert()

    async def others(kind: str, name: str) -> None:
        peer.before = None
        await peer.store.delete(name, [1])

    peer.before = others
    done = await writer.set(before, path, 6 if path == "metadata.n" else [0.0, 1.0])
    assert done.status in {CONFLICT, UNKNOWN}
    assert await writer.read() is ABSENT


async def test_equal_increments_are_told_apart(peer: Peer, writer: Writer) -> None:
    """Both write 6 over 5: the one that lost reads back what it wanted to write."""
    before = await writer.insert()

    async def others(kind: str, name: str) -> None:
        peer.before = None
        assert (await writer.set(before, "metadata.n", 6)).status is APPLIED

    peer.before = others
    assert (await writer.set(before, "metadata.n", 6)).status is CONFLICT


async def test_compare_and_set_loses_nothing(peer: Peer, writer: Writer) -> None:
    await writer.insert()
    name = writer.info.entity.name
    wins = 0

    async def pause(kind: str, _: str) -> None:
        await asyncio.sleep(0)

    peer.before = peer.after = pause

    async def worker() -> None:
        nonlocal wins
        for _ in range(10):
            before = await writer.read()
            done = await writer.set(before, "metadata.n", get(before, "metadata.n") + 1)
            if done.status is UNKNOWN:  # written again before it was read back: its version tells
                assert isinstance(done.error, StoreOutcomeUnknown)
                unknown.append(1)
            wins += done.status is APPLIED

    unknown: list[int] = []
    await asyncio.gather(*(worker() for _ in range(8)))
    total = get(await writer.read(), "metadata.n") - 5
    assert wins <= total <= wins + len(unknown)
    assert total >= 10
    assert peer.versions[name, 1] <= peer.operations


# Replies that fail


async def reply_with(
    peer: Peer, writer: Writer, before: Image, answer: Any, *, late: bool = False
) -> Written:
    async def hook(kind: str, name: str) -> httpx.Response | None:
        peer.before = peer.after = None
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    if late:
        peer.after = hook
    else:
        peer.before = hook
    return await writer.set(before, "metadata.n", 6)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout("timed out"),
        httpx.RemoteProtocolError("server disconnected"),
        failure(500, "Service internal error"),
        ok({"operation_id": 9, "status": "wait_timeout"}),
        ok({"operation_id": 9, "status": "acknowledged"}),
    ],
    ids=str,
)
async def test_a_lost_reply_is_unknown(peer: Peer, writer: Writer, answer: Any, late: bool) -> None:
    before = await writer.insert()
    done = await reply_with(peer, writer, before, answer, late=late)
    assert done.status is UNKNOWN
    assert isinstance(done.error, StoreOutcomeUnknown)
    assert get(await writer.read(), "metadata.n") == (6 if late else 5)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (httpx.ConnectError("refused"), StoreUnavailable, "refused"),
        (failure(400, "Wrong input: no"), StoreError, "Wrong input: no"),
        (failure(429, "slow down"), StoreUnavailable, "slow down"),
        (failure(403, "forbidden"), StoreError, "forbidden"),
    ],
)
async def test_a_refusal_says_why(peer: Peer, writer: Writer, answer: Any, kind: type, text: str) -> None:
    before = await writer.insert()
    done = await reply_with(peer, writer, before, answer)
    assert done.status is REFUSED
    assert type(done.error) is kind
    assert text in str(done.error)
    assert done.error is not None
    assert done.error.__cause__ is not None
    assert await writer.read() == before


async def test_what_was_written_and_not_read_back_is_unknown(peer: Peer, writer: Writer) -> None:
    before = await writer.insert()

    async def cut(kind: str, name: str) -> None:
        peer.after, handle = None, peer._read

        async def lost(*_: Any) -> httpx.Response:
            peer._read = handle  # type: ignore[method-assign]
            raise httpx.ConnectError("gone")

        peer._read = lost  # type: ignore[method-assign]

    peer.after = cut
    done = await writer.set(before, "metadata.n", 6)
    assert done.status is UNKNOWN
    assert get(await writer.read(), "metadata.n") == 6


# Many in one request


class Batch:
    """Five points, and an update of all of them in one batch."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    async def make(self) -> Batch:
        points = [
            {"id": number, "vector": [1.0, 0.0], "metadata": {"n": number, "s": "x"}}
            for number in range(1, 6)
        ]
        changes = [self._change(ABSENT, point, point) for point in points]
        assert [item.status for item in await self._write(changes)] == [APPLIED] * 5
        return self

    async def update(self) -> list[WriteStatus]:
        images = [await self.writer.read(number) for number in range(1, 6)]
        changes = [
            self._change(image, put(image, "metadata.s", "y"), ["metadata.s"])  # type: ignore[arg-type]
            for image in images
        ]
        return [item.status for item in await self._write(changes)]

    async def texts(self) -> str:
        return "".join([get(await self.writer.read(number), "metadata.s") for number in range(1, 6)])  # type: ignore[arg-type]

    def _change(self, before: Image, after: Any, written: Any) -> Change:
        entity, key = self.writer.info.entity, {"id": after["id"]}
        return Change(entity=entity, key=key, before=before, after=after, written=frozenset(written))

    async def _write(self, changes: list[Change]) -> list[Written]:
        async with self.writer.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            return list(await unit.write(changes))


@pytest.fixture
async def batch(writer: Writer) -> Batch:
    return await Batch(writer).make()


async def test_of_many_only_the_one_that_somebody_changed_conflicts(peer: Peer, batch: Batch) -> None:
    async def others(kind: str, name: str) -> None:
        peer.before = None
        await peer.store.set_payload(name, {"s": "theirs"}, points=[3])
        peer.operations += 1
        peer.versions[name, 3] = peer.operations

    if peer.version < "1.16":
        return  # it knows no conditions: `allow_unguarded` says so
    peer.before = others
    assert await batch.update() == [APPLIED, APPLIED, CONFLICT, APPLIED, APPLIED]
    assert await batch.texts() == "yytheirsyy"


@pytest.mark.parametrize("late", [False, True])
async def test_a_lost_reply_to_many_is_unknown_of_each(peer: Peer, batch: Batch, late: bool) -> None:
    async def lost(kind: str, name: str) -> None:
        peer.before = peer.after = None
        raise httpx.ReadTimeout("timed out")

    setattr(peer, "after" if late else "before", lost)
    assert await batch.update() == [UNKNOWN] * 5
    assert await batch.texts() == ("yyyyy" if late else "xxxxx")


async def test_many_that_are_refused_leave_nothing_unsaid(peer: Peer, batch: Batch) -> None:
    async def refused(kind: str, name: str) -> httpx.Response:
        peer.before = None
        return failure(400, "Wrong input: no")

    peer.before = refused
    statuses = await batch.update()
    texts = await batch.texts()
    assert texts == "".join("y" if status is APPLIED else "x" for status in [*statuses, *[CONFLICT] * 5][:5])
    assert set(statuses) <= {APPLIED, REFUSED, UNKNOWN}


async def test_an_old_server_is_told_no_condition_that_it_does_not_know(peer: Peer, writer: Writer) -> None:
    seen: list[Any] = []
    apply = peer._apply

    async def spy(name: str, kind: str, body: dict[str, Any]) -> list[int | str]:
        seen.append((kind, body.get("update_filter"), body.get("update_mode")))
        return await apply(name, kind, body)

    peer._apply = spy  # type: ignore[method-assign]
    before = await writer.insert()
    after: Image = put(put(before, "vector", [0.0, 1.0]), "metadata.n", 6)  # type: ignore[arg-type]
    assert (await writer.write(before, after, "vector", "metadata.n")).status is APPLIED
    (_, on_insert, _), (kind, on_update, mode) = seen
    assert kind == "upsert"
    assert (on_insert is None) is (on_update is None) is (peer.version < "1.16")
    assert (mode == "update_only") is (peer.version >= "1.17")


# gRPC


class Rpc(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "said so"


@pytest.mark.parametrize(
    ("code", "writing", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, True, NotFound),
        (grpc.StatusCode.INVALID_ARGUMENT, True, StoreError),
        (grpc.StatusCode.PERMISSION_DENIED, False, StoreError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True, StoreUnavailable),
        (grpc.StatusCode.UNAVAILABLE, False, StoreUnavailable),
        (grpc.StatusCode.UNAVAILABLE, True, StoreOutcomeUnknown),
        (grpc.StatusCode.DEADLINE_EXCEEDED, True, StoreOutcomeUnknown),
    ],
)
async def test_grpc_errors(code: grpc.StatusCode, writing: bool, kind: type) -> None:
    error = translate(Rpc(code), writing=writing)
    assert type(error) is kind
    assert "said so" in str(error)


async def test_guards_can_be_said_by_grpc() -> None:
    said = RestToGrpc.convert_filter(only(1, guards(BEFORE, ["metadata"])))
    assert len(said.must) == 8
    assert RestToGrpc.convert_filter(models.Filter(must=[models.HasIdCondition(has_id=[])])).must


# A real server


@pytest.mark.needs_url(URL)
@pytest.mark.parametrize("prefer_grpc", [False, True])
async def test_racing_writers_of_a_real_server(prefer_grpc: bool) -> None:
    adapter = QdrantAdapter(QdrantSettings(adapter="qdrant", url=os.environ[URL], prefer_grpc=prefer_grpc))
    await adapter.connect()
    writer = await make(adapter)
    try:
        before = await writer.insert()
        for path, value in (*FORMS.values(), ("vector", [0.0, 1.0])):
            done = await asyncio.gather(*(writer.set(before, path, value) for _ in range(8)))
            unguarded = path in {"metadata.f", "vector"}  # neither can be conditioned on
            assert unguarded or sum(item.status is APPLIED for item in done) <= 1, path
            assert all(item.status in {APPLIED, CONFLICT, UNKNOWN} for item in done)
            before = await writer.read()
            assert get(before, path) == value or path == "metadata.f"
        stale = replace_metadata(before, {"n": -1})
        assert (await writer.write(stale, ABSENT, "metadata")).status is CONFLICT
        done = await asyncio.gather(*(writer.write(before, ABSENT, *BEFORE) for _ in range(8)))
        assert any(item.status is APPLIED for item in done)
        assert await writer.read() is ABSENT
    finally:
        await writer.client.delete_collection(writer.info.entity.name)
        await adapter.close()


def replace_metadata(image: Image, metadata: dict[str, Any]) -> Image:
    assert image is not ABSENT
    return image | {"metadata": metadata}
