"""What is refused before the store is touched: names, paths and values that it cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from warehouse import conditions
from warehouse.adapter import Request
from warehouse.conditions import Condition
from warehouse.errors import InvalidOperation
from warehouse_adapters.neo4j import types
from warehouse_adapters.neo4j.cypher import quote
from warehouse_adapters.neo4j.schema import ENDS, Schema
from warehouse_adapters.neo4j.shapes import PREFIX

_ELEMENTS: Final = frozenset({"$push", "$pull", "$addToSet"})
_VALUELESS: Final = frozenset({"$unset", "$currentDate"})
_END_KEYS: Final = frozenset({"entity", "where"})
_RECORD_KEYS: Final = frozenset({*ENDS, "properties"})


def check(request: Request, schema: Schema | None) -> None:
    """Raise InvalidOperation for what Neo4j cannot hold or do: see `Adapter.check`."""
    quote(request.entity.name)
    related = request.entity.kind == "relationship"
    for record in request.records:
        _relationship(record, schema) if related else _properties(record)
    for item in request.assignments:
        name = _property(item.path, related=related)
        if item.operator not in _VALUELESS:
            _value([item.value] if item.operator in _ELEMENTS else item.value, name)
    _where(request.where, related=related)
    if request.operation == "insert" and not related:
        _key_given(request)
    if request.operation == "upsert":
        _upsert(request, schema, related=related)


def _properties(record: Mapping[str, Any]) -> None:
    for name, value in record.items():
        _property(name, related=False)
        _value(value, name)


def _value(value: Any, field: str) -> None:
    types.to_store(value, field)


def _property(path: str, *, related: bool) -> str:
    """The property that `path` names; properties are flat, so a dot is never part of one."""
    name = path
    if related:
        name = path.removeprefix(PREFIX)
        if name == path:
            raise InvalidOperation(
                "of a relationship only properties can be written", field=path, hint=f"write `{PREFIX}{path}`"
            )
    if "." in name or name.startswith("$"):
        raise InvalidOperation("properties in Neo4j are flat: a name has no dot and no $", field=path)
    quote(name)
    return name


def _key_given(request: Request) -> None:
    for record in request.records:
        for name in request.info.key:
            if record.get(name) is None:
                raise InvalidOperation(
                    "the key field is missing", field=name, hint="another key can be configured"
                )


# Conditions


def _where(where: Condition, *, related: bool) -> None:
    for path in conditions.paths(where):
        if related:
            _relationship_path(path)
        else:
            _property(path, related=False)


def _relationship_path(path: str) -> None:
    head, _, rest = path.partition(".")
    if head == "properties" and rest:
        _property(path, related=True)
    elif head in ENDS and (rest in {"", "entity", "key"} or rest.startswith("key.")):
        quote(rest or head)
    else:
        raise InvalidOperation(
            "a relationship has no such field",
            field=path,
            hint="name `properties.x`, `start.entity`, `start.key.x`, `end.entity` or `end.key.x`",
        )


# Relationships


def _relationship(record: Mapping[str, Any], schema: Schema | None) -> None:
    unknown = sorted(record.keys() - _RECORD_KEYS)
    if unknown:
        raise InvalidOperation("a relationship is given by `start`, `end` and `properties`", field=unknown[0])
    for end in ENDS:
        _end(record.get(end), end, schema)
    properties = record.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise InvalidOperation("`properties` is a mapping", field="properties")
    for name, value in properties.items():
        _property(PREFIX + name, related=True)
        _value(value, PREFIX + name)


def _end(given: Any, end: str, schema: Schema | None) -> None:
    if not isinstance(given, Mapping) or given.keys() != _END_KEYS or not given["where"]:
        raise InvalidOperation(f"`{end}` is {{'entity': ..., 'where': {{...}}}}", field=end)
    quote(given["entity"])
    _where(conditions.parse(given["where"]), related=False)
    if schema is not None and not schema.key(given["entity"]):
        raise InvalidOperation(
            f"{given['entity']} nodes have no key, so no relationship can name one",
            field=end,
            hint="create a uniqueness constraint for the label, or configure its `key`",
        )


def _upsert(request: Request, schema: Schema | None, *, related: bool) -> None:
    keys = set(request.conflict_keys)
    info = request.info
    known = [set(info.key), *([] if related else map(set, info.unique))]
    if not keys or keys not in known:
        raise InvalidOperation("`conflict_keys` are the key or the fields of a uniqueness constraint")
    if not related and schema is not None and not schema.guaranteed(info.entity, request.conflict_keys):
        name = info.entity.name
        raise InvalidOperation(
            "an upsert needs a uniqueness constraint in the store on its `conflict_keys`",
            field=request.conflict_keys[0],
            hint=f"CREATE CONSTRAINT FOR (n:{name}) REQUIRE n.{request.conflict_keys[0]} IS UNIQUE",
        )
    for path in request.update_fields or ():
        _property(path, related=related)
