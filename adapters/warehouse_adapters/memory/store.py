"""The in-process store as `warehouse.planning` wants it: reads, and guarded writes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query, WriteStatus, Written
from warehouse.errors import ConstraintViolated
from warehouse.planning import freeze, one_by_one
from warehouse.records import ABSENT, Absent, Change, Entity, Image, Key, Record
from warehouse_adapters.memory.rules import Rules, guarded
from warehouse_adapters.memory.space import Space


class MemoryStore:
    """A space, and the rules for what is in it. What it returns is shared: whoever hands it on copies it."""

    def __init__(self, space: Space, rules: Rules) -> None:
        self.space = space
        self.rules = rules

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        with self.space.mutex:
            table = self.space.table(info.entity)
            return [table.get(freeze(key), ABSENT) for key in keys]

    async def scan(self, query: Query) -> list[Record]:
        with self.space.mutex:
            records = list(self.space.table(query.info.entity).values())
        found = [record for record in records if conditions.evaluate(query.where, record)]
        return found if query.near is None else self.rules.search(found, query)

    async def apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        return await one_by_one(lambda change: self._apply(info, change), changes)

    async def _apply(self, info: EntityInfo, change: Change) -> Written:
        with self.space.mutex:
            current = self.space.table(info.entity).get(freeze(change.key), ABSENT)
            image = guarded(change, current)
            if image is None:
                return Written(WriteStatus.CONFLICT)
            try:
                self.rules.verify(_Changed(self.space, change, image), info, [change])
            except ConstraintViolated as error:
                return Written(WriteStatus.REFUSED, error)
            self.space.put(info.entity, change.key, image)
            return Written(WriteStatus.APPLIED)

    def complete(self, info: EntityInfo, record: Record) -> Record:
        return self.rules.complete(info, record)


class _Changed:
    """A space as it will be with one more record changed."""

    def __init__(self, space: Space, change: Change, image: Image) -> None:
        self._space = space
        self._change = change
        self._image = image

    def entities(self) -> list[Entity]:
        return self._space.entities()

    def table(self, entity: Entity) -> Mapping[Hashable, Record]:
        records = dict(self._space.table(entity))
        if entity == self._change.entity:
            if isinstance(self._image, Absent):
                records.pop(freeze(self._change.key), None)
            else:
                records[freeze(self._change.key)] = self._image
        return records
