"""The unit of every store without transactions: it plans in memory what `write` then makes, guarded.

`execute` reads, computes over what this unit planned before by the reference semantics of
`warehouse.conditions` and `warehouse.updates`, and returns the changes; nothing reaches the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, Protocol, Self

from warehouse import conditions, updates
from warehouse.adapter import (
    EntityInfo,
    NeverPrepared,
    Query,
    Request,
    StepChanges,
    WriteStatus,
    Written,
    first_failed,
)
from warehouse.conditions import Condition
from warehouse.errors import ConstraintViolated, StoreError
from warehouse.records import ABSENT, Absent, Change, Entity, Image, Key, Record, get, key_of, same_image
from warehouse.updates import Assignment
from warehouse.upserts import Present, any_of

_ASKED = 500  # combinations of conflict keys in one read


class PlanningStore(Protocol):
    """What an adapter must be able to do for `PlanningUnit`."""

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """The images of `keys`, in order; one round trip."""
        ...

    async def scan(self, query: Query) -> list[Record]:
        """Every record that `query.where` matches, as images; or more than those. Ignores order and limit."""
        ...

    async def apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        """Make changes of one entity, in order, each guarded and atomic; returns what `Unit.write` says."""
        ...

    def complete(self, info: EntityInfo, record: Record) -> Record:
        """The image that the store will return of `record`: a missing key generated, values as it keeps them.

        Raises InvalidOperation for what the store cannot hold.
        """
        ...


def freeze(value: Any) -> Any:
    """A hashable stand-in for a key or value: equal exactly if the values are, by type."""
    if isinstance(value, dict):
        if len(value) == 1:
            ((name, item),) = value.items()
            return ((name, freeze(item)),)
        return tuple(sorted((name, freeze(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return (type(value).__name__, value)


def key_in(info: EntityInfo, record: Record) -> Key:
    """The key of `record`; StoreError names the key field that it lacks."""
    try:
        return key_of(record, info.key)
    except KeyError as missing:
        raise StoreError(f"the key field {missing.args[0]!r} is missing", field=missing.args[0]) from None


def claimed(info: EntityInfo, before: Image, after: Image) -> tuple[Key, ...]:
    """The unique values that `after` takes and `before` had not: one mapping a constraint, none of nulls."""
    out: list[Key] = []
    for paths in info.unique:
        values = {path: get(after, path) for path in paths}
        taken = all(value is not None and value is not ABSENT for value in values.values())
        if taken and not same_image(before, after, paths):
            out.append(values)
    return tuple(out)


def judge(change: Change, current: Image, *, ulps: int = 0) -> WriteStatus:
    """Whether a write of ours was made, by the record as it is now: UNKNOWN where it is neither image."""
    if same_image(current, change.after, change.written, ulps=ulps):
        return WriteStatus.APPLIED
    if same_image(current, change.before, change.written, ulps=ulps):
        return WriteStatus.CONFLICT
    return WriteStatus.UNKNOWN


def batches(changes: Sequence[Change], size: int) -> Iterator[list[Change]]:
    """The changes in order, at most `size` together, and never two of one record together."""
    batch: list[Change] = []
    places: set[Any] = set()
    for change in changes:
        place = (change.entity, freeze(change.key))
        if len(batch) == size or place in places:
            yield batch
            batch, places = [], set()
        batch.append(change)
        places.add(place)
    if batch:
        yield batch


async def by_entity(
    write: Callable[[Entity, Sequence[Change]], Awaitable[list[Written]]], changes: Sequence[Change]
) -> list[Written]:
    """`write` the changes, those of one entity that stand together at once, up to the first not applied."""
    out: list[Written] = []
    for entity, together in groupby(changes, key=lambda change: change.entity):
        out += await write(entity, list(together))
        if first_failed(out):
            break
    return out


async def one_by_one(
    write: Callable[[Change], Awaitable[Written]], changes: Sequence[Change]
) -> list[Written]:
    """`write` each of the changes, up to the first not applied."""
    out: list[Written] = []
    for change in changes:
        out.append(await write(change))
        if not out[-1].applied:
            break
    return out


class PlanningUnit(NeverPrepared):
    """A `Unit` over a `PlanningStore`."""

    token: str | None = None

    def __init__(self, store: PlanningStore, describe: Callable[[Entity], Awaitable[EntityInfo]]) -> None:
        self._store = store
        self._describe = describe
        self._planned: dict[tuple[Entity, Any], tuple[Key, Image]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.rollback()

    # Planning

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:  # noqa: ARG002
        """Plan `request`: see `Unit.execute`. A failure leaves the plan as it was, savepoint or not."""
        saved = dict(self._planned)
        try:
            changes = await self.run(request)
        except TypeError as error:
            self._planned = saved
            raise StoreError(str(error)) from error
        except BaseException:
            self._planned = saved
            raise
        return StepChanges(changes=tuple(changes), affected=sum(not change.dependent for change in changes))

    async def run(self, request: Request) -> list[Change]:
        """The changes of `request`, planned."""
        match request.operation:
            case "insert":
                return await self._insert(request)
            case "update":
                matched = await self.matching(request.info, request.where)
                guard = conditions.paths(request.where)
                return [self._update(request, record, request.assignments, guard) for record in matched]
            case "upsert":
                return await self._upsert(request)
            case "delete":
                matched = await self.matching(request.info, request.where)
                return [change for record in matched for change in await self._delete(request, record)]

    async def _insert(self, request: Request) -> list[Change]:
        info = request.info
        records = [await self.admit(info, record) for record in request.records]
        images = await self.load(info, [key_in(info, record) for record in records])
        return [
            self._create(info, given, record, image)
            for given, record, image in zip(request.records, records, images, strict=True)
        ]

    def _create(self, info: EntityInfo, given: Record, record: Record, image: Image) -> Change:
        """Plan the insert of `record`; `image` is what was there under its key."""
        key = key_in(info, record)
        if image is not ABSENT or not isinstance(self._seen(info, key, image), Absent):
            raise ConstraintViolated(f"a record with the key {key} is there already", constraint="key")
        return self._plan(info, key, ABSENT, record, written=frozenset(given))

    async def _upsert(self, request: Request) -> list[Change]:
        info = request.info
        records = [await self.admit(info, record) for record in request.records]
        present = await self._conflicting(request, records)
        images = await self.load(info, [key_in(info, record) for record in records])
        changes = []
        for given, record, image in zip(request.records, records, images, strict=True):
            existing = present.like(record)
            if existing is not None:
                items = tuple(self._overwriting(request, given, record))
                change = self._update(request, existing, items, frozenset(request.conflict_keys))
            else:
                change = self._create(info, given, record, image)
            present.replace(change.before, change.after)
            changes.append(change)
        return changes

    @staticmethod
    def _overwriting(request: Request, given: Record, record: Record) -> Iterator[Assignment]:
        """What an upsert writes where the record is there: but not what identifies it."""
        for path in request.update_fields if request.update_fields is not None else given:
            if path not in request.conflict_keys and path not in request.info.key:
                yield Assignment(path, "$set", get(record, path))

    async def _conflicting(self, request: Request, records: Sequence[Record]) -> Present:
        """The records that have the same `conflict_keys` as one of these."""
        present = Present(request.conflict_keys, lambda record: freeze(key_in(request.info, record)))
        wanted = [values for record in records if (values := present.values(record)) is not None]
        if set(request.conflict_keys) == set(request.info.key):
            keys = [dict(zip(request.conflict_keys, values, strict=True)) for values in wanted]
            for image in await self.load(request.info, keys):
                present.replace(ABSENT, image)
            return present
        for start in range(0, len(wanted), _ASKED):
            where = any_of(request.conflict_keys, wanted[start : start + _ASKED])
            for record in await self.matching(request.info, where):
                present.replace(ABSENT, record)
        return present

    def _update(
        self, request: Request, before: Record, items: Sequence[Assignment], guard: frozenset[str]
    ) -> Change:
        info = request.info
        after = self._store.complete(info, updates.apply(items, before))
        return self._plan(
            info,
            key_in(info, before),
            before,
            after,
            written=frozenset(item.path for item in items),
            guard=guard,
            effects=updates.effects(items),
        )

    async def _delete(self, request: Request, before: Record) -> list[Change]:
        info = request.info
        key = key_in(info, before)
        dependents = [
            self._plan(
                owner, key_in(owner, record), record, ABSENT, written=frozenset(record), dependent=True
            )
            for owner, record in await self.dependents(request, before)
        ]
        guard = conditions.paths(request.where)
        return [*dependents, self._plan(info, key, before, ABSENT, written=frozenset(before), guard=guard)]

    def _plan(self, info: EntityInfo, key: Key, before: Image, after: Image, **details: Any) -> Change:
        self._planned[info.entity, freeze(key)] = (key, after)
        claims = claimed(info, before, after)
        change = Change(entity=info.entity, key=key, before=before, after=after, claims=claims, **details)
        self.planned(info, change)
        return change

    # What a graph, or a store with locks, does otherwise

    async def admit(self, info: EntityInfo, record: Record) -> Record:
        """The complete record that an insert of `record` makes."""
        return self._store.complete(info, record)

    async def dependents(
        self,
        request: Request,  # noqa: ARG002 - for those that override it
        record: Record,  # noqa: ARG002
    ) -> list[tuple[EntityInfo, Record]]:
        """The records that go when `record` is deleted."""
        return []

    def planned(self, info: EntityInfo, change: Change) -> None:
        """Called for every change as it is planned."""

    # Reading

    async def matching(self, info: EntityInfo, where: Condition) -> list[Record]:
        """The records that match, as this unit sees them, for a write or a locking read."""
        return await self.visible(info, where)

    async def visible(self, info: EntityInfo, where: Condition) -> list[Record]:
        """The records that match, as this unit sees them."""
        stored = await self._store.scan(Query(info=info, where=where))
        overlay = {key: image for (entity, key), (_, image) in self._planned.items() if entity == info.entity}
        records = [record for record in stored if freeze(key_in(info, record)) not in overlay]
        records += [image for image in overlay.values() if not isinstance(image, Absent)]
        return [record for record in records if conditions.evaluate(where, record)]

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """The images of `keys`, as this unit sees them."""
        images = await self._store.load(info, keys)
        return [self._seen(info, key, image) for key, image in zip(keys, images, strict=True)]

    def _seen(self, info: EntityInfo, key: Key, image: Image) -> Image:
        planned = self._planned.get((info.entity, freeze(key)))
        return image if planned is None else planned[1]

    async def find(self, query: Query) -> list[Record]:
        """See `Unit.find`. Only what this unit planned nothing over can be searched by vector."""
        if query.near is not None:
            return await self._store.scan(query)
        seen = self.matching if query.lock else self.visible
        records = conditions.sort_records(await seen(query.info, query.where), query.order_by)
        return records[query.offset :][: query.limit]

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """The images as the store has them now: nothing planned is mixed in."""
        return await self._store.load(info, keys)

    # Writing

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        """See `Unit.write`."""
        return await by_entity(self._write, changes)

    async def _write(self, entity: Entity, changes: Sequence[Change]) -> list[Written]:
        return await self._store.apply(await self._describe(entity), changes)

    async def commit(self) -> None:
        """Nothing is held: what was written is there."""

    async def rollback(self) -> None:
        """Forget the plan."""
        self._planned.clear()
