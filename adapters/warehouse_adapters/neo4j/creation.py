"""Nodes: insert and upsert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from warehouse.adapter import EntityInfo, Request
from warehouse.errors import ConstraintViolated, StoreContention
from warehouse.planning import freeze
from warehouse.records import ABSENT, Change, Key, Record, get
from warehouse_adapters.neo4j.connection import Row
from warehouse_adapters.neo4j.cypher import quote
from warehouse_adapters.neo4j.shapes import Shape, claims, identify, returned
from warehouse_adapters.neo4j.work import Found, Work

T = TypeVar("T")


async def insert(work: Work, request: Request) -> list[Change]:
    """Create a node for each record; one statement."""
    rows = await create(work, request.info, request.records)
    return [
        inserted(work.shape(request.info), row, given)
        for row, given in zip(rows, request.records, strict=True)
    ]


async def create(work: Work, info: EntityInfo, records: Sequence[Record]) -> list[Row]:
    """Create nodes with these properties. Raises ConstraintViolated where a unique value is taken."""
    shape = work.shape(info)
    await refuse_taken(work, shape, records)
    columns = f"{returned(shape)}, properties(n) AS now"
    statement = f"UNWIND $rows AS row CREATE {shape.pattern} SET n = row RETURN {columns}"
    return (await work.run(statement, rows=[work.store(record) for record in records])).rows


def inserted(shape: Shape, row: Row, given: Record, written: frozenset[str] | None = None) -> Change:
    """The change that made the record of `row` out of `given`."""
    image = shape.image(row, row["now"])
    written = frozenset(given) if written is None else written
    return Change(
        entity=shape.info.entity,
        key=identify(shape.info, row, image),
        before=ABSENT,
        after=image,
        written=written,
        claims=claims(shape.info, image, frozenset(image) | written),
    )


async def refuse_taken(work: Work, shape: Shape, records: Sequence[Record]) -> None:
    """Raise ConstraintViolated for unique values that are taken, where the store itself would not say so now."""
    info = shape.info
    key = [shape.property(path) for path in info.key if path not in {"start", "end"}]
    for properties in work.schema.unguarded(info.entity, key):
        paths = [shape.path(name) for name in properties]
        keys: list[Key] = []
        for record in records:
            values = {path: get(record, path) for path in paths}
            if not any(value is None or value is ABSENT for value in values.values()):
                keys.append(values)
        twice = len({freeze(item) for item in keys}) < len(keys)
        if twice or any(await work.lookup(shape, keys)):
            raise ConstraintViolated(
                f"a record with the same {', '.join(properties)} is there already",
                constraint=work.schema.name(info.entity.name, properties),
            )


async def upsert(work: Work, request: Request) -> list[Change]:
    """Update the nodes that have the records' `conflict_keys`, and create the others."""
    changes: list[Change] = []
    for records in batches(
        request.records, lambda record: [get(record, path) for path in request.conflict_keys]
    ):
        changes += await _upsert(work, request, records)
    return changes


def batches(items: Sequence[T], key: Callable[[T], Any]) -> Iterator[list[T]]:
    """The items of an upsert in order, cut wherever a second one would meet the same record."""
    batch: list[T] = []
    seen: set[Any] = set()
    for item in items:
        name = freeze(key(item))
        if name in seen:
            yield batch
            batch, seen = [], set()
        batch.append(item)
        seen.add(name)
    yield batch


async def _upsert(work: Work, request: Request, records: Sequence[Record]) -> list[Change]:
    shape = work.shape(request.info)
    wanted = [_conflict(record, request.conflict_keys) for record in records]
    found = iter(await work.lookup(shape, [key for key in wanted if key is not None]))
    matches: list[Found | None] = [
        next(iter(next(found)), None) if key is not None else None for key in wanted
    ]
    updated = await update_found(work, request, records, matches)
    fresh = [record for record, match in zip(records, matches, strict=True) if match is None]
    created = iter(await _create_missing(work, request, fresh))
    return [
        inserted(shape, next(created), record) if match is None else updated[match.id]
        for record, match in zip(records, matches, strict=True)
    ]


def _conflict(record: Record, conflict_keys: Sequence[str]) -> Key | None:
    """What the record would meet; None where a null keeps it from meeting anything."""
    key = {path: get(record, path) for path in conflict_keys}
    return None if any(value is None or value is ABSENT for value in key.values()) else key


async def update_found(
    work: Work, request: Request, records: Sequence[Record], matches: Sequence[Found | None]
) -> dict[str, Change]:
    """Update what an upsert met: the changes by element id."""
    shape = work.shape(request.info)
    fixed = {*request.conflict_keys, *request.info.key}
    sets: dict[str, Record] = {}
    for record, match in zip(records, matches, strict=True):
        if match is not None:
            paths = request.update_fields if request.update_fields is not None else paths_of(shape, record)
            sets[match.id] = {path: _null(get(record, path)) for path in paths if path not in fixed}
    stored = {
        ident: work.store({shape.property(path): value for path, value in values.items()})
        for ident, values in sets.items()
    }
    images = await work.assign(shape, stored)
    return {
        match.id: Change(
            entity=request.entity,
            key=identify(request.info, match.row, match.image),
            before=match.image,
            after=images[match.id],
            written=frozenset(sets[match.id]),
            claims=claims(request.info, images[match.id], frozenset(sets[match.id])),
        )
        for match in matches
        if match is not None
    }


def paths_of(shape: Shape, record: Record) -> list[str]:
    """The paths of the properties that `record` gives."""
    given = record if shape.info.entity.kind == "record" else record.get("properties") or {}
    return [shape.path(name) for name in given]


def _null(value: Any) -> Any:
    return None if value is ABSENT else value


async def _create_missing(work: Work, request: Request, records: Sequence[Record]) -> list[Row]:
    """Create what an upsert did not meet; a null among the `conflict_keys` meets nothing."""
    keyed = [record for record in records if _conflict(record, request.conflict_keys) is not None]
    plain = [record for record in records if _conflict(record, request.conflict_keys) is None]
    merged = iter(await _merge(work, request, keyed) if keyed else [])
    created = iter(await create(work, request.info, plain) if plain else [])
    return [
        next(created) if _conflict(record, request.conflict_keys) is None else next(merged)
        for record in records
    ]


async def _merge(work: Work, request: Request, records: Sequence[Record]) -> list[Row]:
    """Create nodes by MERGE. If somebody was faster, StoreContention: the unit must run again."""
    shape = work.shape(request.info)
    await refuse_taken(work, shape, records)
    keys = ", ".join(f"{quote(name)}: row.{quote(name)}" for name in request.conflict_keys)
    statement = (
        f"UNWIND $rows AS row MERGE (n:{quote(request.entity.name)} {{{keys}}}) ON CREATE SET n = row"
        f" RETURN {returned(shape)}, properties(n) AS now"
    )
    reply = await work.run(statement, rows=[work.store(record) for record in records])
    if reply.nodes_created != len(records):
        raise StoreContention("another transaction inserted a record with the same key meanwhile")
    return reply.rows
