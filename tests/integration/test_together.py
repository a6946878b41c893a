"""Plain inserts of one PostgreSQL go in one round trip; what fails there is told as if they had gone one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import make_url

from servers import Server
from servers.places import database
from warehouse import AsyncWarehouse
from warehouse_adapters.sql.postgres import PsycopgLink

pytestmark = pytest.mark.anyio


class Rows:
    """A table of numbers, at most 10 and each once, and a warehouse over it."""

    def __init__(
        self, warehouse: AsyncWarehouse, table: str, connection: psycopg.AsyncConnection[Any]
    ) -> None:
        self.warehouse, self.table, self.connection = warehouse, table, connection

    async def insert(self, *numbers: int, **options: Any) -> Any:
        source = {"tag": "rows", "entity": self.table}
        steps = [{"operation": "insert", "from": source, "data": {"n": number}} for number in numbers]
        return await self.warehouse.transaction(steps, **options)

    async def all(self) -> list[int]:
        cursor = await self.connection.execute(f"SELECT n FROM {self.table} ORDER BY n")
        return [row[0] for row in await cursor.fetchall()]


@pytest.fixture
async def rows(postgres: Server) -> AsyncIterator[Rows]:
    table = f"rows_{uuid4().hex[:8]}"
    url = make_url(postgres.url).set(drivername="postgresql").render_as_string(hide_password=False)
    config = {"journal": {"url": "memory://"}, "adapters": {"rows": {"adapter": "sql", "url": postgres.url}}}
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
        AsyncWarehouse.from_config(config) as warehouse,
    ):
        await connection.execute(
            f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int UNIQUE CHECK (n <= 10))"
        )
        yield Rows(warehouse, table, connection)
        await connection.execute(f"DROP TABLE {table}")


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements each round trip of the kind had."""
    seen: list[int] = []
    begin_with = PsycopgLink.begin_with

    async def counted(self: PsycopgLink, lock_timeout: float, statements: Any) -> Any:
        seen.append(len(statements))
        return await begin_with(self, lock_timeout, statements)

    monkeypatch.setattr(PsycopgLink, "begin_with", counted)
    return seen


async def test_inserts_go_together(rows: Rows, together: list[int]) -> None:
    result = await rows.insert(1, 2, 3)
    assert result.ok
    assert together == [3]
    found = [step.data[0]["n"] for step in result.step_results.values()]
    assert found == [1, 2, 3]
    assert all(step.data[0]["id"] and step.attempts == 1 for step in result.step_results.values())
    assert await rows.all() == [1, 2, 3]


@pytest.mark.parametrize("bad", [11, 1])
async def test_the_step_that_failed_is_named(rows: Rows, together: list[int], bad: int) -> None:
    result = await rows.insert(1, bad, 3)
    assert together == [3]
    assert result.status == "compensated"
    assert [step.status for step in result.step_results.values()] == ["compensated", "failed", "skipped"]
    assert type(result.cause.__cause__).__name__ in {"CheckViolation", "UniqueViolation"}
    assert await rows.all() == []
    assert (await rows.insert(4, 5)).ok
    assert await rows.all() == [4, 5]


async def test_what_needs_a_look_in_between_goes_one_by_one(rows: Rows, together: list[int]) -> None:
    assert (await rows.insert(1, 2, step_timeout=5.0)).ok
    assert together == []
    assert (await rows.insert(3)).ok
    assert together == [1]
    assert await rows.all() == [1, 2, 3]


async def test_a_value_that_another_transaction_claims_is_waited_for(rows: Rows) -> None:
    await rows.connection.execute("BEGIN")
    await rows.connection.execute(f"INSERT INTO {rows.table} (n) VALUES (2)")
    result = await rows.insert(1, 2, lock_timeout=0.5)
    assert result.status == "compensated"
    assert [step.status for step in result.step_results.values()] == ["compensated", "failed"]
    await rows.connection.execute("ROLLBACK")
    assert (await rows.insert(1, 2)).ok


@pytest.mark.parametrize("way", ["sequential", "again"])
async def test_each_insert_goes_to_its_own_store(postgres: Server, way: str) -> None:
    """Two databases with the same table, staged one after the other: as asked, or since the first try had to wait."""
    with database(postgres) as one, database(postgres) as two:
        urls = {"one": one, "two": two}
        connections = {tag: await _connect(url) for tag, url in urls.items()}
        for connection in connections.values():
            await connection.execute("CREATE TABLE things (id int PRIMARY KEY)")
        adapters = {tag: {"adapter": "sql", "url": url} for tag, url in urls.items()}
        async with AsyncWarehouse(journal={"url": "memory://"}, adapters=adapters) as warehouse:
            steps = [
                {"operation": "insert", "from": {"tag": tag, "entity": "things"}, "data": {"id": number}}
                for number, tag in enumerate(urls)
            ]
            if way == "again":
                await connections["two"].execute("BEGIN")
                await connections["two"].execute("INSERT INTO things VALUES (1)")
                running = asyncio.ensure_future(warehouse.transaction(steps))
                await asyncio.sleep(0.5)
                await connections["two"].execute("ROLLBACK")
                result = await running
            else:
                result = await warehouse.transaction(steps, concurrency="sequential")
            assert result.ok
        for number, connection in enumerate(connections.values()):
            assert await (await connection.execute("SELECT id FROM things")).fetchall() == [(number,)]
            await connection.close()


async def _connect(url: str) -> psycopg.AsyncConnection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await psycopg.AsyncConnection.connect(plain, autocommit=True)
