"""The adapter itself: its settings, its connection, what it knows of collections, and what it refuses."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
from pydantic import SecretStr, model_validator
from qdrant_client import AsyncQdrantClient

from warehouse import conditions, updates
from warehouse.adapter import Capabilities, Outcome, PreparesNothing, Query, Request, Unit, UnitSettings
from warehouse.config import AdapterSettings, EntityConfig
from warehouse.errors import ConfigError, UnknownEntity, did_you_mean
from warehouse.operations import AdapterType
from warehouse.points import canonical_ids
from warehouse.records import Entity, Record
from warehouse_adapters.qdrant import checks, local, points, vectors
from warehouse_adapters.qdrant.errors import NotFound, store_errors
from warehouse_adapters.qdrant.points import CollectionInfo
from warehouse_adapters.qdrant.reading import Abilities, collection
from warehouse_adapters.qdrant.store import QdrantStore, QdrantUnit

_SETTLE: Final = 5.0
_PORT: Final = 6333
# A double may move by one each time that it is written, and to undo is to write.
_ULPS: Final = 16
# The local mode makes cosine vectors unit length in its own way: they come back within some float32 units.
_LOCAL_ULPS: Final = 2**31
_CONDITIONAL: Final = (1, 16)
_UPDATE_ONLY: Final = (1, 17)
_LOCALHOST: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class QdrantSettings(AdapterSettings):
    """Where the store is: a server's `url`, or for the local mode a `path` or `location = ":memory:"`."""

    url: str | None = None
    path: str | None = None
    location: str | None = None
    api_key: SecretStr | None = None
    prefer_grpc: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> QdrantSettings:
        if [self.url, self.path, self.location].count(None) != 2:  # noqa: PLR2004
            raise ValueError("give exactly one of `url`, `path` and `location`")
        if self.location not in {None, ":memory:"}:
            raise ValueError("`location` can only be ':memory:'; a server is given as `url`")
        return self


