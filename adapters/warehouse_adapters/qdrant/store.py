"""What `PlanningUnit` needs of Qdrant: read points, and make each change in one guarded write.

A write first reads the point and compares all that the change demands. The write itself is conditioned on
what filters can express, and on servers the point is read again after it: replies do not tell whether a
condition held, but the point's version does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from qdrant_client import AsyncQdrantClient, models

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query, Request, StepChanges, WriteStatus, Written
from warehouse.errors import InvalidOperation, StoreError, StoreOutcomeUnknown, did_you_mean
from warehouse.planning import PlanningUnit, one_by_one
from warehouse.records import ABSENT, Change, Image, Key, Record, same_image
from warehouse_adapters.qdrant import filters, points, vectors
from warehouse_adapters.qdrant.errors import NotFound, store_errors
from warehouse_adapters.qdrant.points import CollectionInfo
from warehouse_adapters.qdrant.writes import Plan, Replace, SetPayload, SetVectors, plan

_PAGE: Final = 256
_NEAR_LIMIT: Final = 10
APPLIED: Final = Written(WriteStatus.APPLIED)
CONFLICT: Final = Written(WriteStatus.CONFLICT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the other side does: conditional upserts at all, and those that never insert.

    `local` is the client's own store, in which nothing happens between two calls that hold `turn`.
    """

    local: bool
    conditional: bool
    update_only: bool
    ulps: int


class QdrantUnit(PlanningUnit):
    """A planning unit in which the ids of conditions are compared as images show them."""

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        request = replace(request, where=filters.canonical_ids(request.where))
        return await super().execute(request, savepoint=savepoint)

    async def find(self, query: Query) -> list[Record]:
        return await super().find(replace(query, where=filters.canonical_ids(query.where)))


