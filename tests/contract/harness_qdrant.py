"""Qdrant: the client's local mode in memory and in a folder, its REST by a scripted peer, and a server by URL."""

import os
from shutil import rmtree
from tempfile import mkdtemp
from uuid import uuid4

import httpx
import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, models

from contract import types_qdrant
from integration.qdrant_peer import Peer
from warehouse.records import Entity
from warehouse.testing.harness import FIELDS, Harness
from warehouse_adapters.qdrant import QdrantAdapter, QdrantSettings

URL = "WAREHOUSE_TEST_QDRANT_URL"


class Counting:
    """A client, noting in `sent` what is asked of it."""

    def __init__(self, client, sent):
        self._client = client
        self._sent = sent

    def __getattr__(self, name):
        self._sent.append(name)
        return getattr(self._client, name)


class QdrantHarness(Harness):
    fields = frozenset(FIELDS) - {"moment"}
    unique = False
    nulls = False
    paths = {name: f"metadata.{name}" for name in FIELDS if name != "id"}  # noqa: RUF012
    types = types_qdrant.QDRANT

    def __init__(self, **place):
        self.settings = QdrantSettings.model_validate({"adapter": "qdrant", **place})
        self.made, self.sent, self.named = [], [], False

    async def make(self):
        return QdrantAdapter(self.settings)

    async def __aenter__(self):
        await super().__aenter__()
        self.client = self.adapter._connected()
        self.adapter._store._client = Counting(self.client, self.sent)
        return self

    async def entity(self):
        return await self._collection(models.VectorParams(size=3, distance=models.Distance.COSINE))

    async def typed_entity(self):
        self.named = True
        return await self._collection(types_qdrant.DENSE, types_qdrant.SPARSE)

    async def vectors(self):
        plain = models.VectorParams(size=3, distance=models.Distance.DOT)
        dense = {"one": plain, "two": plain, "multi": types_qdrant.DENSE["multi"]}
        return await self._collection(dense, types_qdrant.SPARSE)

    async def _collection(self, dense, sparse=None):
        name = f"things_{uuid4().hex}"
        await self.client.create_collection(name, vectors_config=dense, sparse_vectors_config=sparse)
        self.made.append(name)
        return Entity(name)

    async def rendered(self, entity, number):
        found = await self.client.retrieve(entity.name, [number], with_payload=True, with_vectors=True)
        if not found:
            return None
        vectors = dict(found[0].vector or {})
        if "cosine" in vectors:  # the local mode makes it unit length anew, which may move its last bit
            vectors["cosine"] = np.round(vectors["cosine"], 5).tolist()
        payload = {name: self._kept(value) for name, value in found[0].payload.items()}
        return sorted(payload.items()), sorted(vectors.items())

    def _kept(self, value):
        """What is to come back exactly: a server moves a double by a unit in the last place at each write."""
        if isinstance(value, list):
            return [self._kept(item) for item in value]
        if isinstance(value, dict):
            return {name: self._kept(item) for name, item in value.items()}
        moves = isinstance(value, float) and self.adapter.capabilities.float_ulps
        return float(f"{value:.13g}") if moves else value

    def statements(self):
        return len(self.sent)

    def blank(self, number):
        return {} if self.named else {"vector": [1.0, number / 7, -0.3]}

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        if self.settings.url is not None:
            client = AsyncQdrantClient(
                url=self.settings.url, check_compatibility=False, **self.settings.options
            )
            for name in self.made:
                await client.delete_collection(name)
            await client.close()


class QdrantInMemory(QdrantHarness):
    name = "qdrant-memory"

    def __init__(self):
        super().__init__(location=":memory:")


class QdrantInAFolder(QdrantHarness):
    name = "qdrant-path"
    many = 1_000  # it makes each point durable by itself

    def __init__(self):
        self.folder = mkdtemp()
        super().__init__(path=f"{self.folder}/vectors")

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        rmtree(self.folder)


class QdrantByRest(QdrantHarness):
    name = "qdrant-rest"
    marks = (pytest.mark.needs_url(URL),)

    def __init__(self):
        super().__init__(url=os.environ[URL])


class QdrantByGrpc(QdrantHarness):
    name = "qdrant-grpc"
    marks = (pytest.mark.needs_url(URL),)

    def __init__(self):
        super().__init__(url=os.environ[URL], prefer_grpc=True)


class QdrantByScriptedRest(QdrantHarness):
    """What the adapter says to a server and makes of its replies; no server is there."""

    name = "qdrant-peer-1.17"
    version = "1.17.1"
    many = 200  # the peer looks at all points for each condition

    def __init__(self):
        self.peer = Peer(self.version)
        transport = httpx.MockTransport(self.peer.handle)
        super().__init__(url="http://peer.test", options={"transport": transport})

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        await self.peer.close()


class QdrantByOlderScriptedRest(QdrantByScriptedRest):
    name = "qdrant-peer-1.16"
    version = "1.16.3"


HARNESSES = [
    QdrantInMemory,
    QdrantInAFolder,
    QdrantByScriptedRest,
    QdrantByOlderScriptedRest,
    QdrantByRest,
    QdrantByGrpc,
]
