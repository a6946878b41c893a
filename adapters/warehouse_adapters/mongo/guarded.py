"""Guarded writes: each alone in one round trip, or many together in two.

A bulk write stops at what the server refuses, but passes over a guard that does not hold and tells only how
many did. So the guards of many are first compared with the records as they are, and nothing is sent from the
first on that does not hold; where the counts then still tell that somebody was faster, the records are read
again, and judged by what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from warehouse.adapter import EntityInfo, WriteStatus, Written, first_failed
from warehouse.errors import ConstraintViolated, StoreError
from warehouse.planning import batches, judge
from warehouse.records import ABSENT, Absent, Change, Image, same_image
from warehouse_adapters.mongo.documents import Documents, Write
from warehouse_adapters.mongo.errors import violates
from warehouse_adapters.mongo.language import guarded, targets, update

_SIZE: Final = 1000
_APPLIED: Final = Written(WriteStatus.APPLIED)
_CONFLICT: Final = Written(WriteStatus.CONFLICT)
_Sent: TypeAlias = tuple[Change, Write | None]


class GuardedDocuments(Documents):
    """A `PlanningStore`."""

    async def apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        """See `PlanningStore.apply`."""
        return await apply(self, info, changes)


async def apply(documents: Documents, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
    """See `PlanningStore.apply`. In a transaction, raises what is not about one change alone."""
    out: list[Written] = []
    for batch in batches(changes, _SIZE):
        out += (
            [await _one(documents, info, *batch)] if len(batch) == 1 else await _many(documents, info, batch)
        )
        if first_failed(out):
            break
    return out


# One


async def _one(documents: Documents, info: EntityInfo, change: Change) -> Written:
    try:
        write = _write(change)
        held = await documents.bulk(info, [write]) == 1 if write else await _holds(documents, info, change)
    except StoreError as error:
        return _failed(documents, info, change, error)
    return _APPLIED if held else _CONFLICT


async def _holds(documents: Documents, info: EntityInfo, change: Change) -> bool:
    (current,) = await documents.load(info, [change.key])
    return _unchanged(change, current)


def _write(change: Change) -> Write | None:
    """The guarded write that makes `change`; None where there is nothing to write.

    Raises StoreError for a field that cannot be guarded.
    """
    before, after = change.before, change.after
    if isinstance(before, Absent):
        return None if isinstance(after, Absent) else InsertOne(dict(after))
    compared = change.written | change.guard
    if isinstance(after, Absent):
        return DeleteOne(guarded(before, compared))
    paths = targets(before, after, change.written)
    document = update(after, paths)
    return UpdateOne(guarded(before, compared.union(paths)), document) if document else None


def _failed(documents: Documents, info: EntityInfo, change: Change, error: StoreError) -> Written:
    """How a change ended at which the store, or the connection, failed."""
    if change.before is ABSENT and violates(error, info.key):
        return Written(WriteStatus.CONFLICT, error)
    if documents.session is not None and not isinstance(error, ConstraintViolated):
        raise error
    return Written(WriteStatus.UNKNOWN if error.outcome_unknown else WriteStatus.REFUSED, error)


# Many


async def _many(documents: Documents, info: EntityInfo, batch: Sequence[Change]) -> list[Written]:
    """How each of these changes, all of different records, ended, up to the last that was sent."""
    sent: list[_Sent] = []
    behind: list[Written] = []
    try:
        images = await documents.load(info, [change.key for change in batch])
        for change, current in zip(batch, images, strict=True):
            if not _unchanged(change, current):
                behind = [_CONFLICT]
                break
            sent.append((change, _write(change)))
    except StoreError as error:
        behind = [_failed(documents, info, batch[len(sent)], error)]
    out = await _send(documents, info, sent)
    return out if first_failed(out) else [*out, *behind]


def _unchanged(change: Change, current: Image) -> bool:
    return same_image(current, change.before, change.written | change.guard)


async def _send(documents: Documents, info: EntityInfo, sent: Sequence[_Sent]) -> list[Written]:
    changes = [change for change, _ in sent]
    writes = [write for _, write in sent if write is not None]
    try:
        made = await documents.bulk(info, writes)
    except StoreError as error:
        return await _stopped(documents, info, sent, error)
    if made == len(writes):
        return [_APPLIED] * len(sent)
    return await _judged(documents, info, changes)


async def _stopped(
    documents: Documents, info: EntityInfo, sent: Sequence[_Sent], error: StoreError
) -> list[Written]:
    """How the changes ended of which the store refused one, and made those before it; or nobody can tell."""
    changes = [change for change, _ in sent]
    details = error.__cause__.details if isinstance(error.__cause__, BulkWriteError) else None
    refusals = (details or {}).get("writeErrors")
    if details is None or not refusals:
        if documents.session is not None:
            raise error
        return [Written(WriteStatus.UNKNOWN, error)] * len(sent)
    index = int(refusals[0]["index"])
    place = [place for place, (_, write) in enumerate(sent) if write is not None][index]
    made = details["nInserted"] + details["nMatched"] + details["nRemoved"]
    if made == index or documents.session is not None:
        before = [_APPLIED] * place
    else:
        before = await _judged(documents, info, changes[:place])
    return [*before, _failed(documents, info, changes[place], error)]


async def _judged(documents: Documents, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
    """Which of the changes were made, by the records as they are now."""
    try:
        images = await documents.load(info, [change.key for change in changes])
    except StoreError as error:
        return [Written(WriteStatus.UNKNOWN, error)] * len(changes)
    return [Written(judge(change, current)) for change, current in zip(changes, images, strict=True)]
