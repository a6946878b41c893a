"""What the records of a database must be like and must not violate; graphs and vectors add to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol
from uuid import uuid4

from warehouse.adapter import EntityInfo, Query, Request
from warehouse.conditions import Condition
from warehouse.config import EntityConfig
from warehouse.errors import ConstraintViolated, InvalidOperation
from warehouse.planning import claimed, freeze
from warehouse.records import (
    ABSENT,
    Absent,
    Change,
    Entity,
    Image,
    Key,
    Record,
    get,
    put,
    same_image,
)


class View(Protocol):
    """All records, as somebody sees them: by entity and frozen key."""

    def entities(self) -> list[Entity]: ...
    def table(self, entity: Entity) -> Mapping[Hashable, Record]: ...


class Reader(Protocol):
    """The unit on whose behalf a rule looks at other records."""

    async def matching(self, info: EntityInfo, where: Condition) -> list[Record]: ...
    async def describe(self, entity: Entity) -> EntityInfo: ...
    def entities(self) -> list[Entity]: ...


class Rules:
    """The rules of a database. Records may have any fields."""

    def __init__(self, unique: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._unique = unique

    def describe(self, entity: Entity, config: EntityConfig) -> EntityInfo:
        """What is configured of `entity`. Raises InvalidOperation where this store has none of its kind."""
        if entity.kind != "record":
            raise InvalidOperation("only a graph has relationships", entity=entity.name, field="relationship")
        return self._info(entity, config, ("id",))

    def _info(self, entity: Entity, config: EntityConfig, key: tuple[str, ...]) -> EntityInfo:
        unique = tuple(tuple(paths) for paths in self._unique.get(entity.name, ()))
        return EntityInfo(entity=entity, key=config.key or key, unique=unique, config=config)

    def check(self, request: Request) -> None:
        """Refuse what can be told from the request alone."""

    def complete(self, info: EntityInfo, record: Record) -> Record:
        """A copy of `record` as it is kept, a missing single key generated."""
        out = copy.deepcopy(record)
        if len(info.key) == 1 and get(out, info.key[0]) in (ABSENT, None):
            out = put(out, info.key[0], uuid4().hex)
        return out

    def read(self, where: Condition) -> Condition:
        """The condition as records are to be compared with it."""
        return where

    def fit(self, records: Mapping[Hashable, Record], record: Record) -> None:
        """Refuse what does not fit the committed records of its entity, where that can be told before it is kept."""

    async def admit(self, reader: Reader, info: EntityInfo, record: Record) -> Record:  # noqa: ARG002
        """The complete record that an insert of `record` makes."""
        return self.complete(info, record)

    async def dependents(
        self,
        reader: Reader,  # noqa: ARG002 - a graph's rules use them
        request: Request,  # noqa: ARG002
        record: Record,  # noqa: ARG002
    ) -> list[tuple[EntityInfo, Record]]:
        """The records that go when `record` is deleted."""
        return []

    def touched(self, info: EntityInfo, change: Change) -> Iterator[Hashable]:
        """The names of the locks that `change` needs, besides its record's own."""
        for one, other in ((change.before, change.after), (change.after, change.before)):
            for values in claimed(info, one, other):
                yield "unique", info.entity, freeze(values)

    def verify(self, view: View, info: EntityInfo, changes: Sequence[Change]) -> None:
        """Raise ConstraintViolated if the records that `changes` leave, all seen in `view`, break a rule."""
        for paths in info.unique:
            _verify_unique(view.table(info.entity), info, paths, changes)

    def search(self, records: list[Record], query: Query) -> list[Record]:  # noqa: ARG002
        """Those of `records` that are nearest to `query.near`, the nearest first."""
        raise InvalidOperation(
            "only a vector store searches by vector", entity=query.info.entity.name, field="near"
        )


def record_lock(entity: Entity, key: Mapping[str, object]) -> Hashable:
    """The name of the lock on one record."""
    return "record", entity, freeze(dict(key))


def _verify_unique(
    records: Mapping[Hashable, Record], info: EntityInfo, paths: tuple[str, ...], changes: Sequence[Change]
) -> None:
    wanted = {freeze(change.key) for change in changes if change.after is not ABSENT}
    owners: dict[Hashable, Hashable] = {}
    for key, record in sorted(records.items(), key=lambda item: item[0] in wanted):
        values = [get(record, path) for path in paths]
        if ABSENT in values or None in values:
            continue
        if owners.setdefault(freeze(values), key) != key and key in wanted:
            name = "_".join((info.entity.name, *paths))
            raise ConstraintViolated(f"{', '.join(paths)} must be unique", constraint=name)


def guarded(change: Change, current: Image) -> Image | None:
    """The image that writing `change` over `current` leaves; None where its guard fails."""
    if not same_image(current, change.before, change.written | change.guard):
        return None
    if isinstance(change.after, Absent):
        return ABSENT
    if isinstance(current, Absent):
        return copy.deepcopy(change.after)
    out = current
    for path in sorted(change.written):
        out = put(out, path, copy.deepcopy(get(change.after, path)))
    return out


def sound(
    changes: Sequence[Change], current: Callable[[Key], Image]
) -> tuple[list[Change], dict[Hashable, tuple[Key, Image]]]:
    """The changes up to the first whose guard fails, and by frozen key what they leave."""
    made: list[Change] = []
    left: dict[Hashable, tuple[Key, Image]] = {}
    for change in changes:
        frozen = freeze(change.key)
        image = guarded(change, left[frozen][1] if frozen in left else current(change.key))
        if image is None:
            break
        made.append(change)
        left[frozen] = change.key, image
    return made, left
