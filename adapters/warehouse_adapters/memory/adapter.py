"""The adapter of the in-process store: the reference for what every operator means, and a fast stand-in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Literal

from pydantic import Field

from warehouse import config
from warehouse.adapter import (
    Capabilities,
    EntityInfo,
    Outcome,
    PreparedId,
    Query,
    Request,
    Unit,
    UnitSettings,
)
from warehouse.config import AdapterSettings
from warehouse.errors import StoreError
from warehouse.operations import AdapterType
from warehouse.records import Entity, Record
from warehouse_adapters.memory.graph import GraphRules
from warehouse_adapters.memory.rules import Rules
from warehouse_adapters.memory.space import Space
from warehouse_adapters.memory.store import MemoryStore
from warehouse_adapters.memory.unit import HeldUnit, MemoryUnit
from warehouse_adapters.memory.vector import VectorRules


class MemorySettings(AdapterSettings):
    """`type`: what the store is to be. Without `transactions` it plans, and makes single guarded writes."""

    type: Literal["database", "graph", "vector"] = "database"
    transactions: bool = True


class Options(config.Settings):
    """What `options` may hold.

    `unique`: by entity, the lists of fields that are unique together. `shared`: the name of a space that all
    adapters of this process may use, in place of one's own. `dimension`: of all vectors without a name.
    """

    unique: dict[str, list[list[str]]] = Field(default_factory=dict)
    shared: str | None = None
    dimension: int | None = Field(None, gt=0)


class MemoryAdapter:
    """Keeps records as long as it lives; it knows any entity, and a missing key is generated."""

    Settings: ClassVar[type[AdapterSettings]] = MemorySettings

    def __init__(self, settings: MemorySettings) -> None:
        options = config.validate(Options, settings.options, ("options",))
        self._settings = settings
        self._store = MemoryStore(Space.open(options.shared), _rules(settings.type, options))
        self._capabilities: Capabilities | None = None

    @property
    def type(self) -> AdapterType:
        return self._settings.type

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            raise RuntimeError("the capabilities are known once the adapter is connected")
        return self._capabilities

    async def connect(self) -> None:
        self._capabilities = Capabilities(
            store="memory",
            version="1",
            identity=self._store.space.identity,
            holds=self._settings.transactions,
            prepares=self._settings.transactions,
            savepoints=self._settings.transactions,
            relationships=self.type == "graph",
        )

    async def close(self) -> None:
        """Nothing to give back: the records stay with the adapter."""

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:  # noqa: ARG002
        return self._store.rules.describe(entity, self._settings.entity(entity.name))

    def check(self, request: Request) -> None:
        self._store.rules.check(request)

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Unit]:
        if self._settings.transactions:
            return HeldUnit(self._store, self.describe, settings)
        return MemoryUnit(self._store, self.describe)

    async def find(self, query: Query) -> list[Record]:
        return await MemoryUnit(self._store, self.describe).find(query)

    async def prepared(self) -> list[PreparedId]:
        return list(self._store.space.prepared)

    async def finish(self, prepared: PreparedId, *, commit: bool) -> None:
        unit = self._store.space.prepared.get(prepared)
        if unit is None:
            raise StoreError("nothing is prepared under this id")
        await (unit.commit() if commit else unit.rollback())

    async def outcome(self, token: str) -> Outcome:
        raise NotImplementedError("the in-process store has no outcomes to ask for")


def _rules(kind: AdapterType, options: Options) -> Rules:
    if kind == "graph":
        return GraphRules(options.unique)
    if kind == "vector":
        return VectorRules(options.unique, options.dimension)
    return Rules(options.unique)
