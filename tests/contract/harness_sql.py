from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from servers import Server
from warehouse.records import Entity
from warehouse.testing.harness import Harness
from warehouse_adapters.sql import SqlAdapter


class SqlHarness(Harness):
    table: str
    url: str

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.tables = []

    async def make(self):
        return SqlAdapter(SqlAdapter.Settings(adapter="sql", url=self.url))

    async def entity(self):
        name = f"things_{uuid4().hex[:12]}"
        await self.run(f"CREATE TABLE {name} ({self.table})")
        self.tables.append(name)
        return Entity(name)

    async def run(self, *statements):
        url = make_url(self.url)
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
        await engine.dispose()

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        if self.tables:
            await self.run(*(f"DROP TABLE {name}" for name in self.tables))


class Postgres(SqlHarness):
    name = "postgres"
    server = "postgres"
    table = """id bigint PRIMARY KEY, name text, count bigint, ratio double precision, active boolean,
        tags text[], email text UNIQUE, moment timestamptz, details jsonb"""


class MariaDB(SqlHarness):
    name = "mariadb"
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
    booleans = False
    table = """id INTEGER PRIMARY KEY, name TEXT, count INTEGER, ratio REAL, active BOOLEAN,
        email TEXT UNIQUE, moment DATETIME, tags JSON, details JSON"""

    def __init__(self) -> None:
        self.tables = []

    async def make(self):
        from tempfile import mkdtemp

        self.url = f"sqlite+aiosqlite:///{mkdtemp()}/things.db"
        return await super().make()

    def value(self, field, value):
        if field == "active":
            return bool(value)
        return datetime.fromisoformat(value) if field == "moment" else value


HARNESSES = [Postgres, MariaDB, SQLite]
