"""Delete, and what goes with a node: its relationships."""

from __future__ import annotations

from typing import Any, Final

from warehouse import conditions
from warehouse.adapter import EntityInfo, Request
from warehouse.errors import ConstraintViolated, StoreContention, StoreError
from warehouse.planning import freeze
from warehouse.records import ABSENT, Change, Entity, Record
from warehouse_adapters.neo4j.connection import Row
from warehouse_adapters.neo4j.shapes import Shape, identify, names, returned
from warehouse_adapters.neo4j.work import Work

# Each relationship as `shapes.RelationshipShape` returns it, with its type and properties.
_LINKS: Final = (
    "collect(CASE WHEN r IS NULL THEN null ELSE {id: elementId(r), type: type(r), now: properties(r),"
    " start_labels: labels(startNode(r)), start: properties(startNode(r)),"
    " end_labels: labels(endNode(r)), end: properties(endNode(r))} END)"
)


async def delete(work: Work, request: Request) -> list[Change]:
    """Delete what matches; of nodes first the relationships, as dependent changes, then the nodes.

    So the reverse order restores the nodes before what lies between them.
    """
    shape = work.shape(request.info)
    selection = await work.select(shape, request.where)
    if selection is None:
        return []
    if request.entity.kind == "relationship":
        columns = f"{returned(shape)}, properties(n) AS now"
        statement = f"{selection.text} WITH n, {columns} DELETE n RETURN {names(shape)}, now"
        rows = (await work.run(statement, **selection.parameters)).rows
        return [deleted(shape.info, row, shape.image(row, row["now"]), request.where) for row in rows]
    statement = (
        f"{selection.text} WITH n, elementId(n) AS id, properties(n) AS now OPTIONAL MATCH (n)-[r]-()"
        f" WITH n, id, now, {_LINKS} AS links {'DETACH ' if request.detach else ''}DELETE n RETURN id, now, links"
    )
    reply = await work.run(statement, **selection.parameters)
    links = {link["id"]: link for row in reply.rows for link in row["links"]}
    if links and not request.detach:
        raise still_connected()
    if reply.relationships_deleted != len(links):
        raise StoreContention("another transaction changed the relationships of a deleted node meanwhile")
    nodes = [deleted(shape.info, row, shape.image(row, row["now"]), request.where) for row in reply.rows]
    return [*_dependents(work, list(links.values())), *nodes]


def deleted(
    info: EntityInfo, row: Row, image: Record, where: conditions.Condition, *, dependent: bool = False
) -> Change:
    """The change that deleted the record of `row`."""
    return Change(
        entity=info.entity,
        key=identify(info, row, image),
        before=image,
        after=ABSENT,
        written=frozenset(image),
        guard=conditions.paths(where),
        dependent=dependent,
    )


def _dependents(work: Work, links: list[Row]) -> list[Change]:
    changes = []
    seen: set[Any] = set()
    for link in links:
        info = work.schema.describe(Entity(link["type"], "relationship"))
        shape: Shape = work.shape(info)
        change = deleted(info, link, shape.image(link, link["now"]), conditions.EVERYTHING, dependent=True)
        name = freeze([info.entity.name, change.key])
        if name in seen:
            raise ambiguous(info, "deleting the node would lose one of them for ever")
        seen.add(name)
        changes.append(change)
    return changes


def ambiguous(info: EntityInfo, why: str) -> StoreError:
    """Several relationships of one type between the same nodes, with nothing to tell them apart."""
    return ConstraintViolated(
        f"there are several {info.entity.name} relationships with the same {' and '.join(info.key)}: {why}",
        constraint=f"{info.entity.name}({', '.join(info.key)})",
        hint="configure a `key` for them",
    )


def still_connected() -> ConstraintViolated:
    """A node cannot be deleted as long as it has relationships."""
    return ConstraintViolated("the node still has relationships", constraint="relationships")
