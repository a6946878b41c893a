"""The in-process store as `warehouse.planning` wants it: reads, and guarded writes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query, WriteStatus, Written
from warehouse.errors import ConstraintViolated
from warehouse.planning import freeze, one_by_one
from warehouse.records import ABSENT, Absent, Change, Entity, Image, Key, Record
from warehouse_adapters.memory.rules import Rules, sound
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
        """See `PlanningStore.apply`. The rules are those for what all of the changes leave."""
        try:
            return self._apply(info, changes)
        except ConstraintViolated as error:
            if len(changes) == 1:
                return [Written(WriteStatus.REFUSED, error)]
        return await one_by_one(lambda change: self._alone(info, change), changes)

    async def _alone(self, info: EntityInfo, change: Change) -> Written:
        (written,) = await self.apply(info, [change])
        return written

    def _apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        with self.space.mutex:
            table = self.space.table(info.entity)
            made, left = sound(changes, lambda key: table.get(freeze(key), ABSENT))
            self.rules.verify(_Changed(self.space, info.entity, left), info, made)
            for key, image in left.values():
                self.space.put(info.entity, key, image)
        out = [Written(WriteStatus.APPLIED)] * len(made)
        return out if len(made) == len(changes) else [*out, Written(WriteStatus.CONFLICT)]

    def complete(self, info: EntityInfo, record: Record) -> Record:
        out = self.rules.complete(info, record)
        with self.space.mutex:
            self.rules.fit(self.space.table(info.entity), out)
        return out


class _Changed:
    """A space as it will be with some records of one entity changed."""

    def __init__(self, space: Space, entity: Entity, left: Mapping[Hashable, tuple[Key, Image]]) -> None:
        self._space = space
        self._entity = entity
        self._left = left

    def entities(self) -> list[Entity]:
        return self._space.entities()

    def table(self, entity: Entity) -> Mapping[Hashable, Record]:
        if entity != self._entity:
            return self._space.table(entity)
        return self._table

    @cached_property
    def _table(self) -> Mapping[Hashable, Record]:
        records = dict(self._space.table(self._entity))
        for frozen, (_, image) in self._left.items():
            if isinstance(image, Absent):
                records.pop(frozen, None)
            else:
                records[frozen] = image
        return records