class QdrantAdapter(PreparesNothing):
    """Collections as entities, points as records: `id`, `vector` and `metadata`, which is the payload."""

    Settings: ClassVar[type[AdapterSettings]] = QdrantSettings

    def __init__(self, settings: QdrantSettings) -> None:
        self._settings = settings
        self._client: AsyncQdrantClient | None = None
        self._local: local.LocalClient | None = None
        self._store: QdrantStore | None = None
        self._capabilities: Capabilities | None = None
        self._described: dict[Entity, CollectionInfo] = {}

    @property
    def type(self) -> AdapterType:
        return "vector"

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            raise RuntimeError("the adapter is not connected")
        return self._capabilities

    # Connection

    async def connect(self) -> None:
        """Open the client and ask for the version. Raises StoreUnavailable or ConfigError."""
        try:
            if self._settings.url is None:
                self._open_local()
            else:
                self._client = _remote(self._settings, self._settings.url)
            with store_errors(), anyio.fail_after(self._settings.connect_timeout):
                version = (await self._connected().info()).version
        except BaseException:
            await self.close()
            raise
        self._learn(version)

    def _open_local(self) -> None:
        path = self._settings.path
        with store_errors():
            self._local = local.acquire(
                None if path is None else Path(path).resolve(), self._settings.options
            )
        self._client = self._local.client

    def _learn(self, version: str) -> None:
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        is_local = self._local is not None
        abilities = Abilities(
            local=is_local,
            conditional=is_local or found >= _CONDITIONAL,
            update_only=is_local or found >= _UPDATE_ONLY,
            ulps=_LOCAL_ULPS if is_local else _ULPS,
        )
        settle = self._settings.settle
        self._capabilities = Capabilities(
            store="Qdrant (local mode)" if is_local else "Qdrant",
            version=version,
            identity=_identity(self._settings),
            holds=False,
            guards="partial" if abilities.conditional else "none",
            settle=settle if settle is not None else 0.0 if is_local else _SETTLE,
            updates=updates.OPERATORS - {"$currentDate"},
            float_ulps=abilities.ulps,
        )
        turn = nullcontext() if self._local is None else self._local.turn
        self._store = QdrantStore(self._connected(), abilities, turn)

    async def close(self) -> None:
        client, shared = self._client, self._local
        self._client = self._local = self._store = self._capabilities = None
        self._described.clear()
        with suppress(Exception), anyio.CancelScope(shield=True):
            if shared is not None:
                await local.release(shared)
            elif client is not None:
                await client.close()

    def _connected(self) -> AsyncQdrantClient:
        if self._client is None:
            raise RuntimeError("the adapter is not connected")
        return self._client

    # Collections

    async def describe(self, entity: Entity, *, fresh: bool = False) -> CollectionInfo:
        """The collection and its vectors. Raises UnknownEntity, or ConfigError for a `key` of its own."""
        if fresh or entity not in self._described:
            self._described.pop(entity, None)
            self._described[entity] = await self._describe(entity)
        return self._described[entity]

    async def _describe(self, entity: Entity) -> CollectionInfo:
        config = self._settings.entity(entity.name)
        _check_config(entity, config)
        client = self._connected()
        with store_errors():
            names = [item.name for item in (await client.get_collections()).collections]
        if entity.kind == "relationship" or entity.name not in names:
            raise await self._unknown(entity, names)
        try:
            with store_errors():
                params = (await client.get_collection(entity.name)).config.params
        except NotFound as error:
            raise await self._unknown(entity, names) from error
        specs = vectors.specs(params)
        alone = (params.shard_number or 1) == 1 and (params.replication_factor or 1) == 1
        return CollectionInfo(
            entity=entity,
            key=("id",),
            fields=points.FIELDS,
            required=frozenset({"vector"}) if vectors.UNNAMED in specs else frozenset(),
            config=config,
            vectors=specs,
            versions=alone and self._local is None,
        )

    async def _unknown(self, entity: Entity, names: list[str]) -> UnknownEntity:
        if entity.kind == "relationship":
            return UnknownEntity("Qdrant has no relationships", entity=entity.name)
        with store_errors():
            aliases = (await self._connected().get_aliases()).aliases
        for alias in aliases:
            if alias.alias_name == entity.name:
                return UnknownEntity(
                    "it is an alias, and records are locked by the name of their collection",
                    entity=entity.name,
                    hint=f"name the collection itself, {alias.collection_name!r}",
                )
        hint = did_you_mean(entity.name, names) if names else "it has no collections yet"
        return UnknownEntity("there is no such collection", entity=entity.name, hint=hint)

    # What it refuses

    def check(self, request: Request) -> None:
        """Raise InvalidOperation, naming the field, for what a point of the collection cannot hold."""
        checks.check(collection(request.info), request)

    # Work

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Unit]:  # noqa: ARG002 - it has no locks
        return self._unit()

    def _unit(self) -> QdrantUnit:
        if self._store is None:
            raise RuntimeError("the adapter is not connected")
        return QdrantUnit(self._store, self.describe)

    async def find(self, query: Query) -> list[Record]:
        """The records that match, page by page until there are enough; with `near`, each with its `score`."""
        unit = self._unit()
        if query.near is not None or query.order_by or query.limit is None or self._store is None:
            return await unit.find(query)
        last = query.offset + query.limit
        query = replace(query, where=canonical_ids(query.where))
        found: list[Record] = []
        async with aclosing(self._store.pages(query)) as pages:
            async for page in pages:
                found += [record for record in page if conditions.evaluate(query.where, record)]
                if len(found) >= last:
                    break
        return found[query.offset : last]

    async def outcome(self, token: str) -> Outcome:  # noqa: ARG002 - it cannot be asked
        return Outcome.UNKNOWN


def _remote(settings: QdrantSettings, url: str) -> AsyncQdrantClient:
    key = settings.api_key
    try:
        return AsyncQdrantClient(
            **{
                "url": url,
                "api_key": None if key is None else key.get_secret_value(),
                "prefer_grpc": settings.prefer_grpc,
                "https": settings.tls,
                "pool_size": settings.pool_size,
                "check_compatibility": False,  # it would start a thread; `connect` asks for the version
                **settings.options,
            }
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the client refuses the settings: {error}") from error


def _identity(settings: QdrantSettings) -> str:
    if settings.url is not None:
        parts = urlsplit(settings.url if "//" in settings.url else f"//{settings.url}")
        host = parts.hostname or ""
        host = "127.0.0.1" if host in _LOCALHOST else host
        return f"qdrant://{host}:{parts.port or _PORT}{parts.path.rstrip('/')}"
    if settings.path is not None:
        return f"qdrant-local:{Path(settings.path).resolve()}"
    return f"qdrant-memory:{uuid4()}"


def _check_config(entity: Entity, config: EntityConfig) -> None:
    if entity.name in {".", ".."}:
        raise UnknownEntity("it can be no name of a collection", entity=entity.name)
    if config.key not in {None, ("id",)}:
        raise ConfigError("a point is identified by its id alone", entity=entity.name, field="key")
