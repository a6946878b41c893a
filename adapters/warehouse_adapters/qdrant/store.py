"""What `PlanningUnit` needs of Qdrant: read points, and make guarded writes, one or many at a time.

A write first reads the points and compares all that the changes demand. The write itself is conditioned on
what filters can express, and on servers the points are read again after it: replies do not tell whether a
condition held, but the version of a point does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final

from qdrant_client import models

from warehouse.adapter import EntityInfo, Query, Request, StepChanges, WriteStatus, Written, first_failed
from warehouse.errors import StoreError, StoreOutcomeUnknown
from warehouse.planning import PlanningUnit, batches
from warehouse.points import canonical_ids
from warehouse.records import ABSENT, Absent, Change, Image, Record, same_image
from warehouse_adapters.qdrant import filters, points, vectors
from warehouse_adapters.qdrant.errors import NotFound, store_errors
from warehouse_adapters.qdrant.points import CollectionInfo
from warehouse_adapters.qdrant.reading import Reader, collection
from warehouse_adapters.qdrant.writes import Plan, Replace, SetPayload, SetVectors, plan

APPLIED: Final = Written(WriteStatus.APPLIED)
CONFLICT: Final = Written(WriteStatus.CONFLICT)
_SIZE: Final = 200


class QdrantUnit(PlanningUnit):
    """A planning unit in which the ids of conditions are compared as images show them."""

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        request = replace(request, where=canonical_ids(request.where))
        return await super().execute(request, savepoint=savepoint)

    async def find(self, query: Query) -> list[Record]:
        return await super().find(replace(query, where=canonical_ids(query.where)))


@dataclass(frozen=True, slots=True)
class _Task:
    """A change whose guard holds: of `before`, what is there, to `target`, by `operation` (None: it is so already).

    `written` are the paths by which to tell whether it was made.
    """

    change: Change
    before: Image
    target: Image
    written: frozenset[str]
    operation: models.UpdateOperation | None


class QdrantStore(Reader):
    """A `PlanningStore` over one client."""

    async def apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        """See `PlanningStore.apply`. Errors of the store come back as the results of changes."""
        out: list[Written] = []
        for batch in batches(changes, _SIZE):
            with self._turn:
                out += await self._apply(collection(info), batch)
            if first_failed(out):
                break
        return out

    async def _apply(self, info: CollectionInfo, batch: Sequence[Change]) -> list[Written]:
        """How these changes, all of different points, ended, up to the last that was sent."""
        try:
            images = await self.load(info, [change.key for change in batch])
            pairs = list(zip(batch, images, strict=True))
            tasks = [self._task(info, *pair) for pair in takewhile(lambda pair: self._holds(*pair), pairs)]
        except StoreError as error:
            return [Written(WriteStatus.REFUSED, error)]
        if not tasks:
            return [CONFLICT]
        out = await (self._one(info, tasks[0]) if len(tasks) == 1 else self._many(info, tasks))
        return out if first_failed(out) or len(tasks) == len(batch) else [*out, CONFLICT]

    def _holds(self, change: Change, current: Image) -> bool:
        return same_image(current, change.before, change.written | change.guard, ulps=self._abilities.ulps)

    # What to send

    def _task(self, info: CollectionInfo, change: Change, current: Image) -> _Task:
        after = change.after
        if isinstance(current, Absent):
            insert = None if isinstance(after, Absent) else self._insert(info, after)
            return _Task(change, ABSENT, after, frozenset(() if isinstance(after, Absent) else after), insert)
        if isinstance(after, Absent):
            selector = self._only(current, change.written | change.guard)
            delete = models.FilterSelector(filter=selector) if isinstance(selector, models.Filter) else None
            chosen = delete or models.PointIdsList(points=[points.point_id(current["id"])])
            return _Task(change, current, ABSENT, frozenset(), models.DeleteOperation(delete=chosen))
        made = plan(current, after, change.written, ulps=self._abilities.ulps)
        if made is None:
            return _Task(change, current, current, frozenset(), None)
        operation = self._update(info, current, made, change)
        return _Task(change, current, made.target, change.written, operation)

    def _only(self, current: Record, paths: frozenset[str]) -> models.Filter | None:
        """The one point, as long as it has these values; None in the local mode, where nobody is faster."""
        if self._abilities.local:
            return None
        return filters.only(points.point_id(current["id"]), filters.guards(current, paths))

    def _insert(self, info: CollectionInfo, after: Record) -> models.UpdateOperation:
        # A filter that matches nothing never overwrites: unlike `update_mode`, servers know it since 1.16.
        conditional = self._abilities.conditional and not self._abilities.local
        guard = models.Filter(must=[filters.NOTHING]) if conditional else None
        listed = models.PointsList(points=[points.point(info, after)], update_filter=guard)
        return models.UpsertOperation(upsert=listed)

    def _update(
        self, info: CollectionInfo, current: Record, made: Plan, change: Change
    ) -> models.UpdateOperation:
        only = self._only(current, change.written | change.guard | made.touched)
        guard = only if self._abilities.conditional else None
        identifier: models.ExtendedPointId = points.point_id(made.target["id"])
        match made.write:
            case SetPayload(key, payload):
                ids = None if only else [identifier]
                setting = models.SetPayload(payload=payload, filter=only, points=ids, key=key)
                return models.SetPayloadOperation(set_payload=setting)
            case SetVectors(vector):
                moved = models.PointVectors(id=identifier, vector=vectors.to_store(vector))
                moving = models.UpdateVectors(points=[moved], update_filter=guard)
                return models.UpdateVectorsOperation(update_vectors=moving)
            case Replace():
                mode = models.UpdateMode.UPDATE_ONLY if self._abilities.update_only else None
                point = points.point(info, made.target)
                listed = models.PointsList(points=[point], update_filter=guard, update_mode=mode)
                return models.UpsertOperation(upsert=listed)

    # Sending

    async def _one(self, info: CollectionInfo, task: _Task) -> list[Written]:
        if task.operation is None:
            return [APPLIED]
        try:
            with store_errors(writing=True):
                reply = await self._send(info.entity.name, task.operation)
        except NotFound as error:
            (left,) = await self._reread(info, [task])
            return [
                CONFLICT
                if left is ABSENT and task.before is not ABSENT
                else Written(WriteStatus.REFUSED, error)
            ]
        except StoreOutcomeUnknown as error:
            return [Written(WriteStatus.UNKNOWN, error)]
        except StoreError as error:
            return [Written(WriteStatus.REFUSED, error)]
        return await self._judged(info, [task], [reply])

    async def _send(self, name: str, operation: models.UpdateOperation) -> models.UpdateResult:
        match operation:
            case models.UpsertOperation(upsert=models.PointsList() as listed):
                return await self._client.upsert(
                    name,
                    listed.points,
                    wait=True,
                    update_filter=listed.update_filter,
                    update_mode=listed.update_mode,
                )
            case models.DeleteOperation(delete=selector):
                return await self._client.delete(name, selector, wait=True)
            case models.SetPayloadOperation(set_payload=setting):
                return await self._client.set_payload(
                    name,
                    setting.payload,
                    points=setting.filter or setting.points or [],
                    key=setting.key,
                    wait=True,
                )
            case models.UpdateVectorsOperation(update_vectors=moving):
                return await self._client.update_vectors(
                    name, moving.points, wait=True, update_filter=moving.update_filter
                )
        raise TypeError(f"no operation of ours: {operation!r}")

    async def _many(self, info: CollectionInfo, tasks: Sequence[_Task]) -> list[Written]:
        """Send all in one request. After an error in it nobody knows which of them were made."""
        operations = [task.operation for task in tasks if task.operation is not None]
        replies: list[models.UpdateResult] = []
        try:
            if operations:
                with store_errors(writing=True):
                    replies = await self._client.batch_update_points(info.entity.name, operations, wait=True)
        except StoreError as error:
            return [Written(WriteStatus.UNKNOWN, error)] * len(tasks)
        if self._abilities.local or not operations:
            return [APPLIED] * len(tasks)  # it makes all or, saying so, none; and nobody came between
        if len(replies) != len(operations):
            return [_unknown("the server answered for some of the writes only")] * len(tasks)
        sent = [task for task in tasks if task.operation is not None]
        judged = iter(await self._judged(info, sent, replies))
        return [APPLIED if task.operation is None else next(judged) for task in tasks]

    # Who won?

    async def _judged(
        self, info: CollectionInfo, tasks: Sequence[_Task], replies: Sequence[models.UpdateResult]
    ) -> list[Written]:
        """Whether the writes that `replies` acknowledge were made: their conditions may not have held."""
        if all(reply.status != models.UpdateStatus.COMPLETED for reply in replies):
            return [_unknown(f"the server answered {reply.status}") for reply in replies]
        try:
            looks = await self._look(info, tasks)
        except StoreError as error:
            return [Written(WriteStatus.UNKNOWN, _as_unknown(error))] * len(tasks)
        return [self._won(*each) for each in zip(tasks, replies, looks, strict=True)]

    def _won(self, task: _Task, reply: models.UpdateResult, look: tuple[Image, int | None]) -> Written:
        found, version = look
        if reply.status != models.UpdateStatus.COMPLETED:
            return _unknown(f"the server answered {reply.status}")
        if version is not None and reply.operation_id is not None:
            if version == reply.operation_id:
                return APPLIED
            return CONFLICT if version < reply.operation_id else _unknown("the point was written again")
        if same_image(found, task.target, task.written, ulps=self._abilities.ulps):
            return APPLIED
        paths = task.change.written | task.change.guard
        if self._abilities.local or same_image(found, task.before, paths, ulps=self._abilities.ulps):
            return CONFLICT
        return _unknown("the point was changed by somebody else")

    async def _look(self, info: CollectionInfo, tasks: Sequence[_Task]) -> list[tuple[Image, int | None]]:
        """The points as they are now and, where those tell anything, their versions: only a search shows them."""
        found: dict[Any, tuple[Image, int | None]] = {}
        ids: list[models.ExtendedPointId] = [points.point_id(task.change.key["id"]) for task in tasks]
        sample = next((each for task in tasks if (each := _sample(task)) is not None), None)
        if info.versions and sample is not None:
            using, vector = sample
            with store_errors():
                reply = await self._client.query_points(
                    info.entity.name,
                    query=vectors.to_query(vector),
                    using=using or None,
                    query_filter=models.Filter(must=[models.HasIdCondition(has_id=ids)]),
                    search_params=models.SearchParams(exact=True),
                    limit=len(ids),
                    with_payload=True,
                    with_vectors=True,
                )
            found = {hit.id: (self._image(info, hit), hit.version) for hit in reply.points}
        rest = [task for task, known in zip(tasks, ids, strict=True) if known not in found]
        for task, image in zip(rest, await self._reread(info, rest), strict=True):
            found[points.point_id(task.change.key["id"])] = image, None
        return [found[known] for known in ids]

    async def _reread(self, info: CollectionInfo, tasks: Sequence[_Task]) -> list[Image]:
        return await self.load(info, [task.change.key for task in tasks])


def _sample(task: _Task) -> tuple[str, Any] | None:
    """The name and the value of a vector by which a search finds the point."""
    image = task.before if isinstance(task.target, Absent) else task.target
    vector = None if isinstance(image, Absent) else image.get("vector")
    if vector is None:
        return None
    named = vector if isinstance(vector, Mapping) else {vectors.UNNAMED: vector}
    # A sparse one finds only what has an index in common with it.
    return next(iter(sorted(named.items(), key=lambda item: isinstance(item[1], Mapping))), None)


def _unknown(text: str) -> Written:
    return Written(WriteStatus.UNKNOWN, StoreOutcomeUnknown(text))


def _as_unknown(error: StoreError) -> StoreOutcomeUnknown:
    unknown = StoreOutcomeUnknown(f"it was written, and could not be read back: {error}")
    unknown.__cause__ = error.__cause__
    return unknown
