"""10,000 records in one operation."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks import drivers
from benchmarks.harness import Workload
from warehouse import AsyncWarehouse

COUNT = 10_000
_NAME = "bench_many"


def rows(number: int) -> list[dict[str, Any]]:
    """Other rows for each number."""
    first = number * COUNT
    return [
        {"id": n, "name": f"name {n}", "amount": n * 7, "active": True} for n in range(first, first + COUNT)
    ]


class _Insert(Workload):
    """Inserted by the driver's own way for many, and by one operation."""

    target = 1.3
    rounds = 9
    warm_up = 1
    adapter: ClassVar[dict[str, Any]]

    async def open(self) -> None:
        await self.connect()
        self.client = AsyncWarehouse(
            journal={"url": f"sqlite:///{self.folder}/journal.db"}, adapters={"store": self.settings()}
        )
        await self.client.open()

    def settings(self) -> dict[str, Any]:
        """The adapter's part of the configuration."""
        return {**self.adapter, "url": self.urls[self.needs[0]]}

    async def connect(self) -> None:
        """Connect the driver, and make an empty table."""
        raise NotImplementedError

    def data(self, number: int) -> list[dict[str, Any]]:
        """The records as the warehouse takes them."""
        return rows(number)

    async def ours(self, number: int) -> None:
        operation = {
            "operation": "insert",
            "from": {"tag": "store", "entity": _NAME},
            "data": self.data(number),
        }
        (await self.client.transaction([operation])).raise_for_status()

    async def close(self) -> None:
        await self.client.close()


class InsertSQLite(_Insert):
    name = "10,000 rows inserted, SQLite"
    against = "executemany of aiosqlite"

    def settings(self) -> dict[str, Any]:
        return {"adapter": "sql", "url": f"sqlite:///{self.folder}/many.db"}

    async def connect(self) -> None:
        import aiosqlite

        self.connection = await aiosqlite.connect(f"{self.folder}/many.db")
        await self.connection.execute("PRAGMA journal_mode = WAL")
        await self.connection.execute("PRAGMA synchronous = FULL")
        await self.connection.execute(
            f"CREATE TABLE {_NAME} (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER, active BOOLEAN)"
        )
        await self.connection.commit()

    async def raw(self, number: int) -> None:
        values = [tuple(record.values()) for record in rows(number)]
        await self.connection.executemany(f"INSERT INTO {_NAME} VALUES (?, ?, ?, ?)", values)
        await self.connection.commit()

    async def close(self) -> None:
        await super().close()
        await self.connection.close()


class _Postgres(_Insert):
    needs = ("postgres",)
    adapter = {"adapter": "sql"}

    async def connect(self) -> None:
        self.connection = await drivers.postgres(self.urls["postgres"])
        await self.connection.execute(f"DROP TABLE IF EXISTS {_NAME}")
        await self.connection.execute(
            f"CREATE TABLE {_NAME} (id bigint PRIMARY KEY, name text, amount bigint, active boolean)"
        )

    async def fill(self, number: int) -> None:
        values = [tuple(record.values()) for record in rows(number)]
        async with self.connection.transaction(), self.connection.cursor() as cursor:
            await cursor.executemany(f"INSERT INTO {_NAME} VALUES (%s, %s, %s, %s)", values)

    async def close(self) -> None:
        await super().close()
        await self.connection.close()


class InsertPostgres(_Postgres):
    name = "10,000 rows inserted, PostgreSQL"
    against = "executemany of psycopg (pipelined)"

    async def raw(self, number: int) -> None:
        await self.fill(number)


class InsertMariaDB(_Insert):
    name = "10,000 rows inserted, MariaDB"
    against = "executemany of asyncmy (multi-row)"
    needs = ("mariadb",)
    adapter = {"adapter": "sql"}

    async def connect(self) -> None:
        self.connection = await drivers.mariadb(self.urls["mariadb"])
        async with self.connection.cursor() as cursor:
            await cursor.execute(f"DROP TABLE IF EXISTS {_NAME}")
            await cursor.execute(
                f"CREATE TABLE {_NAME} (id bigint PRIMARY KEY, name varchar(200), amount bigint, active boolean)"
            )

    async def raw(self, number: int) -> None:
        values = [tuple(record.values()) for record in rows(number)]
        async with self.connection.cursor() as cursor:
            await cursor.executemany(
                f"INSERT INTO {_NAME} (id, name, amount, active) VALUES (%s, %s, %s, %s)", values
            )

    async def close(self) -> None:
        await super().close()
        await self.connection.ensure_closed()


