"""Sixteen writers at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from benchmarks import drivers
from benchmarks.harness import Workload
from warehouse import AsyncWarehouse

_NAME = "bench_accounts"
_MAKE = f"CREATE TABLE {_NAME} (id integer PRIMARY KEY, n bigint NOT NULL)"


class _Two(Workload):
    """PostgreSQL and MariaDB, with a driver's connection for each writer."""

    needs = ("postgres", "mariadb")
    at_once = 16
    records = 64

    async def open(self) -> None:
        self.pg = [await drivers.postgres(self.urls["postgres"]) for _ in range(self.at_once)]
        self.my = [await drivers.mariadb(self.urls["mariadb"]) for _ in range(self.at_once)]
        await self.pg[0].execute(f"DROP TABLE IF EXISTS {_NAME}")
        await self.pg[0].execute(_MAKE)
        async with self.my[0].cursor() as cursor:
            await cursor.execute(f"DROP TABLE IF EXISTS {_NAME}")
            await cursor.execute(_MAKE)
        for number in range(self.records):
            await self.pg[0].execute(f"INSERT INTO {_NAME} VALUES (%s, 0)", (number,))
            async with self.my[0].cursor() as cursor:
                await cursor.execute(f"INSERT INTO {_NAME} VALUES (%s, 0)", (number,))
        self.free: asyncio.Queue[int] = asyncio.Queue()
        for number in range(self.at_once):
            self.free.put_nowait(number)
        self.client = AsyncWarehouse(
            journal={"url": f"sqlite:///{self.folder}/journal.db"},
            adapters={
                "pg": {
                    "adapter": "sql",
                    "url": self.urls["postgres"],
                    "pool_size": self.at_once,
                },
                "my": {"adapter": "sql", "url": self.urls["mariadb"], "pool_size": self.at_once},
            },
        )
        await self.client.open()

    def count(self, tag: str, number: int) -> dict[str, Any]:
        return {
            "operation": "update",
            "from": {"tag": tag, "entity": _NAME},
            "where": {"id": number},
            "data": {"n": {"$increment": 1}},
        }

    async def close(self) -> None:
        await self.client.close()
        for connection in self.pg:
            await connection.close()
        for connection in self.my:
            await connection.ensure_closed()


class Distinct(_Two):
    name = "16 concurrent writers, PostgreSQL + MariaDB, distinct records"
    against = "the same writes by the drivers, 16 concurrent"
    target = 0.6

    async def raw(self, number: int) -> None:
        mine = await self.free.get()
        try:
            await asyncio.gather(
                self.pg[mine].execute(f"UPDATE {_NAME} SET n = n + 1 WHERE id = %s", (mine,)),
                self._update(self.my[mine], mine),
            )
        finally:
            self.free.put_nowait(mine)

    async def _update(self, connection: Any, number: int) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(f"UPDATE {_NAME} SET n = n + 1 WHERE id = %s", (number,))

    async def ours(self, number: int) -> None:
        mine = await self.free.get()
        try:
            result = await self.client.transaction([self.count("pg", mine), self.count("my", mine)])
            result.raise_for_status()
        finally:
            self.free.put_nowait(mine)


class Hot(_Two):
    name = "16 concurrent writers, one hot record (PostgreSQL)"
    against = "a SELECT FOR UPDATE loop of psycopg, 16 concurrent"
    target = 0.3
    needs = ("postgres", "mariadb")

    async def open(self) -> None:
        await super().open()
        self.won: Counter[int] = Counter()
        self.refused = 0

    async def raw(self, number: int) -> None:
        mine = await self.free.get()
        try:
            async with self.pg[mine].transaction():
                cursor = await self.pg[mine].execute(f"SELECT n FROM {_NAME} WHERE id = 0 FOR UPDATE")
                row = await cursor.fetchone()
                await self.pg[mine].execute(f"UPDATE {_NAME} SET n = %s WHERE id = 0", (row[0] + 1,))
        finally:
            self.free.put_nowait(mine)

    async def ours(self, number: int) -> None:
        mine = await self.free.get()
        try:
            (await self.client.transaction([self.count("pg", 0)])).raise_for_status()
            self.won[mine] += 1
        finally:
            self.free.put_nowait(mine)

    async def notes(self) -> dict[str, Any]:
        return {
            "fewest by one writer": min(self.won.values(), default=0),
            "most": max(self.won.values(), default=0),
        }
