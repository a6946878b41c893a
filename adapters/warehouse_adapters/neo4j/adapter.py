"""The adapter of Neo4j, and of what speaks its protocol and language: ArcadeDB."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, ClassVar, Final

from neo4j import AsyncDriver, AsyncGraphDatabase
from neo4j.exceptions import AuthError, ConfigurationError
from pydantic import SecretStr

from warehouse.adapter import Capabilities, EntityInfo, Outcome, PreparesNothing, Query, Request, UnitSettings
from warehouse.config import AdapterSettings
from warehouse.errors import ConfigError, StoreError
from warehouse.operations import AdapterType
from warehouse.records import Entity, Record
from warehouse_adapters.neo4j import checks
from warehouse_adapters.neo4j.connection import Link, Transaction, read
from warehouse_adapters.neo4j.cypher import quote
from warehouse_adapters.neo4j.errors import translated
from warehouse_adapters.neo4j.schema import SHOW, Schema, constraint_of
from warehouse_adapters.neo4j.unit import Neo4jUnit
from warehouse_adapters.neo4j.work import Work, search

_ARCADEDB: Final = re.compile(r"ArcadeDB ([^)\s]+)")


class Neo4jSettings(AdapterSettings):
    """`url` is `bolt://` or `neo4j://` (also `+s`, `+ssc`); `database` is the server's default where not given."""

    url: str
    user: str | None = None
    password: SecretStr | None = None
    database: str | None = None


class Neo4jAdapter(PreparesNothing):
    """Nodes and relationships as records: see `warehouse.adapter.Adapter`.

    A node's image is its properties; a relationship's is `{"start": {"entity", "key"}, "end", "properties"}`.
    ArcadeDB has no locks: a transaction that met another one fails when it commits. Nor does it refuse a taken
    unique value before that, where an update writes it. It keeps no zone offsets: such datetimes become UTC.
    """

    Settings: ClassVar[type[AdapterSettings]] = Neo4jSettings

    def __init__(self, settings: Neo4jSettings) -> None:
        self._settings = settings
        self._driver: AsyncDriver | None = None
        self._capabilities: Capabilities | None = None
        self._schema: Schema | None = None

    @property
    def type(self) -> AdapterType:
        return "graph"

    @property
    def capabilities(self) -> Capabilities:
        """Known once connected; RuntimeError before."""
        if self._capabilities is None:
            raise RuntimeError("the adapter is not connected")
        return self._capabilities

    async def connect(self) -> None:
        """Open the pool and ask which server it is. Raises StoreUnavailable or ConfigError."""
        self._driver = self._open()
        try:
            with translated(self._constraint):
                agent = (await self._driver.get_server_info()).agent
            self._capabilities = await self._ask(agent)
        except BaseException as error:
            await self.close()
            if isinstance(error, StoreError) and isinstance(error.__cause__, AuthError | ConfigurationError):
                raise ConfigError(error.message) from error.__cause__
            raise

    def _open(self) -> AsyncDriver:
        settings = self._settings
        secret = settings.password.get_secret_value() if settings.password else ""
        options: dict[str, Any] = {
            "auth": (settings.user, secret) if settings.user is not None else None,
            "max_connection_pool_size": settings.pool_size,
            "connection_timeout": settings.connect_timeout,
            "notifications_min_severity": "OFF",
        }
        if settings.tls is not None:
            options["encrypted"] = settings.tls
        try:
            return AsyncGraphDatabase.driver(settings.url, **(options | settings.options))
        except (ConfigurationError, ValueError, TypeError) as error:
            raise ConfigError(f"the driver refuses these settings: {error}") from error

    async def _ask(self, agent: str) -> Capabilities:
        arcadedb = _ARCADEDB.search(agent)
        database = self._settings.database or ""
        address = re.sub(r"^\w+(\+\w+)?://", "", self._settings.url)
        identity = f"arcadedb:{address}/{database}"
        if arcadedb is None:
            rows = await read(self._link, "CALL db.info() YIELD id, name")
            identity = f"neo4j:{rows[0]['id']}/{rows[0]['name']}"
        return Capabilities(
            store="ArcadeDB" if arcadedb else "Neo4j",
            version=arcadedb[1] if arcadedb else agent.removeprefix("Neo4j/"),
            identity=identity,
            holds=True,
            guards="full",
            relationships=True,
        )

    async def close(self) -> None:
        """Give everything back. Never raises; may be called without `connect`."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(Exception):
                await driver.close()

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:
        """What is known of a label or relationship type; any name is one. The constraints are cached."""
        quote(entity.name)
        return (await self._known(fresh=fresh)).describe(entity)

    async def _known(self, *, fresh: bool = False) -> Schema:
        if self._schema is None or fresh:
            rows = await read(self._link, SHOW)
            found = [constraint_of(row) for row in rows]
            self._schema = Schema(
                [item for item in found if item is not None],
                self._settings.entities,
                immediate=self._is_neo4j,
            )
        return self._schema

    def check(self, request: Request) -> None:
        """Refuse what Neo4j cannot hold or do. Raises InvalidOperation naming the field."""
        checks.check(request, self._schema)

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Neo4jUnit]:
        """A unit of work. Its entities have been described before."""
        if self._schema is None:
            raise RuntimeError("no entity of this store has been described")
        transaction = Transaction(self._link, patience=settings.lock_timeout)
        return Neo4jUnit(Work(transaction, self._schema, offsets=self._is_neo4j), self.describe)

    async def find(self, query: Query) -> list[Record]:
        """The records that match, as images, as committed now. One round trip."""
        found = search(query, await self._known(), offsets=self._is_neo4j)
        return found.finish(await read(self._link, found.statement, **found.parameters))

    async def outcome(self, token: str) -> Outcome:
        raise NotImplementedError("Neo4j cannot tell later whether a transaction was committed")

    @property
    def _is_neo4j(self) -> bool:
        return self.capabilities.store == "Neo4j"

    @property
    def _link(self) -> Link:
        if self._driver is None:
            raise RuntimeError("the adapter is not connected")
        session = {"database": self._settings.database, "fetch_size": -1}
        return Link(driver=self._driver, session=session, constraint=self._constraint)

    def _constraint(self, owner: str, fields: tuple[str, ...]) -> str:
        return self._schema.name(owner, fields) if self._schema else f"{owner}({', '.join(fields)})"
