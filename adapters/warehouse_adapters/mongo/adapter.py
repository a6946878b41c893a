"""The adapter: its settings, its connection, and what it finds out about the server and its collections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import Any, ClassVar, Final

from pydantic import Field, SecretStr
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.read_concern import ReadConcern

from warehouse import conditions
from warehouse.adapter import (
    Capabilities,
    EntityInfo,
    Outcome,
    PreparesNothing,
    Query,
    Request,
    StepChanges,
    Unit,
    UnitSettings,
)
from warehouse.config import AdapterSettings
from warehouse.errors import ConfigError, InvalidOperation, StoreError, TransientError
from warehouse.operations import AdapterType
from warehouse.planning import PlanningUnit
from warehouse.records import ABSENT, Entity, Record, get
from warehouse_adapters.mongo.documents import Database, Documents
from warehouse_adapters.mongo.errors import translated
from warehouse_adapters.mongo.guarded import GuardedDocuments
from warehouse_adapters.mongo.held import DURABLE, Client, HeldUnit
from warehouse_adapters.mongo.language import in_order
from warehouse_adapters.mongo.values import OPTIONS, check_path, check_record, check_storable, check_value

_TRANSACTIONS: Final = 7  # the wire version of MongoDB 4.0, and of sharded clusters:
_SHARDED_TRANSACTIONS: Final = 8
_SETTLE: Final = 5.0  # a write whose connection broke may still wait in the server's buffers


class MongoSettings(AdapterSettings):
    """`[adapters.TAG]` with `adapter = "mongo"`: the connection string, and the database in it."""

    url: SecretStr
    database: str = Field(min_length=1)


class GuardedUnit(PlanningUnit):
    """The unit of a server without transactions."""

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        """See `PlanningUnit.execute`."""
        request = replace(request, assignments=in_order(request.assignments))
        return await super().execute(request, savepoint=savepoint)


class MongoAdapter(PreparesNothing):
    """One database of a MongoDB; with transactions where the server has them, else by guarded writes."""

    Settings: ClassVar[type[AdapterSettings]] = MongoSettings
    type: AdapterType = "database"

    def __init__(self, settings: MongoSettings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._database: Database | None = None
        self._capabilities: Capabilities | None = None
        self._infos: dict[Entity, EntityInfo] = {}

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            raise RuntimeError("the adapter is not connected")
        return self._capabilities

    # The connection

    async def connect(self) -> None:
        """See `Adapter.connect`."""
        self._client = client = self._open()
        try:
            with translated():
                hello = await client.admin.command("hello")
                version = str((await client.server_info())["version"])
        except BaseException as error:
            await self.close()
            if isinstance(error, StoreError) and not isinstance(error, TransientError):
                raise ConfigError(f"MongoDB refuses the connection: {error}") from error.__cause__
            raise
        holds = has_transactions(hello)
        self._capabilities = Capabilities(
            store="MongoDB",
            version=version,
            identity=f"mongodb:{_place(hello, client.nodes)}/{self._settings.database}",
            holds=holds,
            settle=(0.0 if holds else _SETTLE) if self._settings.settle is None else self._settings.settle,
        )
        self._database = client.get_database(
            self._settings.database,
            codec_options=OPTIONS,
            read_preference=ReadPreference.PRIMARY,
            write_concern=DURABLE,
            read_concern=ReadConcern("majority" if holds else None),
        )

    def _open(self) -> Client:
        milliseconds = int(self._settings.connect_timeout * 1000)
        options: dict[str, Any] = {
            "appname": "warehouse",
            "maxPoolSize": self._settings.pool_size,
            "connectTimeoutMS": milliseconds,
            "serverSelectionTimeoutMS": milliseconds,
            **self._settings.options,
            "retryWrites": False,  # a transaction needs none, and a guarded write is made once only
        }
        if self._settings.tls is not None:
            options["tls"] = self._settings.tls
        try:
            return AsyncMongoClient(self._settings.url.get_secret_value(), **options)
        except (PyMongoError, ValueError, TypeError) as error:
            # only this one of them never quotes the url
            text = str(error) if type(error) is ConfigurationError else type(error).__name__
            raise ConfigError(f"the url or the options are not understood: {text}", field="url") from None

    async def close(self) -> None:
        """See `Adapter.close`."""
        client, self._client, self._database = self._client, None, None
        self._infos.clear()
        if client is not None:
            with suppress(PyMongoError, OSError):
                await client.close()

    def _connected(self) -> tuple[Client, Database]:
        if self._client is None or self._database is None:
            raise RuntimeError("the adapter is not connected")
        return self._client, self._database

    # Entities

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:
        """See `Adapter.describe`. Any collection may be named; it comes into being with its first record.

        Raises ConfigError where a configured key is not unique.
        """
        if fresh or entity not in self._infos:
            _check_entity(entity)
            _, database = self._connected()
            with translated():
                indexes = await database[entity.name].index_information()
            self._infos[entity] = self._info(entity, indexes)
        return self._infos[entity]

    def _info(self, entity: Entity, indexes: Mapping[str, Mapping[str, Any]]) -> EntityInfo:
        config = self._settings.entity(entity.name)
        key = config.key or ("_id",)
        if "collation" in indexes.get("_id_", {}):
            raise InvalidOperation(
                "a collection with a collation of its own compares text its own way", entity=entity.name
            )
        unique = {tuple(name for name, _ in index["key"]) for index in indexes.values() if _is_unique(index)}
        if key != ("_id",) and not any(set(fields) == set(key) for fields in unique):
            raise ConfigError(
                f"the key {list(key)} of {entity} is not unique",
                entity=entity.name,
                hint="create a unique index on it",
            )
        others = sorted(fields for fields in unique if set(fields) != set(key))
        return EntityInfo(entity=entity, key=key, unique=tuple(others), config=config)

    # Operations

    def check(self, request: Request) -> None:
        """See `Adapter.check`."""
        for item in conditions.comparisons(request.where):
            check_path(item.path)
            check_value(item.path, item.value)
        for assignment in request.assignments:
            check_path(assignment.path)
            check_value(assignment.path, assignment.value)
            check_storable(assignment.path, assignment.value)
            if assignment.path.partition(".")[0] == "_id":
                raise InvalidOperation("the _id of a record never changes", field=assignment.path)
        for record in request.records:
            _check_record(request, record)
        if request.operation == "upsert":
            _check_upsert(request)

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Unit]:  # noqa: ARG002
        """See `Adapter.unit`. MongoDB waits for no lock: what is locked is a contention at once."""
        client, database = self._connected()
        if self.capabilities.holds:
            return HeldUnit(client, database, self.describe)
        return GuardedUnit(GuardedDocuments(database), self.describe)

    async def find(self, query: Query) -> list[Record]:
        """See `Adapter.find`."""
        return await Documents(self._connected()[1]).find(query)

    async def outcome(self, token: str) -> Outcome:  # noqa: ARG002 - a session ends with its process
        """See `Adapter.outcome`."""
        return Outcome.UNKNOWN


def has_transactions(hello: Mapping[str, Any]) -> bool:
    """Whether the server that says `hello` has transactions: it is a replica set or a sharded cluster."""
    version = int(hello.get("maxWireVersion", 0))
    if hello.get("logicalSessionTimeoutMinutes") is None:
        return False
    if hello.get("msg") == "isdbgrid":
        return version >= _SHARDED_TRANSACTIONS
    return "setName" in hello and version >= _TRANSACTIONS


def _place(hello: Mapping[str, Any], nodes: Iterable[tuple[str, int | None]]) -> str:
    """What is the same for all connections to one deployment: the set and its members, or the servers."""
    if "setName" in hello:
        return f"{hello['setName']}@{','.join(sorted(hello.get('hosts', [])))}"
    hosts = ((host.lower(), port) for host, port in nodes)
    return ",".join(sorted(f"{'127.0.0.1' if host == 'localhost' else host}:{port}" for host, port in hosts))


def _is_unique(index: Mapping[str, Any]) -> bool:
    """Whether no two records can have the same values, nulls aside, in the fields of `index`."""
    fields = dict(index["key"])
    if fields.keys() == {"_id"}:
        return True
    partial = index.get("partialFilterExpression", {})
    only_nulls_left_out = partial.keys() <= fields.keys() and all(
        isinstance(test, Mapping) and test.keys() <= {"$exists", "$type"} for test in partial.values()
    )
    return bool(index.get("unique")) and only_nulls_left_out and "collation" not in index


def _check_entity(entity: Entity) -> None:
    if entity.kind != "record":
        raise InvalidOperation("MongoDB has collections, and no relationships", entity=entity.name)
    name = entity.name
    if (
        not name
        or "$" in name
        or "\0" in name
        or name.startswith("system.")
        or name[0] == "."
        or name[-1] == "."
    ):
        raise InvalidOperation(
            f"{name!r} cannot be a collection",
            entity=name,
            hint="a name is not empty, has no $ or NUL, no dot at its ends, and does not begin with system.",
        )


def _check_record(request: Request, record: Record) -> None:
    check_record(record)
    for path in request.info.key:
        if path != "_id" and get(record, path) in (None, ABSENT):
            raise InvalidOperation("a record needs its key", field=path)


def _check_upsert(request: Request) -> None:
    info, wanted = request.info, set(request.conflict_keys)
    if not any(set(fields) == wanted for fields in (info.key, *info.unique)):
        raise InvalidOperation(
            f"the conflict_keys {list(request.conflict_keys)} are not unique",
            entity=info.entity.name,
            field="conflict_keys",
            hint="create a unique index on them",
        )
    written = set(request.update_fields or ()).union(*request.records)
    if "_id" in written and "_id" not in info.key and "_id" not in wanted:
        raise InvalidOperation("an upsert by another key cannot write the _id", field="_id")
