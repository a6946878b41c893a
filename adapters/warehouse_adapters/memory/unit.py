"""The units of the in-process store: one that plans, and one that holds its locks until it commits."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from warehouse.adapter import EntityInfo, Query, Request, StepChanges, UnitSettings, WriteStatus, Written
from warehouse.conditions import Condition
from warehouse.errors import ConstraintViolated
from warehouse.planning import PlanningUnit, by_entity, freeze, key_in, one_by_one
from warehouse.records import Absent, Change, Entity, Image, Key, Record
from warehouse_adapters.memory.rules import Rules, record_lock, sound
from warehouse_adapters.memory.space import Space
from warehouse_adapters.memory.store import MemoryStore

Describe = Callable[[Entity], Awaitable[EntityInfo]]


class MemoryUnit(PlanningUnit):
    """A planning unit whose records follow the rules of the store's type."""

    def __init__(self, store: MemoryStore, describe: Describe) -> None:
        super().__init__(store, describe)
        self._rules: Rules = store.rules
        self._space: Space = store.space
        self._met: dict[Entity, None] = {}

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        request = replace(request, where=self._rules.read(request.where))
        return copy.deepcopy(await super().execute(request, savepoint=savepoint))

    async def admit(self, info: EntityInfo, record: Record) -> Record:
        out = await self._rules.admit(self, info, record)
        with self._space.mutex:
            self._rules.fit(self._space.table(info.entity), out)
        return out

    async def dependents(self, request: Request, record: Record) -> list[tuple[EntityInfo, Record]]:
        return await self._rules.dependents(self, request, record)

    async def find(self, query: Query) -> list[Record]:
        query = replace(query, where=self._rules.read(query.where))
        return copy.deepcopy(await super().find(query))

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        return copy.deepcopy(await super().read(info, keys))

    async def describe(self, entity: Entity) -> EntityInfo:
        return await self._describe(entity)

    # What this unit sees, for the rules

    def entities(self) -> list[Entity]:
        return list(dict.fromkeys([*self._space.entities(), *self._met]))

    def planned(self, info: EntityInfo, change: Change) -> None:  # noqa: ARG002
        self._met[info.entity] = None

    def table(self, entity: Entity) -> Mapping[Hashable, Record]:
        with self._space.mutex:
            records = dict(self._space.table(entity))
        for (owner, frozen), (_, image) in self._planned.items():
            if owner == entity:
                if isinstance(image, Absent):
                    records.pop(frozen, None)
                else:
                    records[frozen] = image
        return records


class HeldUnit(MemoryUnit):
    """A transaction: what it reads for a write stays locked; what it did appears at its commit, at once."""

    def __init__(self, store: MemoryStore, describe: Describe, settings: UnitSettings) -> None:
        super().__init__(store, describe)
        self._lock_timeout = settings.lock_timeout
        self._prepare_as = settings.prepare_as

    async def run(self, request: Request) -> list[Change]:
        changes = await super().run(request)
        await self._settle(request.info, changes)
        return changes

    async def _settle(self, info: EntityInfo, changes: Sequence[Change]) -> None:
        await self._lock(name for change in changes for name in self._rules.touched(info, change))
        self._rules.verify(self, info, changes)

    async def matching(self, info: EntityInfo, where: Condition) -> list[Record]:
        locked: set[Hashable] = set()
        while True:
            records = await self.visible(info, where)
            names = {record_lock(info.entity, key_in(info, record)) for record in records} - locked
            if not names:
                return records
            await self._lock(sorted(names, key=repr))
            locked |= names

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        await self._lock(record_lock(info.entity, key) for key in keys)
        return await super().load(info, keys)

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        return copy.deepcopy(await self.load(info, keys))

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        return await by_entity(self._write, changes)

    async def _write(self, entity: Entity, changes: Sequence[Change]) -> list[Written]:
        """The rules are those for what all of the changes leave."""
        info = await self._describe(entity)
        images = await self.load(info, [change.key for change in changes])
        current = {freeze(change.key): image for change, image in zip(changes, images, strict=True)}
        made, left = sound(changes, lambda key: current[freeze(key)])
        saved = dict(self._planned)
        self._met[entity] = None
        self._planned |= {(entity, frozen): found for frozen, found in left.items()}
        try:
            await self._settle(info, made)
        except ConstraintViolated as error:
            self._planned = saved
            if len(changes) == 1:
                return [Written(WriteStatus.REFUSED, error)]
            return await one_by_one(lambda change: self._alone(entity, change), changes)
        out = [Written(WriteStatus.APPLIED)] * len(made)
        return out if len(made) == len(changes) else [*out, Written(WriteStatus.CONFLICT)]

    async def _alone(self, entity: Entity, change: Change) -> Written:
        (written,) = await self._write(entity, [change])
        return written

    async def prepare(self) -> None:
        if self._prepare_as is None:
            raise RuntimeError("the unit was not opened to be prepared")
        self._space.prepared[self._prepare_as] = self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._prepare_as not in self._space.prepared:
            await super().__aexit__(kind, error, trace)

    async def commit(self) -> None:
        with self._space.mutex:
            for (entity, _), (key, image) in self._planned.items():
                self._space.put(entity, key, image)
        await self.rollback()

    async def rollback(self) -> None:
        if self._prepare_as is not None:
            self._space.prepared.pop(self._prepare_as, None)
        self._planned.clear()
        self._space.locks.release(self)

    async def _lock(self, names: Iterable[Hashable]) -> None:
        await self._space.locks.acquire(self, names, self._lock_timeout)