class InsertMongo(_Insert):
    name = "10,000 documents inserted, MongoDB protocol"
    against = "insert_many of PyMongo"
    needs = ("mongo",)
    adapter = {"adapter": "mongo", "database": "bench"}

    async def connect(self) -> None:
        self.driver = drivers.mongo(self.urls["mongo"])
        await self.driver["bench"].drop_collection(_NAME)

    async def raw(self, number: int) -> None:
        await self.driver["bench"][_NAME].insert_many(self.data(number))

    def data(self, number: int) -> list[dict[str, Any]]:
        return [{"_id": record["id"], **record} for record in rows(number)]

    async def close(self) -> None:
        await super().close()
        await self.driver.close()


class InsertNeo4j(_Insert):
    name = "10,000 nodes created, Neo4j"
    against = "UNWIND by the driver"
    needs = ("neo4j",)
    adapter = {"adapter": "neo4j"}

    async def connect(self) -> None:
        self.driver = drivers.neo4j(self.urls["neo4j"])
        async with self.driver.session() as session:
            constraint = f"CREATE CONSTRAINT {_NAME} IF NOT EXISTS FOR (n:{_NAME}) REQUIRE n.id IS UNIQUE"
            await (await session.run(constraint)).consume()

    async def raw(self, number: int) -> None:
        async with self.driver.session() as session:
            transaction = await session.begin_transaction()
            query = f"UNWIND $rows AS row CREATE (n:{_NAME}) SET n = row"
            await (await transaction.run(query, rows=rows(number))).consume()
            await transaction.commit()

    async def close(self) -> None:
        await super().close()
        await self.driver.close()


class InsertQdrant(_Insert):
    name = "10,000 points inserted, Qdrant (local mode)"
    against = "upsert of the client"

    def settings(self) -> dict[str, Any]:
        return {"adapter": "qdrant", "path": f"{self.folder}/ours"}

    async def connect(self) -> None:
        from qdrant_client import models

        self.driver = drivers.qdrant(f"{self.folder}/raw")
        ours = drivers.qdrant(f"{self.folder}/ours")
        for client in (self.driver, ours):
            await client.create_collection(
                _NAME, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT)
            )
        await ours.close()

    async def raw(self, number: int) -> None:
        from qdrant_client import models

        points = [
            models.PointStruct(id=r["id"], vector=r["vector"], payload=r["metadata"])
            for r in self.data(number)
        ]
        await self.driver.upsert(_NAME, points, wait=True)

    def data(self, number: int) -> list[dict[str, Any]]:
        return [
            {"id": record["id"], "vector": [0.5] * 8, "metadata": dict(record)} for record in rows(number)
        ]

    async def close(self) -> None:
        await super().close()
        await self.driver.close()


class Update(_Postgres):
    name = "10,000 rows updated by a condition, with images, PostgreSQL"
    against = "UPDATE ... RETURNING of psycopg"
    target = 3.0

    async def connect(self) -> None:
        await super().connect()
        for number in range(2):
            await self.fill(number)

    async def raw(self, number: int) -> None:
        query = f"UPDATE {_NAME} SET amount = amount + 1 WHERE id < {COUNT} RETURNING *"
        await (await self.connection.execute(query)).fetchall()

    async def ours(self, number: int) -> None:
        (await self.client.transaction([self.update()])).raise_for_status()

    def update(self) -> dict[str, Any]:
        return {
            "operation": "update",
            "from": {"tag": "store", "entity": _NAME},
            "where": {"id": {"$gte": COUNT}},
            "data": {"amount": {"$increment": 1}},
        }


class Undo(Update):
    """The update before it is not counted: what takes it back is."""

    name = "undo of that"
    against = "UPDATE of psycopg"

    async def raw(self, number: int) -> None:
        await self.connection.execute(f"UPDATE {_NAME} SET amount = amount - 1 WHERE id < {COUNT}")

    async def ours(self, number: int) -> None:
        (await self.client.undo(self.made)).raise_for_status()

    async def prepare(self) -> None:
        result = await self.client.transaction([self.update()])
        self.made = result.transaction_id
        await self.client.transactions(limit=1)  # until its history is written
