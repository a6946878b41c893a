from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from contract import types_sql
from servers import Server
from warehouse.records import Entity
from warehouse.testing.harness import Harness
from warehouse_adapters.sql import SqlAdapter


def _counting(link, sent):
    """The class `link` of connections, noting each statement in `sent`."""

    class Counting(link):
        async def run(self, sql):
            sent.append(sql.text)
            return await super().run(sql)

    return Counting


class SqlHarness(Harness):
    table: str
    setup: tuple[str, ...] = ()
    as_text: str
    reader = None
    url: str

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.tables, self.sent = [], []

    async def make(self):
        adapter = SqlAdapter(SqlAdapter.Settings(adapter="sql", url=self.url))
        adapter._backend = replace(adapter._backend, link=_counting(adapter._backend.link, self.sent))
        return adapter

    def statements(self):
        return len(self.sent)

    async def entity(self):
        name = f"things_{uuid4().hex[:12]}"
        await self.run(f"CREATE TABLE {name} ({self.table})")
        self.tables.append(name)
        return Entity(name)

    async def typed_entity(self):
        columns = ", ".join(f"{kind.field} {kind.stored}" for kind in self.types)
        name = f"typed_{uuid4().hex[:12]}"
        await self.run(*self.setup, f"CREATE TABLE {name} (id bigint PRIMARY KEY, {columns})")
        self.tables.append(name)
        return Entity(name)

    async def rendered(self, entity, number):
        """Each column as the store writes it, read past the adapter."""
        columns = ", ".join(self.as_text.format(kind.field) for kind in self.types)
        url = make_url(self.url)
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.exec_driver_sql(
                f"SELECT {columns} FROM {entity.name} WHERE id = {number}"
            )
            row = result.first()
        await engine.dispose()
        return None if row is None else tuple(row)

    async def run(self, *statements):
        url = make_url(self.url)
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
        await engine.dispose()

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        if self.reader is not None:
            await self.reader.dispose()
        if self.tables:
            await self.run(*(f"DROP TABLE {name}" for name in self.tables))


class Postgres(SqlHarness):
    name = "postgres"
    types = types_sql.POSTGRES
    setup = types_sql.POSTGRES_SETUP
    as_text = "{0}::text"
    server = "postgres"
    table = """id bigint PRIMARY KEY, name text, count bigint, ratio double precision, active boolean,
        tags text[], email text UNIQUE, moment timestamptz, details jsonb"""


class MariaDB(SqlHarness):
    name = "mariadb"
    types = types_sql.MARIADB
    as_text = "hex(cast({0} as binary))"
    booleans = False
    server = "mariadb"
    table = """id bigint PRIMARY KEY, name varchar(200), count bigint, ratio double, active boolean,
        email varchar(200) UNIQUE, moment datetime(6), tags json, details json"""

    def value(self, field, value):
        if field == "active":
            return bool(value)
        return value.replace(tzinfo=UTC) if field == "moment" else value


class SQLite(SqlHarness):
    name = "sqlite"
    types = types_sql.SQLITE
    as_text = "typeof({0}), quote({0}), hex({0})"
    booleans = False
    table = """id INTEGER PRIMARY KEY, name TEXT, count INTEGER, ratio REAL, active BOOLEAN,
        email TEXT UNIQUE, moment DATETIME, tags JSON, details JSON"""

    def __init__(self) -> None:
        self.tables, self.sent = [], []

    async def make(self):
        from tempfile import mkdtemp

        self.url = f"sqlite+aiosqlite:///{mkdtemp()}/things.db"
        return await super().make()

    def value(self, field, value):
        if field == "active":
            return bool(value)
        return datetime.fromisoformat(value) if field == "moment" else value


HARNESSES = [Postgres, MariaDB, SQLite]
