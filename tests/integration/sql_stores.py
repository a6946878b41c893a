"""The three databases of the SQL tests, each with a place of its own that is dropped afterwards."""

from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from warehouse import conditions, updates
from warehouse.adapter import Query, Request, UnitSettings
from warehouse.records import Change, Entity
from warehouse_adapters.sql import SqlAdapter


class Store:
    """An adapter, and the database behind its back."""

    def __init__(self, kind, url, **settings):
        self.kind = kind
        self.url = url
        self.settings = settings
        self.adapter = self.again()
        self.engine = create_async_engine(make_url(url), isolation_level="AUTOCOMMIT")

    def again(self, **settings):
        return SqlAdapter(SqlAdapter.Settings(adapter="sql", url=self.url, **self.settings, **settings))

    async def sql(self, *statements):
        """Run statements as somebody else; the rows of the last one."""
        rows = []
        async with self.engine.connect() as connection:
            for statement in statements:
                result = await connection.execute(text(statement.replace(":", "\\:")))
                rows = [tuple(row) for row in result] if result.returns_rows else []
        return rows

    async def info(self, name, **options):
        return await self.adapter.describe(Entity(name), **options)

    @asynccontextmanager
    async def unit(self, lock_timeout=5.0):
        settings = UnitSettings(transaction_id=uuid4().hex, lock_timeout=lock_timeout)
        async with self.adapter.unit(settings) as unit:
            yield unit

    async def request(self, operation, name, *, where=None, data=None, records=(), **options):
        if operation == "upsert":
            options.setdefault("conflict_keys", (await self.info(name)).key)
        request = Request(
            step="step_0",
            operation=operation,
            info=await self.info(name),
            records=tuple(records),
            where=conditions.parse(where),
            assignments=updates.bind(updates.parse(data), lambda value: value) if data else (),
            **options,
        )
        self.adapter.check(request)
        return request

    async def do(self, operation, name, **parts):
        """One operation, committed; its changes."""
        request = await self.request(operation, name, **parts)
        async with self.unit() as unit:
            step = await unit.execute(request)
            await unit.commit()
        return step.changes

    async def find(self, name, where=None, **options):
        query = Query(info=await self.info(name), where=conditions.parse(where), **options)
        return await self.adapter.find(query)

    async def undo(self, changes):
        """Take changes back by guarded writes; how each ended."""
        inverses = [
            Change(
                entity=change.entity,
                key=change.key,
                before=change.after,
                after=change.before,
                written=change.written,
            )
            for change in reversed(changes)
        ]
        async with self.unit() as unit:
            written = await unit.write(inverses)
            if all(each.error is None for each in written):
                await unit.commit()
        print(*(each.error for each in written))  # noqa: T201 - shown where a test fails
        return [each.status.value for each in written]


@asynccontextmanager
async def _opened(store):
    await store.adapter.connect()
    try:
        yield store
    finally:
        await store.adapter.close()
        await store.engine.dispose()


@asynccontextmanager
async def opened(kind, request, tmp_path):
    """A fresh database (a schema in PostgreSQL), and nothing left of it."""
    name = f"w{uuid4().hex[:12]}"
    if kind == "sqlite":
        async with _opened(Store(kind, f"sqlite+aiosqlite:///{tmp_path}/{name}.db")) as store:
            yield store
        return
    server = make_url(request.getfixturevalue(kind).url)
    root = create_async_engine(server, isolation_level="AUTOCOMMIT")
    async with root.connect() as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        url = server.set(database=name).render_as_string(hide_password=False)
        async with _opened(Store(kind, url)) as store:
            yield store
    finally:
        async with root.connect() as connection:
            await connection.exec_driver_sql(f"DROP DATABASE {name}")
        await root.dispose()


KINDS = ["postgres", "mariadb", "sqlite"]
everywhere = pytest.mark.parametrize("store", KINDS, indirect=True)
