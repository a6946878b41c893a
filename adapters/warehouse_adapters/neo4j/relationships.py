"""Relationships: insert and upsert, by conditions on the nodes at both ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse import conditions
from warehouse.adapter import EntityInfo, Request
from warehouse.errors import ConstraintViolated, StoreError
from warehouse.records import Change, Entity, Key, Record, key_of, same_image
from warehouse_adapters.neo4j import cypher
from warehouse_adapters.neo4j.connection import Row
from warehouse_adapters.neo4j.creation import batches, inserted, refuse_taken, update_found
from warehouse_adapters.neo4j.cypher import LOCK
from warehouse_adapters.neo4j.deletion import ambiguous
from warehouse_adapters.neo4j.schema import ENDS
from warehouse_adapters.neo4j.shapes import Shape, returned
from warehouse_adapters.neo4j.work import Found, Work, operands


async def insert(work: Work, request: Request) -> list[Change]:
    """Create a relationship for each record."""
    resolved = await resolve(work, request.records)
    rows = await create(work, request.info, resolved)
    return [
        _inserted(work.shape(request.info), row, item.record)
        for row, item in zip(rows, resolved, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A relationship to be: its image, and the element ids of the nodes at its ends."""

    record: Record
    start: str
    end: str


def _inserted(shape: Shape, row: Row, record: Record) -> Change:
    written = frozenset({*ENDS, *(shape.path(name) for name in record["properties"])})
    return inserted(shape, row, record, written)


# The ends


async def resolve(work: Work, records: Sequence[Mapping[str, Any]]) -> list[Resolved]:
    """The records with their ends found. Raises StoreError where an end is not exactly one node.

    The nodes at the start are locked, so that two transactions cannot both connect the same two nodes.
    """
    found = {end: await _nodes(work, end, [record[end] for record in records]) for end in ENDS}
    out = []
    for index, record in enumerate(records):
        start, last = (found[end][index] for end in ENDS)
        ends = {
            end: work.schema.node_key(item.row["labels"], item.image)
            for end, item in zip(ENDS, (start, last), strict=True)
        }
        image = {**ends, "properties": record.get("properties") or {}}
        out.append(Resolved(image, start.id, last.id))
    return out


async def _nodes(work: Work, end: str, ends: Sequence[Mapping[str, Any]]) -> list[Found]:
    """The one node that each of `ends` means; one statement for all that are asked for alike."""
    matches: list[list[Found]] = [[] for _ in ends]
    groups: dict[tuple[str, str], list[Row]] = {}
    wheres = [operands(conditions.bind(conditions.parse(item["where"]), conditions.literal)) for item in ends]
    for index, item in enumerate(ends):
        shape = work.shape(work.schema.describe(Entity(item["entity"])))
        parameters = work.parameters("row.")
        test = cypher.condition(wheres[index], shape, parameters)
        row = {"i": index, **parameters.values}
        groups.setdefault((shape.pattern, test.where), []).append(row)
    for (pattern, clause), rows in groups.items():
        lock = f" {LOCK} WITH *{clause}" if end == "start" else ""
        statement = (
            f"UNWIND $rows AS row MATCH {pattern}{clause}{lock}"
            " RETURN row.i AS i, elementId(n) AS id, labels(n) AS labels, properties(n) AS now"
        )
        for row in (await work.run(statement, rows=rows)).rows:
            image = work.shape(work.schema.describe(Entity(ends[row["i"]]["entity"]))).image(row, row["now"])
            if conditions.evaluate(wheres[row["i"]], image):
                matches[row["i"]].append(Found(row, image))
    for item, nodes in zip(ends, matches, strict=True):
        if len(nodes) != 1:
            raise StoreError(
                f"`{end}` must be one {item['entity']} node, and {len(nodes)} match its `where`", field=end
            )
    return [nodes[0] for nodes in matches]


# Creating


async def create(work: Work, info: EntityInfo, resolved: Sequence[Resolved]) -> list[Row]:
    """Create relationships between nodes. Raises ConstraintViolated where one with the same key is there."""
    shape = work.shape(info)
    await refuse_taken(work, shape, [item.record for item in resolved])
    kind = cypher.quote(info.entity.name)
    twice = len({(item.start, item.end) for item in resolved}) < len(resolved)
    statement = (
        "UNWIND $rows AS row MATCH (a) WHERE elementId(a) = row.start MATCH (b) WHERE elementId(b) = row.end"
        f" OPTIONAL MATCH (a)-[other:{kind}]->(b) WITH row, a, b, count(other) AS taken"
        f" CREATE (a)-[n:{kind}]->(b) SET n = row.properties"
        f" RETURN row.i AS i, {returned(shape)}, properties(n) AS now, taken"
    )
    rows = [
        {
            "i": index,
            "start": item.start,
            "end": item.end,
            "properties": work.store(item.record["properties"]),
        }
        for index, item in enumerate(resolved)
    ]
    created = (await work.run(statement, rows=rows)).rows
    if info.key == ENDS and (twice or any(row["taken"] for row in created)):
        raise ConstraintViolated(
            f"there is a {info.entity.name} relationship between the same nodes already",
            constraint=f"{info.entity.name}(start, end)",
            hint="configure a `key` for them, if there may be several",
        )
    return sorted(created, key=lambda row: int(row["i"]))


# Upserting


async def upsert(work: Work, request: Request) -> list[Change]:
    """Update the relationships that have the records' key, and create the others."""
    resolved = await resolve(work, request.records)
    changes: list[Change] = []
    for batch in batches(resolved, lambda item: _key(request.info, item)):
        changes += await _upsert(work, request, batch)
    return changes


async def _upsert(work: Work, request: Request, resolved: Sequence[Resolved]) -> list[Change]:
    shape = work.shape(request.info)
    found = await work.lookup(shape, [_key(request.info, item) for item in resolved])
    matches = [_met(request.info, *pair) for pair in zip(resolved, found, strict=True)]
    updated = await update_found(work, request, [item.record for item in resolved], matches)
    fresh = [item for item, match in zip(resolved, matches, strict=True) if match is None]
    created = iter(await create(work, request.info, fresh) if fresh else [])
    return [
        _inserted(shape, next(created), item.record) if match is None else updated[match.id]
        for item, match in zip(resolved, matches, strict=True)
    ]


def _key(info: EntityInfo, item: Resolved) -> Key:
    try:
        return key_of(item.record, info.key)
    except KeyError as missing:
        raise StoreError(f"the key field {missing.args[0]!r} is missing", field=missing.args[0]) from None


def _met(info: EntityInfo, item: Resolved, found: Sequence[Found]) -> Found | None:
    """The relationship that the upsert met. It must be the only one, and between the same nodes."""
    if len(found) > 1:
        raise ambiguous(info, "it is not clear which one is meant")
    for match in found:
        if not same_image(match.image, item.record, ENDS):
            raise ConstraintViolated(
                f"the {info.entity.name} relationship with this key lies between other nodes",
                constraint=f"{info.entity.name}({', '.join(info.key)})",
            )
    return found[0] if found else None
