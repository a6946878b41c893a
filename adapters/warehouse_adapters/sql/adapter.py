"""The adapter for SQL databases: PostgreSQL, MariaDB (or MySQL) and SQLite, through SQLAlchemy's async engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import anyio
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from warehouse import updates
from warehouse.adapter import Capabilities, EntityInfo, Outcome, Query, Request, UnitSettings
from warehouse.config import AdapterSettings
from warehouse.errors import ConfigError, InvalidOperation, StoreError, UnknownEntity
from warehouse.operations import AdapterType
from warehouse.records import Entity, Record
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.backends import check_folder, create_engine, file_identity, parse
from warehouse_adapters.sql.conditions import render
from warehouse_adapters.sql.dialects import Dialect, MySQL, PostgreSQL
from warehouse_adapters.sql.errors import translate
from warehouse_adapters.sql.links import Link, Rows
from warehouse_adapters.sql.schema import Reflection
from warehouse_adapters.sql.tables import Sql, Table
from warehouse_adapters.sql.unit import Connections, SqlUnit


class SqlSettings(AdapterSettings):
    """`url` as `postgresql://`, `mysql://`, `mariadb://` or `sqlite:///file`, with or without the driver's name."""

    url: SecretStr


_STATES: Final = {"committed": Outcome.COMMITTED, "aborted": Outcome.ROLLED_BACK}
_MIN_RETURNING: Final = (10, 5)


class SqlAdapter:
    """See `warehouse.adapter.Adapter`. Foreign keys are enforced in SQLite, too."""

    Settings: ClassVar[type[AdapterSettings]] = SqlSettings
    type: AdapterType = "database"

    def __init__(self, settings: SqlSettings) -> None:
        self._settings = settings
        self._backend, self._url = parse(settings.url)
        self._engine: AsyncEngine | None = None
        self._dialect: Dialect | None = None
        self._capabilities: Capabilities | None = None
        self._tables: dict[str, Table] = {}
        self._age = 0

    @property
    def capabilities(self) -> Capabilities:
        """See `Adapter.capabilities`."""
        if self._capabilities is None:
            raise RuntimeError("the adapter is not connected")
        return self._capabilities

    async def connect(self) -> None:
        """See `Adapter.connect`."""
        check_folder(self._url)
        dialect = self._open()
        try:
            with _translated():
                async with self._connected.connect():
                    pass  # SQLAlchemy finds out the version
            self._capabilities = await self._ask(dialect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `Adapter.close`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with anyio.CancelScope(shield=True):
                await engine.dispose()

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:
        """See `Adapter.describe`. Tables that a delete of this one reaches are read with it."""
        if entity.kind != "record":
            raise UnknownEntity("a SQL database has tables, no relationships", entity=entity.name)
        if fresh or entity.name not in self._tables:
            await self._reflect(entity.name)
        return self._tables[entity.name].info

    def check(self, request: Request) -> None:
        """See `Adapter.check`: what cannot be written as SQL for the table is refused."""
        table, dialect = self._table(request.entity.name), self._opened
        if not table.key:
            raise InvalidOperation(
                f"nothing identifies the rows of {table.name!r}",
                entity=table.name,
                hint=f"give [adapters.TAG.entities.{table.name}] a `key`",
            )
        render(dialect, table, request.where)
        for item in request.assignments:
            statements.check_assignment(dialect, table, item)
        for record in request.records:
            for name, value in record.items():
                dialect.bind(table.column(name), value)

    def unit(self, settings: UnitSettings) -> SqlUnit:
        """See `Adapter.unit`."""
        connections = Connections(
            dialect=self._opened, table=self._table, acquire=self._acquire, discard=self._discard
        )
        return SqlUnit(connections, settings)

    async def find(self, query: Query) -> list[Record]:
        """See `Adapter.find`."""
        table = self._table(query.info.entity.name)
        return table.records(await self._once(statements.find(self._opened, table, query)))

    async def outcome(self, token: str) -> Outcome:
        """See `Adapter.outcome`: PostgreSQL remembers."""
        rows = await self._once(Sql("SELECT pg_xact_status(CAST(%s AS xid8))", (token,)))
        return _STATES.get(rows[0][0], Outcome.UNKNOWN)

    # Connections

    @property
    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("the adapter is not connected")
        return self._engine

    @property
    def _opened(self) -> Dialect:
        if self._dialect is None:
            raise RuntimeError("the adapter is not connected")
        return self._dialect

    def _open(self) -> Dialect:
        self._engine = create_engine(self._backend, self._url, self._settings)
        sync = self._engine.dialect
        self._dialect = self._backend.dialect(
            sync.identifier_preparer.quote_identifier, lambda kind: str(kind.compile(dialect=sync))
        )
        return self._dialect

    async def _acquire(self) -> Link:
        while True:
            with _translated():
                link = self._backend.link(await self._connected.raw_connection())
            try:
                if await link.prepare(self._age):
                    return link
            except BaseException:
                await self._discard(link)
                raise
            await self._discard(link)

    async def _discard(self, link: Link) -> None:
        if link.lost:
            self._age += 1  # those that lie idle are most likely lost as well
        with anyio.CancelScope(shield=True):
            await link.discard()

    async def _once(self, sql: Sql) -> Rows:
        """One statement, outside of any transaction."""
        link = await self._acquire()
        try:
            rows = await link.run(sql)
        except BaseException:
            await self._discard(link)
            raise
        link.release()
        return rows

    # What there is

    async def _ask(self, dialect: Dialect) -> Capabilities:
        sync = self._connected.dialect
        version = tuple(sync.server_version_info or ())
        store = dialect.name
        if isinstance(dialect, MySQL):
            is_mariadb = bool(getattr(sync, "is_mariadb", False))
            dialect.returning = is_mariadb and version >= _MIN_RETURNING
            store = "MariaDB" if is_mariadb else "MySQL"
        if version < dialect.oldest:
            raise ConfigError(
                f"{store} {'.'.join(map(str, version))} is too old: it takes {'.'.join(map(str, dialect.oldest))}"
            )
        return Capabilities(
            store=store,
            version=".".join(str(part) for part in version if isinstance(part, int)),
            identity=f"{store}:{await self._identity()}",
            holds=True,
            asks=isinstance(dialect, PostgreSQL),
            savepoints=True,
            conditions=dialect.operators,
            updates=updates.OPERATORS,
        )

    async def _identity(self) -> str:
        if not self._backend.identity:
            return file_identity(self._url)
        for question in self._backend.identity[:-1]:
            try:
                return str((await self._once(Sql(question)))[0][0])
            except StoreError:
                continue  # not permitted, or not known here
        return str((await self._once(Sql(self._backend.identity[-1])))[0][0])

    def _table(self, name: str) -> Table:
        try:
            return self._tables[name]
        except KeyError:
            raise UnknownEntity(f"{name!r} was not described", entity=name) from None

    async def _reflect(self, name: str) -> None:
        dialect, settings = self._opened, self._settings
        found: dict[str, Table] = {}

        def read(connection: Any) -> None:
            reflection = Reflection(connection, dialect, settings)
            waiting = [name]
            while waiting:
                each = waiting.pop()
                table = found[each] = reflection.table(each)
                found[table.name] = table
                waiting += [reference.child for reference in table.references if reference.child not in found]

        with _translated():
            async with self._connected.connect() as connection:
                await connection.run_sync(read)
        self._tables |= found


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error
    except Exception as error:
        if re.match(r"psycopg|asyncmy|sqlite3", type(error).__module__):
            raise translate(error) from error
        raise
