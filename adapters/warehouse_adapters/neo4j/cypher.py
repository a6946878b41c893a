"""Statements: names quoted, values bound, conditions and assignments as Cypher.

Cypher's logic has three values where ours has two (DESIGN 3.1). Of a formula without negation both agree, if
null is read as false, which `WHERE` does; so only what is negated is wrapped in `coalesce(..., false)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Protocol

from warehouse.conditions import And, Compare, Condition, Not, Or
from warehouse.errors import InvalidOperation
from warehouse.updates import Assignment
from warehouse_adapters.neo4j import types

_INT: Final = range(-(2**63), 2**63)
_MICROSECOND: Final = timedelta(microseconds=1)
_ORDER: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_TEXT: Final = {"$startsWith": "STARTS WITH", "$endsWith": "ENDS WITH"}

# Takes the write lock of what `n` names, and changes nothing. Cypher evaluates before it locks: what was matched
# before this must be matched again after it. (Measured, with and without an index on the matched property: the
# test in tests/integration/test_neo4j_locks.py loses updates without it. `SET n.x = n.x` writes stale values.)
LOCK: Final = "SET n += {}"


def quote(name: str) -> str:
    """A label, type or property name for a statement; InvalidOperation if it cannot be one."""
    if not name or "\\" in name or not name.isprintable():
        raise InvalidOperation(
            f"{name!r} cannot be a name in Neo4j here",
            field=name,
            hint="names are not empty and have no backslash or control character",
        )
    return f"`{name.replace('`', '``')}`"


class Parameters:
    """The values bound in one statement; `prefix` is `$`, or `row.` where they come in rows."""

    def __init__(self, prefix: str = "$", *, offsets: bool = True) -> None:
        self.values: dict[str, Any] = {}
        self._prefix = prefix
        self._offsets = offsets

    def bind(self, value: Any, field: str = "where") -> str:
        """How the statement names `value`; InvalidOperation names `field` where the store cannot hold it."""
        return self._add(types.to_store(value, field, offsets=self._offsets))

    def bind_all(self, values: Iterable[Any]) -> str:
        """How the statement names the list of `values`, of any types."""
        return self._add([types.to_store(value, "where", offsets=self._offsets) for value in values])

    def _add(self, value: Any) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = value
        return self._prefix + name


class Names(Protocol):
    """What the fields of an entity are called in a statement."""

    def expression(self, path: str) -> tuple[str, bool] | None:
        """The expression for the field, and whether it is exactly that; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition in Cypher: `exact`, or true of more records than the condition is."""

    text: str
    exact: bool

    @property
    def where(self) -> str:
        """The `WHERE` clause, with a space before it; empty where everything matches."""
        return f" WHERE {self.text}" if self.text != "true" else ""


_EVERYTHING: Final = Filter("true", exact=True)
_NOTHING: Final = Filter("false", exact=True)
_UNKNOWN: Final = Filter("true", exact=False)


def condition(tree: Condition, names: Names, parameters: Parameters) -> Filter:
    """`tree` in Cypher; what Cypher cannot say exactly becomes wider, to be narrowed by `conditions.evaluate`."""
    match tree:
        case Compare():
            return _compare(tree, names, parameters)
        case And(parts):
            return _and([condition(part, names, parameters) for part in parts])
        case Or(parts):
            return _or([condition(part, names, parameters) for part in parts])
        case Not(part):
            return _not(condition(part, names, parameters))


def _and(parts: Sequence[Filter]) -> Filter:
    texts = [part.text for part in parts if part.text != "true"]
    return Filter(" AND ".join(texts) or "true", all(part.exact for part in parts))


def _or(parts: Sequence[Filter]) -> Filter:
    text = f"({' OR '.join(part.text for part in parts)})" if parts else "false"
    return Filter(text, all(part.exact for part in parts))


def _not(part: Filter) -> Filter:
    return Filter(f"NOT coalesce({part.text}, false)", exact=True) if part.exact else _UNKNOWN


def _compare(item: Compare, names: Names, parameters: Parameters) -> Filter:
    found = names.expression(item.path)
    if found is None:
        return _UNKNOWN
    expression, exact = found
    out = _operator(expression, item, parameters)
    return out if exact else Filter(out.text, exact=False)


def _operator(expression: str, item: Compare, parameters: Parameters) -> Filter:
    value = item.value
    match item.operator:
        case "$eq":
            return _equal(expression, value, parameters)
        case "$ne":
            return _not(_equal(expression, value, parameters))
        case "$in":
            return _in(expression, value, parameters)
        case "$nin":
            return _not(_in(expression, value, parameters))
        case "$gt" | "$gte" | "$lt" | "$lte":
            return _ordered(expression, item.operator, value, parameters)
        case "$null" | "$exists":
            return _null(expression, is_null=value is (item.operator == "$null"))
        case "$startsWith" | "$endsWith":
            return Filter(f"{expression} {_TEXT[item.operator]} {parameters.bind(value)}", exact=True)
        case "$contains":
            return _contains(expression, value, parameters)
        case "$containsAny":
            return _or([_contains(expression, element, parameters) for element in value])
        case "$containsAll":
            present = _null(expression, is_null=False)
            return _and([present, *(_contains(expression, element, parameters) for element in value)])
        case _:  # $like, $ilike, $regex: text that Cypher's regular expressions read differently
            return Filter(_null(expression, is_null=False).text, exact=False)


def _null(expression: str, *, is_null: bool) -> Filter:
    # Never `IS NOT NULL`: once it was tested before a SET, Neo4j 5.26 has `properties(n)` say true for the value.
    return Filter(f"{expression} IS NULL" if is_null else f"({expression} IS NULL) = false", exact=True)


def _equal(expression: str, value: Any, parameters: Parameters) -> Filter:
    if value is None:
        return _null(expression, is_null=True)
    if _is_zoned(value):
        return _around(expression, value, value, parameters)
    if not _is_plain(value):
        return _UNKNOWN
    return Filter(f"{expression} = {parameters.bind(value)}", exact=not _saturates(value))


def _saturates(value: Any) -> bool:
    """Whether Neo4j takes it for another number: doubles from 2**63 on become the greatest integer in its tests."""
    if isinstance(value, float):
        return value >= 2.0**63
    return isinstance(value, int) and not isinstance(value, bool) and value == _INT[-1]


def _in(expression: str, values: Iterable[Any], parameters: Parameters) -> Filter:
    values = list(values)
    if not values:
        return _NOTHING
    plain = [value for value in values if _is_scalar(value)]
    parts = [_equal(expression, value, parameters) for value in values if not _is_scalar(value)]
    if plain:
        exact = not any(map(_saturates, plain))
        parts.append(Filter(f"{expression} IN {parameters.bind_all(plain)}", exact))
    return _or(parts)


def _ordered(expression: str, operator: str, value: Any, parameters: Parameters) -> Filter:
    if value is None:
        return _NOTHING
    if _is_zoned(value):
        upwards = operator in {"$gt", "$gte"}
        return _around(expression, value if upwards else None, None if upwards else value, parameters)
    if not _is_scalar(value) or isinstance(value, bytes):
        return _UNKNOWN
    if _saturates(value):
        return Filter(f"{expression} {_ORDER[operator][0]}= {parameters.bind(value)}", exact=False)
    return Filter(f"{expression} {_ORDER[operator]} {parameters.bind(value)}", exact=True)


def _around(expression: str, low: datetime | None, high: datetime | None, parameters: Parameters) -> Filter:
    """Wider by a microsecond: Cypher tells equal moments apart by their zone, and orders them by it."""
    texts = []
    if low is not None:
        texts.append(f"{expression} >= {parameters.bind(_shifted(low, -_MICROSECOND))}")
    if high is not None:
        texts.append(f"{expression} <= {parameters.bind(_shifted(high, _MICROSECOND))}")
    return Filter(" AND ".join(texts), exact=False)


def _shifted(value: datetime, by: timedelta) -> datetime:
    try:
        return value.astimezone(UTC) + by
    except OverflowError:
        return value


def _contains(expression: str, value: Any, parameters: Parameters) -> Filter:
    """A substring, or an element of a list: `[] + x` is `x` if that is a list, and else `[x]`."""
    if not _is_scalar(value):
        return _UNKNOWN
    name = parameters.bind(value)
    element = f"{name} IN ([] + {expression})"
    if isinstance(value, str):
        return Filter(f"({expression} CONTAINS {name} OR {element})", exact=True)
    return Filter(f"({element} AND NOT {expression} = {name})", exact=True)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        alike = type(value) in {list, tuple} and len({type(item) for item in value}) <= 1
        return alike and all(_is_scalar(item) and not isinstance(item, bytes) for item in value)
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    """Whether Cypher compares `value` with a property as `conditions` does."""
    if isinstance(value, int):
        return value in _INT
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, datetime | time):
        return value.tzinfo is None
    return isinstance(value, bool | str | bytes | date)


def _is_zoned(value: Any) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None


# Assignments


_SETTERS: Final = {
    "$set": "{value}",
    "$unset": "null",
    "$currentDate": "{value}",
    "$increment": "coalesce({field}, 0) + {value}",
    "$multiply": "coalesce({field}, 0) * {value}",
    "$push": "coalesce({field}, []) + [{value}]",
}


def settable(items: Iterable[Assignment]) -> bool:
    """Whether Cypher can do all of these (where their values fit: `updates.apply` tells)."""
    return all(item.operator in _SETTERS for item in items)


def assignments(items: Iterable[Assignment], names: Names, parameters: Parameters, now: datetime) -> str:
    """The items of a `SET` clause."""
    out = []
    for item in items:
        field, _ = names.expression(item.path) or ("", False)
        value = parameters.bind(now if item.operator == "$currentDate" else item.value, item.path)
        out.append(f"{field} = {_SETTERS[item.operator].format(field=field, value=value)}")
    return ", ".join(out)
