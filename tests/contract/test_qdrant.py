"""The contract suite on Qdrant: the client's local mode in memory and in a folder, and a server by URL."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import ClassVar
from uuid import uuid4

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, models

from integration.qdrant_peer import Peer
from warehouse.adapter import Adapter
from warehouse.records import Entity, Record
from warehouse.testing.contract import AdapterContract
from warehouse.testing.harness import FIELDS, Harness
from warehouse_adapters.qdrant import QdrantAdapter, QdrantSettings

URL = "WAREHOUSE_TEST_QDRANT_URL"


class QdrantHarness(Harness):
    fields: ClassVar[frozenset[str]] = frozenset(FIELDS) - {"moment"}
    unique = False
    nulls = False
    paths: ClassVar[dict[str, str]] = {name: f"metadata.{name}" for name in FIELDS if name != "id"}
    adapter: QdrantAdapter

    def __init__(self, **place: object) -> None:
        self.settings = QdrantSettings.model_validate({"adapter": "qdrant", **place})
        self.made: list[str] = []

    async def make(self) -> Adapter:
        return QdrantAdapter(self.settings)

    async def entity(self) -> Entity:
        name = f"things_{uuid4().hex}"
        await self.adapter._connected().create_collection(
            name, vectors_config=models.VectorParams(size=3, distance=models.Distance.COSINE)
        )
        self.made.append(name)
        return Entity(name)

    def blank(self, number: int) -> Record:
        return {"vector": [1.0, number / 7, -0.3]}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if self.settings.url is not None:
            client = AsyncQdrantClient(
                url=self.settings.url, check_compatibility=False, **self.settings.options
            )
            for name in self.made:
                await client.delete_collection(name)
            await client.close()


class MemoryHarness(QdrantHarness):
    name = "qdrant-memory"


class FolderHarness(QdrantHarness):
    name = "qdrant-path"


class RestHarness(QdrantHarness):
    name = "qdrant-rest"


class GrpcHarness(QdrantHarness):
    name = "qdrant-grpc"


class TestQdrantInMemory(AdapterContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return MemoryHarness(location=":memory:")


class TestQdrantInAFolder(AdapterContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return FolderHarness(path=str(tmp_path / "vectors"))


@pytest.mark.needs_url(URL)
class TestQdrantByRest(AdapterContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return RestHarness(url=os.environ[URL])


@pytest.mark.needs_url(URL)
class TestQdrantByGrpc(AdapterContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return GrpcHarness(url=os.environ[URL], prefer_grpc=True)


class PeerHarness(QdrantHarness):
    name = "qdrant-rest-peer"

    def __init__(self, version: str) -> None:
        self.peer = Peer(version)
        transport = httpx.MockTransport(self.peer.handle)
        super().__init__(url="http://peer.test", options={"transport": transport})

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self.peer.close()


class TestQdrantByScriptedRest(AdapterContract):
    """What the adapter says to a server and makes of its replies; no server is there."""

    @pytest.fixture(params=["1.16.3", "1.17.1"])
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return PeerHarness(request.param)