class QdrantStore:
    """A `PlanningStore` over one client. `turn` is held during every operation of a local client."""

    def __init__(
        self, client: AsyncQdrantClient, abilities: Abilities, turn: AbstractContextManager[Any]
    ) -> None:
        self._client = client
        self._abilities = abilities
        self._turn = turn

    # Reading

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """The images of `keys`, in order. Raises StoreUnavailable or StoreError."""
        if not keys:
            return []
        ids = [points.point_id(key["id"]) for key in keys]
        with self._turn, store_errors():
            found = await self._client.retrieve(info.entity.name, ids, with_payload=True, with_vectors=True)
        images = {record.id: self._image(info, record) for record in found}
        return [images.get(identifier, ABSENT) for identifier in ids]

    async def scan(self, query: Query) -> list[Record]:
        """Every record that `query.where` matches, or more; with `near`, exactly those asked for."""
        if query.near is not None:
            return await self._near(query, query.near)
        return [record async for page in self.pages(query) for record in page]

    async def pages(self, query: Query) -> AsyncGenerator[list[Record], None]:
        """The records that `query.where` matches, or more, page by page."""
        narrowed, offset = filters.narrow(query.where), None
        while True:
            with self._turn, store_errors():
                found, offset = await self._client.scroll(
                    query.info.entity.name,
                    scroll_filter=narrowed,
                    limit=_PAGE,
                    offset=offset,
                    with_payload=True,
                    with_vectors=True,
                )
            yield [self._image(query.info, record) for record in found]
            if offset is None:
                return

    async def _near(self, query: Query, near: Mapping[str, Any]) -> list[Record]:
        """The nearest records, nearest first, each with its `score`. The filter may let too many through."""
        info = collection(query.info)
        using, vector = near_vector(info, near)
        limit = query.limit if query.limit is not None else near.get("limit", _NEAR_LIMIT)
        wanted = asked = query.offset + limit
        while wanted:
            with self._turn, store_errors():
                found = await self._client.query_points(
                    info.entity.name,
                    query=vectors.to_query(vector),
                    using=using or None,
                    query_filter=filters.narrow(query.where),
                    limit=asked,
                    with_payload=True,
                    with_vectors=True,
                )
            records = [{**self._image(info, hit), "score": hit.score} for hit in found.points]
            records = [record for record in records if conditions.evaluate(query.where, record)]
            if len(records) >= wanted or len(found.points) < asked:
                ordered = conditions.sort_records(records[:wanted], query.order_by)
                return ordered[query.offset :]
            asked *= 4
        return []

    def _image(self, info: EntityInfo, point: models.Record | models.ScoredPoint) -> Record:
        return points.image(collection(info), point, local=self._abilities.local)

    def complete(self, info: EntityInfo, record: Record) -> Record:
        """See `points.complete`."""
        return points.complete(collection(info), record)

    # Writing

    async def apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        """See `PlanningStore.apply`. Errors of the store come back as the result of a change."""
        return await one_by_one(lambda change: self._guarded(info, change), changes)

    async def _guarded(self, info: EntityInfo, change: Change) -> Written:
        with self._turn:
            try:
                return await self._apply(collection(info), change)
            except StoreOutcomeUnknown as error:
                return Written(WriteStatus.UNKNOWN, error)
            except StoreError as error:
                return Written(WriteStatus.REFUSED, error)

    async def _apply(self, info: CollectionInfo, change: Change) -> Written:
        (current,) = await self.load(info, [change.key])
        if not same_image(current, change.before, change.written | change.guard, ulps=self._abilities.ulps):
            return CONFLICT
        if current is ABSENT:
            return await self._insert(info, change)
        if change.after is ABSENT:
            return await self._delete(info, current, change)
        made = plan(current, change.after, change.written, ulps=self._abilities.ulps)
        return APPLIED if made is None else await self._update(info, current, made, change)

    async def _insert(self, info: CollectionInfo, change: Change) -> Written:
        if change.after is ABSENT:
            return APPLIED
        # A filter that matches nothing never overwrites: unlike `update_mode`, servers know it since 1.16.
        guard = models.Filter(must=[filters.NOTHING]) if self._abilities.conditional else None
        with store_errors(writing=True):
            reply = await self._client.upsert(
                info.entity.name, [points.point(info, change.after)], wait=True, update_filter=guard
            )
        return await self._won(
            info, change, reply, before=ABSENT, target=change.after, written=frozenset(change.after)
        )

    async def _delete(self, info: CollectionInfo, current: Record, change: Change) -> Written:
        held = filters.guards(current, change.written | change.guard)
        only = filters.only(points.point_id(current["id"]), held)
        with store_errors(writing=True):
            reply = await self._client.delete(info.entity.name, models.FilterSelector(filter=only), wait=True)
        return await self._won(info, change, reply, before=current, target=ABSENT, written=frozenset())

    async def _update(self, info: CollectionInfo, current: Record, made: Plan, change: Change) -> Written:
        held = filters.guards(current, change.written | change.guard | made.touched)
        only = filters.only(points.point_id(current["id"]), held)
        try:
            with store_errors(writing=True):
                reply = await self._send(info, made, only)
        except NotFound:
            (left,) = await self.load(info, [change.key])
            if left is ABSENT:
                return CONFLICT
            raise
        return await self._won(
            info, change, reply, before=current, target=made.target, written=change.written
        )

    async def _send(self, info: CollectionInfo, made: Plan, only: models.Filter) -> models.UpdateResult:
        name, guard = info.entity.name, only if self._abilities.conditional else None
        match made.write:
            case SetPayload(key, payload):
                return await self._client.set_payload(name, payload, points=only, key=key, wait=True)
            case SetVectors(vector):
                moved = models.PointVectors(
                    id=points.point_id(made.target["id"]), vector=vectors.to_store(vector)
                )
                return await self._client.update_vectors(name, [moved], wait=True, update_filter=guard)
            case Replace():
                mode = models.UpdateMode.UPDATE_ONLY if self._abilities.update_only else None
                point = points.point(info, made.target)
                return await self._client.upsert(
                    name, [point], wait=True, update_filter=guard, update_mode=mode
                )

    # Who won?

    async def _won(
        self,
        info: CollectionInfo,
        change: Change,
        reply: models.UpdateResult,
        *,
        before: Image,
        target: Image,
        written: frozenset[str],
    ) -> Written:
        """Whether the write that `reply` acknowledges was made: its condition may not have held."""
        if reply.status != models.UpdateStatus.COMPLETED:
            return _unknown(f"the server answered {reply.status}")
        try:
            found, version = await self._look(info, change.key, before if target is ABSENT else target)
        except StoreError as error:
            return Written(WriteStatus.UNKNOWN, _as_unknown(error))
        if version is not None and reply.operation_id is not None:
            if version == reply.operation_id:
                return APPLIED
            return CONFLICT if version < reply.operation_id else _unknown("the point was written again")
        if same_image(found, target, written, ulps=self._abilities.ulps):
            return APPLIED
        paths = change.written | change.guard
        if self._abilities.local or same_image(found, before, paths, ulps=self._abilities.ulps):
            return CONFLICT
        return _unknown("the point was changed by somebody else")

    async def _look(self, info: CollectionInfo, key: Key, expected: Image) -> tuple[Image, int | None]:
        """The image of a point and, where it tells anything, its version: only a search shows that."""
        vector = None if expected is ABSENT or not info.versions else expected.get("vector")
        if vector is not None:
            named = vector if isinstance(vector, Mapping) else {vectors.UNNAMED: vector}
            using, sample = next(iter(named.items()))
            with store_errors():
                found = await self._client.query_points(
                    info.entity.name,
                    query=vectors.to_query(sample),
                    using=using or None,
                    query_filter=filters.only(points.point_id(key["id"])),
                    limit=1,
                    with_payload=True,
                    with_vectors=True,
                )
            if found.points:
                return self._image(info, found.points[0]), found.points[0].version
        (image,) = await self.load(info, [key])
        return image, None


def collection(info: EntityInfo) -> CollectionInfo:
    """`info` as `describe` made it."""
    if not isinstance(info, CollectionInfo):
        raise TypeError(f"{info!r} was not described by this adapter")
    return info


def near_vector(info: CollectionInfo, near: Mapping[str, Any]) -> tuple[str, Any]:
    """The name and the vector that `near` asks for; raises InvalidOperation."""
    if extra := set(near) - {"vector", "using", "limit"}:
        raise InvalidOperation(
            f"unknown key {min(extra)!r}",
            field="near",
            hint=did_you_mean(min(extra), {"vector", "using", "limit"}),
        )
    limit = near.get("limit", _NEAR_LIMIT)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidOperation(f"{limit!r} is no number of records", field="near.limit")
    using = near.get("using") or vectors.UNNAMED
    if using not in info.vectors:
        known = ", ".join(sorted(info.vectors)) or "none"
        raise InvalidOperation(
            "the collection has no such vector", field="near.using", hint=f"its vectors are: {known}"
        )
    return using, vectors.one(info.vectors[using], near.get("vector"), "near.vector")


def _unknown(text: str) -> Written:
    return Written(WriteStatus.UNKNOWN, StoreOutcomeUnknown(text))


def _as_unknown(error: StoreError) -> StoreOutcomeUnknown:
    unknown = StoreOutcomeUnknown(f"it was written, and could not be read back: {error}")
    unknown.__cause__ = error.__cause__
    return unknown
