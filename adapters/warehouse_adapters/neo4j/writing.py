"""Guarded writes: each change made only if the record, locked, still is what its before image says."""

from __future__ import annotations

from warehouse.adapter import EntityInfo, WriteStatus, Written
from warehouse.errors import ConstraintViolated, StoreError
from warehouse.records import ABSENT, Absent, Change, Entity, Record, get, same_image
from warehouse_adapters.neo4j import creation, relationships
from warehouse_adapters.neo4j.deletion import ambiguous, still_connected
from warehouse_adapters.neo4j.relationships import Resolved
from warehouse_adapters.neo4j.schema import ENDS
from warehouse_adapters.neo4j.work import Found, Work

_APPLIED = Written(WriteStatus.APPLIED)
_CONFLICT = Written(WriteStatus.CONFLICT)


async def write(work: Work, info: EntityInfo, change: Change) -> Written:
    """Make one change: see `Unit.write`. What a constraint refuses is REFUSED; other errors are raised."""
    try:
        return await _write(work, info, change)
    except ConstraintViolated as error:
        return Written(WriteStatus.REFUSED, error)


async def _write(work: Work, info: EntityInfo, change: Change) -> Written:
    shape = work.shape(info)
    (found,) = await work.lookup(shape, [change.key])
    if len(found) > 1:
        raise ambiguous(info, "it is not clear which one is meant")
    if isinstance(change.before, Absent):
        if found:
            return _CONFLICT
        assert not isinstance(change.after, Absent)  # noqa: S101 - a change is of something
        return await _insert(work, info, change.after)
    if not found or not same_image(found[0].image, change.before, change.written | change.guard):
        return _CONFLICT
    if isinstance(change.after, Absent):
        return await _delete(work, info, found[0])
    after = change.after
    values = {path: get(after, path) for path in change.written}
    stored = work.store(
        {shape.property(path): None if value is ABSENT else value for path, value in values.items()}
    )
    await work.assign(shape, {found[0].id: stored})
    return _APPLIED


async def _insert(work: Work, info: EntityInfo, after: Record) -> Written:
    if info.entity.kind == "record":
        await creation.create(work, info, [after])
        return _APPLIED
    ids = []
    for end in ENDS:
        node = work.shape(work.schema.describe(Entity(after[end]["entity"])))
        (found,) = await work.lookup(node, [after[end]["key"]])
        if len(found) != 1:
            return Written(WriteStatus.REFUSED, _no_end(end, after))
        ids.append(found[0].id)
    await relationships.create(work, info, [Resolved(after, *ids)])
    return _APPLIED


def _no_end(end: str, after: Record) -> StoreError:
    return ConstraintViolated(
        f"the {after[end]['entity']} node at the {end} of the relationship is not there", constraint=end
    )


async def _delete(work: Work, info: EntityInfo, found: Found) -> Written:
    """Delete without detaching: what is still connected, others connected."""
    shape = work.shape(info)
    if info.entity.kind == "record":
        connected = "MATCH (n)-[r]-() WHERE elementId(n) = $id RETURN count(r) AS links"
        if (await work.run(connected, id=found.id)).rows[0]["links"]:
            return Written(WriteStatus.REFUSED, still_connected())
    await work.run(f"MATCH {shape.by_id} WHERE elementId(n) = $id DELETE n", id=found.id)
    return _APPLIED
