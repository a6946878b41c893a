"""The servers themselves: they boot, say who they are, and keep what they acknowledged through a kill -9."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest

import servers
from servers import ProcessServer, Server, ServerMissing
from servers.base import address, wait_until

NAMES = ["postgres", "mariadb", "redis", "mongo", "neo4j"]
FIXTURES = ["postgres", "mariadb", "redis_server", "mongo", "neo4j_server"]
WRITERS = 8
SECONDS = 0.5


class Client(Protocol):
    """A connection that keeps a set of numbers in its server."""

    async def write(self, number: int) -> None: ...
    async def read(self) -> set[int]: ...


@pytest.fixture(params=NAMES)
def private(request: pytest.FixtureRequest) -> Iterator[ProcessServer]:
    try:
        server = servers.start(request.param, private=True)
    except ServerMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
    yield server
    server.remove()


@pytest.mark.parametrize("fixture", FIXTURES)
def test_boots_and_says_its_version(fixture: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(fixture)
    assert re.match(r"\d+\.\d+", server.version)
    assert str(server) in servers.used_stores()
    assert servers.start(server.name) is server


def test_acknowledged_writes_survive_kill(private: ProcessServer) -> None:
    url, pid = private.url, private.pid
    acknowledged = asyncio.run(write_until_killed(private))
    assert len(acknowledged) > WRITERS
    assert not private.running
    assert not Path(f"/proc/{pid}").exists()

    private.restart()
    assert private.url == url
    kept = asyncio.run(read_all(private))
    assert acknowledged <= kept
    assert len(kept) <= len(acknowledged) + WRITERS


def test_restarts_after_an_orderly_stop(private: ProcessServer) -> None:
    async def write() -> None:
        async with CLIENTS[private.name](private.url) as client:
            await client.write(7)

    asyncio.run(write())
    private.stop()
    private.restart()
    assert asyncio.run(read_all(private)) == {7}


def test_mongo_updates_one_document_atomically(mongo: Server) -> None:
    from pymongo import AsyncMongoClient

    async def count_together() -> int:
        async with AsyncMongoClient[dict[str, Any]](mongo.url) as client:
            counters = client.servers_test.counters
            await counters.replace_one({"_id": 1}, {"n": 0}, upsert=True)

            async def increment() -> None:
                for _ in range(25):
                    await counters.find_one_and_update({"_id": 1}, {"$inc": {"n": 1}})

            await asyncio.gather(*(increment() for _ in range(16)))
            found = await counters.find_one({"_id": 1})
            await client.drop_database("servers_test")
            return int(found["n"]) if found else 0

    assert asyncio.run(count_together()) == 16 * 25


def test_postgres_keeps_prepared_transactions(postgres: Server) -> None:
    import psycopg

    with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
        assert connection.execute("show max_prepared_transactions").fetchone() == ("64",)
        assert connection.execute("show fsync").fetchone() == ("on",)


def test_servers_die_with_the_process_that_started_them() -> None:
    script = """if True:
        import os, servers
        server = servers.start("redis", private=True)
        print(server.pid, server.data, flush=True)
        os._exit(0)
    """
    done = run_python("-c", script)
    pid, data = done.stdout.split()
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5)
    shutil.rmtree(data)


def test_run_gives_urls_to_a_command_and_returns_its_code() -> None:
    script = "import os, sys; sys.exit(3 if 'WAREHOUSE_TEST_REDIS_URL' in os.environ else 1)"
    done = run_python("-m", "servers", "run", "redis", "--", sys.executable, "-c", script)
    assert done.returncode == 3, done.stderr


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(servers.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if "ot installed" in done.stderr and not os.environ.get("CI"):
        pytest.skip(done.stderr)
    return done


async def write_until_killed(server: ProcessServer) -> set[int]:
    """Write from several connections until the server is killed; return what it acknowledged."""
    acknowledged: set[int] = set()
    enough = asyncio.Event()
    numbers = count()

    async def writer() -> None:
        with suppress(Exception):
            async with CLIENTS[server.name](server.url) as client:
                while True:
                    number = next(numbers)
                    await client.write(number)
                    acknowledged.add(number)
                    if len(acknowledged) > WRITERS:
                        enough.set()

    writers = [asyncio.create_task(writer()) for _ in range(WRITERS)]
    await asyncio.sleep(SECONDS)
    await asyncio.wait_for(enough.wait(), 30)
    await asyncio.to_thread(server.kill)
    # A client that is cancelled while it closes stays open, so each is first given time to see the end.
    _, left = await asyncio.wait(writers, timeout=30)
    for task in left:
        task.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    return acknowledged


async def read_all(server: ProcessServer) -> set[int]:
    async with CLIENTS[server.name](server.url) as client:
        return await client.read()


class Postgres:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Client]:
        import psycopg

        target = url.replace("+psycopg", "")
        async with await psycopg.AsyncConnection.connect(target, autocommit=True) as connection:
            with suppress(psycopg.errors.UniqueViolation):
                await connection.execute("create table if not exists numbers (n bigint primary key)")
            yield cls(connection)

    async def write(self, number: int) -> None:
        await self.connection.execute("insert into numbers values (%s)", [number])

    async def read(self) -> set[int]:
        cursor = await self.connection.execute("select n from numbers")
        return {row[0] for row in await cursor.fetchall()}


class MariaDB:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Client]:
        import asyncmy

        host, port = address(url)
        connection = await asyncmy.connect(host=host, port=port, user="root", db="warehouse", autocommit=True)
        try:
            client = cls(connection)
            await client.query("create table if not exists numbers (n bigint primary key) engine=innodb")
            yield client
        finally:
            connection.close()

    async def query(self, text: str) -> Any:
        async with self.connection.cursor() as cursor:
            await cursor.execute(text)
            return await cursor.fetchall()

    async def write(self, number: int) -> None:
        await self.query(f"insert into numbers values ({number})")

    async def read(self) -> set[int]:
        return {row[0] for row in await self.query("select n from numbers")}


class Redis:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(*address(url))
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def ask(self, line: str) -> int:
        self.writer.write(f"{line}\r\n".encode())
        return int((await self.reader.readuntil(b"\r\n"))[1:])

    async def write(self, number: int) -> None:
        assert await self.ask(f"SADD numbers {number}") == 1

    async def read(self) -> set[int]:
        found: set[int] = set()
        for _ in range(await self.ask("SMEMBERS numbers")):
            await self.reader.readuntil(b"\r\n")
            found.add(int(await self.reader.readuntil(b"\r\n")))
        return found


class Mongo:
    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Client]:
        from pymongo import AsyncMongoClient

        async with AsyncMongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=3000) as client:
            yield cls(client.durable.numbers)

    async def write(self, number: int) -> None:
        await self.numbers.insert_one({"_id": number})

    async def read(self) -> set[int]:
        return {document["_id"] async for document in self.numbers.find({})}


class Neo4j:
    def __init__(self, session: Any) -> None:
        self.session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Client]:
        from neo4j import AsyncGraphDatabase

        async with AsyncGraphDatabase.driver(url) as driver, driver.session() as session:
            yield cls(session)

    async def write(self, number: int) -> None:
        result = await self.session.run("CREATE (:Number {n: $n})", n=number)
        await result.consume()

    async def read(self) -> set[int]:
        result = await self.session.run("MATCH (x:Number) RETURN x.n AS n")
        return {record["n"] async for record in result}


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Client]]] = {
    "postgres": Postgres.connect,
    "mariadb": MariaDB.connect,
    "redis": Redis.connect,
    "mongo": Mongo.connect,
    "neo4j": Neo4j.connect,
}
