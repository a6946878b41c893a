"""10,000 records inserted by one operation, against the driver's own bulk path, in each store.

Interleaved in one process (raw, ours, raw, ours, ...), warm-up discarded; medians and the ratio of them.
A store takes part where `make bench` has started a server for it; SQLite and Qdrant's local mode need none.
Everything is durable in both, the journal too, which planning stores need.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from warehouse import AsyncWarehouse

NAME = "bench_many"
HEAD = f"{'store':<26}{'driver [ms]':>12}{'ours [ms]':>12}{'ratio':>8}   driver's path"


def rows(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {"id": n, "name": f"name {n}", "amount": n * 7, "active": True} for n in range(start, start + count)
    ]


class Store(ABC):
    """One store: how to begin, and the driver's own way to insert many rows."""

    name: ClassVar[str]
    path: ClassVar[str]
    variable: ClassVar[str] = ""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.url = os.environ.get(self.variable, "")

    @abstractmethod
    def adapter(self) -> dict[str, Any]:
        """Its part of the configuration."""

    @abstractmethod
    async def open(self) -> None:
        """Connect the driver, and make an empty table."""

    @abstractmethod
    async def raw(self, records: list[dict[str, Any]]) -> None:
        """Insert by the driver."""

    def data(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records as the warehouse takes them."""
        return records


class SQLite(Store):
    name, path = "SQLite", "executemany of aiosqlite"

    def adapter(self) -> dict[str, Any]:
        return {"adapter": "sql", "url": f"sqlite:///{self.folder}/many.db"}

    async def open(self) -> None:
        import aiosqlite

        self.connection = await aiosqlite.connect(f"{self.folder}/many.db")
        await self.connection.execute("PRAGMA journal_mode = WAL")
        await self.connection.execute("PRAGMA synchronous = FULL")
        await self.connection.execute(
            f"CREATE TABLE {NAME} (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER, active BOOLEAN)"
        )
        await self.connection.commit()

    async def raw(self, records: list[dict[str, Any]]) -> None:
        values = [tuple(record.values()) for record in records]
        await self.connection.executemany(f"INSERT INTO {NAME} VALUES (?, ?, ?, ?)", values)
        await self.connection.commit()


class Postgres(Store):
    name, path, variable = "PostgreSQL", "executemany of psycopg (pipelined)", "WAREHOUSE_TEST_POSTGRES_URL"

    def adapter(self) -> dict[str, Any]:
        return {"adapter": "sql", "url": self.url}

    async def open(self) -> None:
        import psycopg

        from benchmarks.three_inserts import connection_info

        self.connection = await psycopg.AsyncConnection.connect(**connection_info(self.url), autocommit=True)
        await self.connection.execute(f"DROP TABLE IF EXISTS {NAME}")
        await self.connection.execute(
            f"CREATE TABLE {NAME} (id bigint PRIMARY KEY, name text, amount bigint, active boolean)"
        )

    async def raw(self, records: list[dict[str, Any]]) -> None:
        values = [tuple(record.values()) for record in records]
        async with self.connection.transaction(), self.connection.cursor() as cursor:
            await cursor.executemany(f"INSERT INTO {NAME} VALUES (%s, %s, %s, %s)", values)


class MariaDB(Store):
    name, path, variable = "MariaDB", "executemany of asyncmy (multi-row)", "WAREHOUSE_TEST_MARIADB_URL"

    def adapter(self) -> dict[str, Any]:
        return {"adapter": "sql", "url": self.url}

    async def open(self) -> None:
        import asyncmy
        from sqlalchemy import make_url

        where = make_url(self.url)
        self.connection = await asyncmy.connect(
            host=where.host,
            port=where.port,
            user=where.username,
            password=where.password or "",
            db=where.database,
        )
        async with self.connection.cursor() as cursor:
            await cursor.execute(f"DROP TABLE IF EXISTS {NAME}")
            await cursor.execute(
                f"CREATE TABLE {NAME} (id bigint PRIMARY KEY, name varchar(200), amount bigint, active boolean)"
            )

    async def raw(self, records: list[dict[str, Any]]) -> None:
        values = [tuple(record.values()) for record in records]
        async with self.connection.cursor() as cursor:
            await cursor.executemany(
                f"INSERT INTO {NAME} (id, name, amount, active) VALUES (%s, %s, %s, %s)", values
            )
        await self.connection.commit()


class Mongo(Store):
    name, path, variable = "MongoDB protocol", "insert_many of PyMongo", "WAREHOUSE_TEST_MONGO_URL"

    def adapter(self) -> dict[str, Any]:
        return {"adapter": "mongo", "url": self.url, "database": "bench"}

    async def open(self) -> None:
        from pymongo import AsyncMongoClient

        client: Any = AsyncMongoClient(self.url, retryWrites=False)
        self.collection = client["bench"][NAME]
        await self.collection.drop()

    async def raw(self, records: list[dict[str, Any]]) -> None:
        await self.collection.insert_many(self.data(records))

    def data(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"_id": record["id"], **record} for record in records]


class Neo4j(Store):
    name, path, variable = "Neo4j", "UNWIND of the driver", "WAREHOUSE_TEST_NEO4J_URL"

    def adapter(self) -> dict[str, Any]:
        return {"adapter": "neo4j", "url": self.url}

    async def open(self) -> None:
        import neo4j

        self.driver = neo4j.AsyncGraphDatabase.driver(self.url)
        async with self.driver.session() as session:
            await (await session.run(f"MATCH (n:{NAME}) DETACH DELETE n")).consume()
            constraint = f"CREATE CONSTRAINT {NAME} IF NOT EXISTS FOR (n:{NAME}) REQUIRE n.id IS UNIQUE"
            await (await session.run(constraint)).consume()

    async def raw(self, records: list[dict[str, Any]]) -> None:
        async with self.driver.session() as session:
            transaction = await session.begin_transaction()
            result = await transaction.run(f"UNWIND $rows AS row CREATE (n:{NAME}) SET n = row", rows=records)
            await result.consume()
            await transaction.commit()


class Qdrant(Store):
    name, path = "Qdrant (local mode)", "upsert of the client"

    def adapter(self) -> dict[str, Any]:
        return {"adapter": "qdrant", "path": f"{self.folder}/ours"}

    async def open(self) -> None:
        from qdrant_client import AsyncQdrantClient, models

        self.client = AsyncQdrantClient(path=f"{self.folder}/raw")
        ours = AsyncQdrantClient(path=f"{self.folder}/ours")
        for client in (self.client, ours):
            await client.create_collection(
                NAME, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT)
            )
        await ours.close()

    async def raw(self, records: list[dict[str, Any]]) -> None:
        from qdrant_client import models

        points = [
            models.PointStruct(id=r["id"], vector=r["vector"], payload=r["metadata"])
            for r in self.data(records)
        ]
        await self.client.upsert(NAME, points, wait=True)

    def data(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"id": record["id"], "vector": [0.5] * 8, "metadata": dict(record)} for record in records]


async def measure(store: Store, count: int, rounds: int) -> tuple[float, float]:
    """The median seconds of the driver, and of ours."""
    await store.open()
    settings = {"url": f"sqlite:///{store.folder}/journal.db"}
    raws, mine = [], []
    async with AsyncWarehouse(journal=settings, adapters={"store": store.adapter()}) as warehouse:
        for number in range(rounds + 1):
            start = time.perf_counter()
            await store.raw(rows(2 * number * count, count))
            middle = time.perf_counter()
            data = store.data(rows((2 * number + 1) * count, count))
            operation = {"operation": "insert", "from": {"tag": "store", "entity": NAME}, "data": data}
            (await warehouse.transaction([operation])).raise_for_status()
            if number:
                raws.append(middle - start)
                mine.append(time.perf_counter() - middle)
    return statistics.median(raws), statistics.median(mine)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    sys.stdout.write(f"{arguments.records} records in one operation; {arguments.rounds} rounds\n{HEAD}\n")
    for kind in (SQLite, Postgres, MariaDB, Mongo, Neo4j, Qdrant):
        with tempfile.TemporaryDirectory() as folder:
            store = kind(str(Path(folder)))
            if kind.variable and not store.url:
                sys.stdout.write(f"{kind.name:<26}not measured: {kind.variable} is not set\n")
                continue
            raw, ours = await measure(store, arguments.records, arguments.rounds)
        line = f"{kind.name:<26}{raw * 1000:>12.1f}{ours * 1000:>12.1f}{ours / raw:>8.2f}   {kind.path}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
