"""What every operation of a unit needs: run statements, and match records so that they are locked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query
from warehouse.conditions import EVERYTHING, Condition
from warehouse.records import Key, Record
from warehouse_adapters.neo4j import cypher, types
from warehouse_adapters.neo4j.connection import Reply, Row, Transaction
from warehouse_adapters.neo4j.cypher import LOCK, Filter, Parameters
from warehouse_adapters.neo4j.schema import Schema
from warehouse_adapters.neo4j.shapes import Shape, names, returned, shape_of

_BY_IDS = "WHERE elementId(n) IN $ids"


@dataclass(frozen=True, slots=True)
class Found:
    """A record as a statement returned it, and its image."""

    row: Row
    image: Record

    @property
    def id(self) -> str:
        return str(self.row["id"])


@dataclass(frozen=True, slots=True)
class Selection:
    """The beginning of a statement after which `n` are the records that were meant, locked."""

    text: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Search:
    """A statement that reads what a query matches, and what is left to do with its rows."""

    shape: Shape
    query: Query
    where: Condition
    statement: str
    parameters: dict[str, Any]
    whole: bool  # nothing is left to do

    def finish(self, rows: Sequence[Row]) -> list[Record]:
        """The images that the query asks for, in its order."""
        images = [self.shape.image(row, row["now"]) for row in rows]
        if self.whole:
            return images
        images = [image for image in images if conditions.evaluate(self.where, image)]
        ordered = conditions.sort_records(images, self.query.order_by)
        return ordered[self.query.offset :][: self.query.limit]


def search(query: Query, schema: Schema, *, offsets: bool) -> Search:
    """The search that `query` means. Only what the store would order differently is ordered here."""
    shape = shape_of(query.info, schema)
    where = operands(query.where)
    parameters = Parameters(offsets=offsets)
    test = cypher.condition(where, shape, parameters)
    # `properties(n)` gives the operand in place of an equal number that an index has found (Neo4j 5.26).
    statement = f"MATCH {shape.pattern}{test.where} RETURN {returned(shape)}, n{{.*}} AS now"
    whole = test.exact and not query.order_by
    if whole and query.offset:
        statement += f" SKIP {parameters.bind(query.offset)}"
    if whole and query.limit is not None:
        statement += f" LIMIT {parameters.bind(query.limit)}"
    return Search(shape, query, where, statement, parameters.values, whole)


def operands(where: Condition) -> Condition:
    """`where` with its operands of the types that images have."""
    return EVERYTHING if where == EVERYTHING else conditions.bind(where, types.to_operand)


class Work:
    """One transaction, the schema it works with, and whether the store keeps zone offsets."""

    def __init__(self, transaction: Transaction, schema: Schema, *, offsets: bool) -> None:
        self.transaction = transaction
        self.schema = schema
        self._offsets = offsets

    async def run(self, statement: str, **parameters: Any) -> Reply:
        """Run one statement in the transaction."""
        return await self.transaction.run(statement, **parameters)

    def shape(self, info: EntityInfo) -> Shape:
        return shape_of(info, self.schema)

    def parameters(self, prefix: str = "$") -> Parameters:
        return Parameters(prefix, offsets=self._offsets)

    def store(self, properties: Record) -> dict[str, Any]:
        """Properties as the store keeps them; InvalidOperation names the one that it cannot."""
        return {
            name: types.to_store(value, name, offsets=self._offsets) for name, value in properties.items()
        }

    async def find(self, query: Query) -> list[Record]:
        """What `query` matches in this transaction, locked if it says so."""
        found = search(query, self.schema, offsets=self._offsets)
        if not query.lock:
            return found.finish((await self.run(found.statement, **found.parameters)).rows)
        rows = [item.row for item in await self.locked(found.shape, query.where)]
        images = [found.shape.image(row, row["now"]) for row in rows]
        return conditions.sort_records(images, query.order_by)[query.offset :][: query.limit]

    async def select(self, shape: Shape, where: Condition) -> Selection | None:
        """The records that match `where`, locked and then matched again; None where there are none.

        In the statement to come, if Cypher can say `where` exactly; else by their ids, found before it.
        """
        where = operands(where)
        parameters = self.parameters()
        test = cypher.condition(where, shape, parameters)
        if test.exact:
            text = f"MATCH {shape.pattern}{test.where} {LOCK} WITH *{test.where}"
            return Selection(text, parameters.values)
        ids = await self._narrowed(shape, where, test, parameters)
        return Selection(f"MATCH {shape.by_id} {_BY_IDS} WITH *", {"ids": ids}) if ids else None

    async def _narrowed(
        self, shape: Shape, where: Condition, test: Filter, parameters: Parameters
    ) -> list[str]:
        columns = f"{returned(shape)}, properties(n) AS now"
        candidates = f"MATCH {shape.pattern}{test.where} RETURN {columns}"
        ids = self._matching(shape, where, await self.run(candidates, **parameters.values))
        if not ids:
            return []
        locked = f"MATCH {shape.by_id} {_BY_IDS} {LOCK} WITH * RETURN {columns}"
        return self._matching(shape, where, await self.run(locked, ids=ids))

    @staticmethod
    def _matching(shape: Shape, where: Condition, reply: Reply) -> list[str]:
        return [row["id"] for row in reply.rows if conditions.evaluate(where, shape.image(row, row["now"]))]

    async def locked(self, shape: Shape, where: Condition) -> list[Found]:
        """The records that match `where`, locked."""
        selection = await self.select(shape, where)
        if selection is None:
            return []
        statement = f"{selection.text} RETURN {returned(shape)}, properties(n) AS now"
        rows = (await self.run(statement, **selection.parameters)).rows
        return [Found(row, shape.image(row, row["now"])) for row in rows]

    async def lookup(self, shape: Shape, keys: Sequence[Key]) -> list[list[Found]]:
        """The records that have each of these keys, locked; one statement for all keys of one shape."""
        out: list[list[Found]] = [[] for _ in keys]
        groups: dict[tuple[str, str], list[Row]] = {}
        for index, key in enumerate(keys):
            how = shape.lookup(key)
            groups.setdefault((how.pattern, how.test), []).append({"i": index, **self.store(how.row)})
        for (pattern, test), rows in groups.items():
            statement = (
                f"UNWIND $rows AS row MATCH {pattern} WHERE {test} {LOCK} WITH * WHERE {test}"
                f" RETURN row.i AS i, {returned(shape)}, properties(n) AS now"
            )
            for row in (await self.run(statement, rows=rows)).rows:
                out[row["i"]].append(Found(row, shape.image(row, row["now"])))
        return out

    async def assign(self, shape: Shape, values: dict[str, dict[str, Any]]) -> dict[str, Record]:
        """Set properties of locked records, by element id (null removes one); their images afterwards."""
        if not values:
            return {}
        statement = (
            f"MATCH {shape.by_id} {_BY_IDS} SET n += $sets[elementId(n)]"
            f" WITH {returned(shape)}, properties(n) AS now RETURN {names(shape)}, now"
        )
        reply = await self.run(statement, ids=list(values), sets=values)
        return {row["id"]: shape.image(row, row["now"]) for row in reply.rows}
