"""The adapter for SQL databases: PostgreSQL, MariaDB (or MySQL) and SQLite, through SQLAlchemy's async engine."""

from __future__ import annotations

from typing import ClassVar, Final

import anyio
from pydantic import SecretStr
from sqlalchemy import Connection

from warehouse import conditions, updates
from warehouse.adapter import Capabilities, EntityInfo, Outcome, PreparedId, Query, Request, UnitSettings
from warehouse.config import AdapterSettings
from warehouse.errors import ConfigError, InvalidOperation, StoreError, TransientError, UnknownEntity
from warehouse.operations import AdapterType
from warehouse.records import Entity, Record
from warehouse_adapters.sql import postgres, statements
from warehouse_adapters.sql.backends import check_folder, create_engine, file_identity, parse
from warehouse_adapters.sql.conditions import render
from warehouse_adapters.sql.connections import Connections
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.mysql import MySQL
from warehouse_adapters.sql.postgres import PostgreSQL
from warehouse_adapters.sql.prepared import Prepared, from_gid, from_xid
from warehouse_adapters.sql.schema import Reflection
from warehouse_adapters.sql.tables import Sql, Table
from warehouse_adapters.sql.unit import SqlUnit


class SqlSettings(AdapterSettings):
    """`url` as `postgresql://`, `mysql://`, `mariadb://` or `sqlite:///file`, with or without the driver's name."""

    url: SecretStr


_MIN_RETURNING: Final = (10, 5)


class SqlAdapter:
    """See `warehouse.adapter.Adapter`. Foreign keys are enforced in SQLite, too."""

    Settings: ClassVar[type[AdapterSettings]] = SqlSettings
    type: AdapterType = "database"

    def __init__(self, settings: SqlSettings) -> None:
        self._settings = settings
        self._backend, self._url = parse(settings.url)
        self._connections: Connections | None = None
        self._opened: Dialect | None = None
        self._capabilities: Capabilities | None = None
        self._tables: dict[str, Table] = {}

    @property
    def capabilities(self) -> Capabilities:
        """See `Adapter.capabilities`."""
        if self._capabilities is None:
            raise RuntimeError("the adapter is not connected")
        return self._capabilities

    async def connect(self) -> None:
        """See `Adapter.connect`."""
        check_folder(self._url)
        engine = create_engine(self._backend, self._url, self._settings)
        self._connections = Connections(engine, self._backend.link)
        self._opened = self._backend.dialect(
            engine.dialect.identifier_preparer.quote_identifier,
            lambda kind: str(kind.compile(dialect=engine.dialect)),
        )
        try:
            self._capabilities = await self._ask()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `Adapter.close`."""
        connections, self._connections = self._connections, None
        if connections is not None:
            with anyio.CancelScope(shield=True):
                await connections.close()

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:
        """See `Adapter.describe`. Tables that a delete of this one reaches are read with it."""
        if entity.kind != "record":
            raise UnknownEntity("a SQL database has tables, no relationships", entity=entity.name)
        if fresh or entity.name not in self._tables:
            await self._reflect(entity.name)
        return self._tables[entity.name].info

    def check(self, request: Request) -> None:
        """See `Adapter.check`: what cannot be written as SQL for the table is refused."""
        table, dialect = self._table(request.entity.name), self._dialect
        if not table.key:
            raise InvalidOperation(
                f"nothing identifies the rows of {table.name!r}",
                entity=table.name,
                hint=f"give [adapters.TAG.entities.{table.name}] a `key`",
            )
        render(dialect, table, request.where)
        for item in request.assignments:
            statements.check_assignment(dialect, table, item)
        alike: dict[tuple[str, ...], list[Record]] = {}
        for record in request.records:
            alike.setdefault(tuple(record), []).append(record)
        for names, records in alike.items():
            for name in names:
                dialect.bind_all(table.column(name), [record[name] for record in records])

    def unit(self, settings: UnitSettings) -> SqlUnit:
        """See `Adapter.unit`."""
        wanted = settings.prepare_as
        prepare_as = None if wanted is None else self._prepared(wanted)
        return SqlUnit(self._pool, self._dialect, self._table, settings, prepare_as)

    async def find(self, query: Query) -> list[Record]:
        """See `Adapter.find`."""
        table = self._table(query.info.entity.name)
        rows = await self._pool.once(statements.find(self._dialect, table, query))
        return statements.found(self._dialect, table, query, table.records(rows))

    async def outcome(self, token: str) -> Outcome:
        """See `Adapter.outcome`: PostgreSQL remembers, until it crashes."""
        return postgres.told(await self._pool.once(postgres.asked(token)))

    async def prepared(self) -> list[PreparedId]:
        """See `Adapter.prepared`."""
        identity = self.capabilities.identity
        if isinstance(self._dialect, PostgreSQL):
            text = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            found = [from_gid(gid) for (gid,) in await self._pool.once(Sql(text))]
        else:
            rows = await self._pool.once(Sql("XA RECOVER"))
            found = [from_xid(form, data, identity) for form, _, _, data in rows]
        return [item for item in found if item is not None]

    async def finish(self, prepared: PreparedId, *, commit: bool) -> None:
        """See `Adapter.finish`."""
        await self._pool.finish(self._prepared(prepared), commit=commit)

    def _prepared(self, prepared: PreparedId) -> Prepared:
        return Prepared.of(prepared, self.capabilities.identity)

    @property
    def _pool(self) -> Connections:
        if self._connections is None:
            raise RuntimeError("the adapter is not connected")
        return self._connections

    @property
    def _dialect(self) -> Dialect:
        if self._opened is None:
            raise RuntimeError("the adapter is not connected")
        return self._opened

    # What there is

    async def _ask(self) -> Capabilities:
        dialect = self._dialect
        sync = await self._pool.ask(lambda connection: connection.dialect)
        version, store = tuple(sync.server_version_info or ()), dialect.name
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
            prepares=await self._prepares(),
            asks=isinstance(dialect, PostgreSQL),
            savepoints=True,
            together=dialect.together,
            conditions=conditions.OPERATORS,
            updates=updates.OPERATORS,
        )

    async def _prepares(self) -> bool:
        """Whether it prepares transactions, and lets this user find what is left of them."""
        if not self._backend.prepares:
            return False
        try:
            rows = await self._pool.once(Sql(self._backend.prepares))
        except TransientError:
            raise
        except StoreError:
            return False
        return rows[:1] != [("0",)]

    async def _identity(self) -> str:
        if not self._backend.identity:
            return file_identity(self._url)
        for question in self._backend.identity[:-1]:
            try:
                return str((await self._pool.once(Sql(question)))[0][0])
            except TransientError:
                raise  # who took the next answer would not meet the others' locks
            except StoreError:
                continue  # not permitted, or not known here
        return str((await self._pool.once(Sql(self._backend.identity[-1])))[0][0])

    def _table(self, name: str) -> Table:
        try:
            return self._tables[name]
        except KeyError:
            raise UnknownEntity(f"{name!r} was not described", entity=name) from None

    async def _reflect(self, name: str) -> None:
        dialect, settings = self._dialect, self._settings

        def read(connection: Connection) -> dict[str, Table]:
            reflection, found, waiting = Reflection(connection, dialect, settings), {}, [name]
            while waiting:
                each = waiting.pop()
                table = reflection.table(each)
                found[each] = found[table.name] = table
                waiting += [reference.child for reference in table.references if reference.child not in found]
            return found

        self._tables |= await self._pool.ask(read)
