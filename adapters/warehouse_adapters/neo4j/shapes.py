"""Nodes and relationships, as far as statements and images differ between them.

In every statement `n` is the record. Of a relationship, `a` and `b` are the nodes at its start and end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from warehouse.adapter import EntityInfo
from warehouse.errors import StoreError
from warehouse.records import ABSENT, Key, Record, get, key_of
from warehouse_adapters.neo4j import types
from warehouse_adapters.neo4j.cypher import quote
from warehouse_adapters.neo4j.schema import ELEMENT_ID, ENDS, Schema

PREFIX: Final = "properties."
_NODES: Final = {"start": "a", "end": "b"}


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where a statement finds records by key, and what of the key it takes: one row a record."""

    pattern: str
    test: str
    row: dict[str, Any]


class Shape(Protocol):
    """How statements match, return and name the records of one entity.

    * `pattern` matches them all, `by_id` at least those whose element id is given.
    * `columns` are returned besides the properties.
    """

    info: EntityInfo
    pattern: str
    by_id: str
    columns: tuple[tuple[str, str], ...]

    def expression(self, path: str) -> tuple[str, bool] | None:
        """The expression for a field, and whether it is exactly that."""
        ...

    def property(self, path: str) -> str:
        """The property that `path` names."""
        ...

    def path(self, name: str) -> str:
        """The path of a property: the inverse of `property`."""
        ...

    def image(self, row: Mapping[str, Any], properties: dict[str, Any]) -> Record:
        """The image of the record in `row`, with these properties."""
        ...

    def lookup(self, key: Key) -> Lookup:
        """How to find the record with this key."""
        ...


class NodeShape:
    """The nodes with a label. Their image is their properties."""

    columns: tuple[tuple[str, str], ...] = (("id", "elementId(n)"),)
    by_id = "(n)"

    def __init__(self, info: EntityInfo) -> None:
        self.info = info
        self.pattern = f"(n:{quote(info.entity.name)})"

    def expression(self, path: str) -> tuple[str, bool] | None:
        return f"n.{quote(path)}", True

    def property(self, path: str) -> str:
        return path

    def path(self, name: str) -> str:
        return name

    def image(self, row: Mapping[str, Any], properties: dict[str, Any]) -> Record:  # noqa: ARG002 - see Shape
        return types.record(properties)

    def lookup(self, key: Key) -> Lookup:
        test = " AND ".join(f"n.{quote(name)} = row.k{index}" for index, name in enumerate(key))
        return Lookup(self.pattern, test, {f"k{index}": value for index, value in enumerate(key.values())})


class RelationshipShape:
    """The relationships of a type. Their image names the nodes at both ends by their keys."""

    columns: tuple[tuple[str, str], ...] = (
        ("id", "elementId(n)"),
        ("start_labels", "labels(a)"),
        ("start", "properties(a)"),
        ("end_labels", "labels(b)"),
        ("end", "properties(b)"),
    )

    def __init__(self, info: EntityInfo, schema: Schema) -> None:
        self.info = info
        self.type = quote(info.entity.name)
        self.pattern = self.by_id = f"(a)-[n:{self.type}]->(b)"
        self._schema = schema

    def expression(self, path: str) -> tuple[str, bool] | None:
        if path.startswith(PREFIX):
            return f"n.{quote(self.property(path))}", True
        end, _, rest = path.partition(".key.")
        if end in _NODES and rest:  # of whichever label: the image tells whether it is the key
            return f"{_NODES[end]}.{quote(rest)}", False
        return None

    def property(self, path: str) -> str:
        return path.removeprefix(PREFIX)

    def path(self, name: str) -> str:
        return PREFIX + name

    def image(self, row: Mapping[str, Any], properties: dict[str, Any]) -> Record:
        ends = {
            end: self._schema.node_key(row[f"{end}_labels"], types.record(row[end] or {})) for end in ENDS
        }
        return {**ends, "properties": types.record(properties)}

    def lookup(self, key: Key) -> Lookup:
        if tuple(key) != ENDS:
            test = " AND ".join(
                f"n.{quote(self.property(path))} = row.k{index}" for index, path in enumerate(key)
            )
            row = {f"k{index}": value for index, value in enumerate(key.values())}
            return Lookup(self.pattern, test, row)
        tests, row = [], {}
        for end, node in _NODES.items():
            for name, value in key[end]["key"].items():
                tests.append(f"{node}.{quote(name)} = row.k{len(row)}")
                row[f"k{len(row)}"] = value
        start, last = (quote(key[end]["entity"]) for end in ENDS)
        return Lookup(f"(a:{start})-[n:{self.type}]->(b:{last})", " AND ".join(tests), row)


def shape_of(info: EntityInfo, schema: Schema) -> Shape:
    """The shape of an entity's records."""
    if info.entity.kind == "relationship":
        return RelationshipShape(info, schema)
    return NodeShape(info)


def returned(shape: Shape) -> str:
    """The columns of `shape` for a `WITH` or `RETURN`."""
    return ", ".join(f"{expression} AS {quote(name)}" for name, expression in shape.columns)


def names(shape: Shape) -> str:
    """The columns of `shape` once a `WITH` has named them."""
    return ", ".join(quote(name) for name, _ in shape.columns)


def identify(info: EntityInfo, row: Mapping[str, Any], image: Record) -> Key:
    """The key of an image; by element id where the label has no key. StoreError where a key field is null."""
    if not info.key:
        return {ELEMENT_ID: row["id"]}
    try:
        return key_of(image, info.key)
    except KeyError as missing:
        raise StoreError(f"the key field {missing.args[0]!r} is missing", field=missing.args[0]) from None


def claims(info: EntityInfo, image: Record, written: Sequence[str] | frozenset[str]) -> tuple[Key, ...]:
    """The unique values that writing these paths of `image` took: one key a constraint without nulls."""
    out = []
    for fields in info.unique:
        values = {path: get(image, path) for path in fields}
        if any(path in written for path in fields) and not any(
            value is None or value is ABSENT for value in values.values()
        ):
            out.append(values)
    return tuple(out)
