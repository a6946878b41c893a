"""One fact in four stores."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from benchmarks import drivers
from benchmarks.harness import Workload
from warehouse import AsyncWarehouse

_NAME = "bench_fact"
_SIZE = 8


class FourStores(Workload):
    """The driver's writes go at once; Neo4j's in an explicit transaction."""

    name = "PostgreSQL + Neo4j + MongoDB protocol + Qdrant (local), one insert each"
    against = "the same 4 writes by the drivers, concurrently"
    target = 1.7
    needs = ("postgres", "neo4j", "mongo")
    rounds = 300
    warm_up = 50

    async def open(self) -> None:
        self.postgres = await drivers.postgres(self.urls["postgres"])
        await self.postgres.execute(f"DROP TABLE IF EXISTS {_NAME}")
        await self.postgres.execute(f"CREATE TABLE {_NAME} (id text PRIMARY KEY, total integer)")
        self.neo4j = drivers.neo4j(self.urls["neo4j"])
        async with self.neo4j.session() as session:
            constraint = f"CREATE CONSTRAINT {_NAME} IF NOT EXISTS FOR (n:{_NAME}) REQUIRE n.id IS UNIQUE"
            await (await session.run(constraint)).consume()
        self.mongo = drivers.mongo(self.urls["mongo"])
        await self.mongo["bench"].drop_collection(_NAME)
        self.qdrant = drivers.qdrant(f"{self.folder}/raw")
        ours = drivers.qdrant(f"{self.folder}/ours")
        for client in (self.qdrant, ours):
            await _make_collection(client)
        await ours.close()
        self.client = AsyncWarehouse(
            journal={"url": f"sqlite:///{self.folder}/journal.db"},
            adapters={
                "pg": {"adapter": "sql", "url": self.urls["postgres"]},
                "graph": {"adapter": "neo4j", "url": self.urls["neo4j"]},
                "doc": {"adapter": "mongo", "url": self.urls["mongo"], "database": "bench"},
                "vector": {"adapter": "qdrant", "path": f"{self.folder}/ours"},
            },
        )
        await self.client.open()

    async def raw(self, number: int) -> None:
        await asyncio.gather(
            self.postgres.execute(f"INSERT INTO {_NAME} VALUES (%s, %s)", (str(number), number)),
            self._node(number),
            self.mongo["bench"][_NAME].insert_one({"_id": number, "total": number}),
            _upsert(self.qdrant, number),
        )

    async def _node(self, number: int) -> None:
        async with self.neo4j.session() as session:
            transaction = await session.begin_transaction()
            result = await transaction.run(
                f"CREATE (n:{_NAME} {{id: $id, total: $total}})", id=uuid4().hex, total=number
            )
            await result.consume()
            await transaction.commit()

    def operations(self, number: int) -> list[dict[str, Any]]:
        def one(tag: str, data: dict[str, Any]) -> dict[str, Any]:
            return {"operation": "insert", "from": {"tag": tag, "entity": _NAME}, "data": data}

        return [
            one("pg", {"id": str(number), "total": number}),
            one("graph", {"id": uuid4().hex, "total": number}),
            one("doc", {"_id": number, "total": number}),
            one("vector", {"id": number, "vector": [0.5] * _SIZE, "metadata": {"total": number}}),
        ]

    async def ours(self, number: int) -> None:
        (await self.client.transaction(self.operations(number))).raise_for_status()

    async def close(self) -> None:
        await self.client.close()
        await self.postgres.close()
        await self.neo4j.close()
        await self.mongo.close()
        await self.qdrant.close()


class Compensated(FourStores):
    name = "the same, failing at its last step and compensated"
    target = 1.5

    async def ours(self, number: int) -> None:
        failing = {
            "operation": "update",
            "from": {"tag": "pg", "entity": _NAME},
            "where": {"id": "nobody"},
            "data": {"total": 0},
            "expect": {"affected_rows": 1},
        }
        result = await self.client.transaction([*self.operations(number), failing])
        if result.status != "compensated":
            raise RuntimeError(f"it was {result.status}")


async def _make_collection(client: Any) -> None:
    from qdrant_client import models

    await client.create_collection(
        _NAME, vectors_config=models.VectorParams(size=_SIZE, distance=models.Distance.DOT)
    )


async def _upsert(client: Any, number: int) -> None:
    from qdrant_client import models

    point = models.PointStruct(id=number, vector=[0.5] * _SIZE, payload={"total": number})
    await client.upsert(_NAME, [point], wait=True)
