"""Update: in one statement where Cypher can do it, else computed here while the records are locked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from warehouse import conditions, updates
from warehouse.adapter import Request
from warehouse.errors import StoreError
from warehouse.records import ABSENT, Change, Record, get
from warehouse_adapters.neo4j import cypher
from warehouse_adapters.neo4j.connection import Row
from warehouse_adapters.neo4j.shapes import Shape, claims, identify, returned
from warehouse_adapters.neo4j.work import Work


async def update(work: Work, request: Request) -> list[Change]:
    """Change what matches. Raises StoreError where a value does not fit its operator."""
    if cypher.settable(request.assignments):
        return await _in_store(work, request)
    return await _computed(work, request)


async def _in_store(work: Work, request: Request) -> list[Change]:
    shape = work.shape(request.info)
    selection = await work.select(shape, request.where)
    if selection is None:
        return []
    parameters = work.parameters("$set.")
    setters = cypher.assignments(request.assignments, shape, parameters, datetime.now(UTC))
    statement = (
        f"{selection.text} WITH *, properties(n) AS before SET {setters}"
        f" RETURN {returned(shape)}, before, properties(n) AS now"
    )
    reply = await work.run(statement, **selection.parameters, set=parameters.values)
    return [_checked(request, shape, row) for row in reply.rows]


def _checked(request: Request, shape: Shape, row: Row) -> Change:
    """Cypher adds and appends also where `updates.apply` refuses (text plus number): then so does the step."""
    before = shape.image(row, row["before"])
    _applied(request, before)
    return _updated(request, row, before, shape.image(row, row["now"]))


async def _computed(work: Work, request: Request) -> list[Change]:
    shape = work.shape(request.info)
    found = await work.locked(shape, request.where)
    values: dict[str, dict[str, Any]] = {}
    for item in found:
        after = _applied(request, item.image)
        written = {entry.path: get(after, entry.path) for entry in request.assignments}
        values[item.id] = work.store(
            {shape.property(path): None if value is ABSENT else value for path, value in written.items()}
        )
    images = await work.assign(shape, values)
    return [_updated(request, item.row, item.image, images[item.id]) for item in found]


def _applied(request: Request, before: Record) -> Record:
    try:
        return updates.apply(request.assignments, before)
    except TypeError as error:
        raise StoreError(str(error)) from error


def _updated(request: Request, row: Row, before: Record, after: Record) -> Change:
    written = frozenset(item.path for item in request.assignments)
    return Change(
        entity=request.entity,
        key=identify(request.info, row, after),
        before=before,
        after=after,
        written=written,
        guard=conditions.paths(request.where),
        effects=updates.effects(request.assignments),
        claims=claims(request.info, after, written),
    )
