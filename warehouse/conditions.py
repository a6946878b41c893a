"""Conditions (`where`): parsed once into a small tree, evaluated here by one two-valued logic.

`evaluate` is the reference: what a store evaluates itself must agree with it.

* A missing field equals null. `$ne`, `$nin` and `$not` are exact complements.
* Values of different kinds are never equal and have no order. All numbers are of one kind and compare by value,
  exactly: 1 equals 1.0, 2**53 + 1 is more than 2.0**53, and Decimal("0.1") is not the float 0.1. A boolean is no
  number. Moments with a zone (compared as moments) and without one are two kinds; so are dates and datetimes.
* NaN equals NaN, as a stored value does; it has no order. Null has none either.
* Texts compare by code point. In a `$regex` the dot is any character, `^` and `$` are the very ends.
* `$contains` and its kin find parts of texts and elements of lists; of anything else they are false.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, TypeAlias

from warehouse import patterns
from warehouse.errors import InvalidOperation, did_you_mean
from warehouse.records import ABSENT, get


@dataclass(frozen=True, slots=True)
class Compare:
    """One operator on one field: `Compare("age", "$gte", 18)`."""

    path: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class And:
    """All of `conditions`; none of them means: every record."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of `conditions`."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The exact complement of `condition`."""

    condition: Condition


Condition: TypeAlias = Compare | And | Or | Not
EVERYTHING: Final = And(())

OPERATORS: Final = frozenset(
    "$eq $ne $gt $gte $lt $lte $in $nin $like $ilike $startsWith $endsWith $contains $containsAll"
    " $containsAny $exists $null $regex".split()
)
_LIST_OPERATORS: Final = frozenset({"$in", "$nin", "$containsAll", "$containsAny"})
_TEXT_OPERATORS: Final = frozenset({"$like", "$ilike", "$startsWith", "$endsWith", "$regex"})
_FLAG_OPERATORS: Final = frozenset({"$exists", "$null"})


# Parsing


def parse(where: Mapping[str, Any] | None) -> Condition:
    """The tree of a `where` mapping; raises InvalidOperation naming the field."""
    if where is None:
        return EVERYTHING
    if not isinstance(where, Mapping):
        raise InvalidOperation(f"`where` must be a mapping of fields to conditions, not {where!r}")
    return _all([_parse_entry(name, value) for name, value in where.items()])


def _all(conditions: Sequence[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else And(tuple(conditions))


def check_path(path: Any) -> None:
    """Refuse what is no path to a field: names without NUL, joined by dots."""
    if not isinstance(path, str) or not all(path.split(".")) or "\0" in path:
        raise InvalidOperation(
            f"{path!r} is no field", hint="a field is a name, or names joined by dots for what is inside"
        )


def _parse_entry(name: Any, value: Any) -> Condition:
    check_path(name)
    if name in {"$and", "$or"}:
        if not isinstance(value, list | tuple) or not value:
            raise InvalidOperation(f"{name} takes a non-empty list of conditions, not {value!r}", field=name)
        parts = tuple(parse(part) for part in value)
        return And(parts) if name == "$and" else Or(parts)
    if name == "$not":
        return Not(parse(value))
    if name.startswith("$"):
        raise InvalidOperation(
            f"{name} is not a condition on its own",
            field=name,
            hint=did_you_mean(name, ["$and", "$or", "$not"]),
        )
    return _parse_field(name, value)


def _parse_field(path: str, value: Any) -> Condition:
    if not isinstance(value, Mapping):
        return Compare(path, "$eq", value)
    operators = [name for name in value if isinstance(name, str) and name.startswith("$")]
    if not operators or set(value) == {"$ref"}:
        return Compare(path, "$eq", value)
    if len(operators) < len(value):
        raise InvalidOperation(
            "operators and plain fields are mixed in one condition",
            field=path,
            hint="write a nested field as a dotted path, or a whole value as {'$literal': ...}",
        )
    return _all([_parse_operator(path, name, operand) for name, operand in value.items()])


def _parse_operator(path: str, name: str, operand: Any) -> Condition:
    if name == "$literal":
        return Compare(path, "$eq", {"$literal": operand})
    if name == "$not":
        return Not(_parse_field(path, operand))
    if name not in OPERATORS:
        raise InvalidOperation(f"{name} is no operator", field=path, hint=did_you_mean(name, OPERATORS))
    for part in operand if isinstance(operand, list | tuple) else [operand]:
        refuse_operators(path, name, part)
    check_operand(path, name, operand)
    return Compare(path, name, operand)


def refuse_company(path: str, value: Mapping[str, Any]) -> None:
    """Raise InvalidOperation where `$ref` or `$literal` has other keys beside it."""
    for alone in ("$ref", "$literal"):
        if alone in value and len(value) > 1:
            raise InvalidOperation(f"{alone} stands alone in its mapping", field=path)


def refuse_operators(path: str, name: str, operand: Any) -> None:
    """Raise InvalidOperation if the operand of `name` is itself an operator: it would be taken for a value."""
    if isinstance(operand, Mapping) and set(operand) not in ({"$ref"}, {"$literal"}):
        for inner in operand:
            if isinstance(inner, str) and inner.startswith("$"):
                raise InvalidOperation(
                    f"{name} takes a value, and {inner} is an operator",
                    field=path,
                    hint="write {'$literal': ...} if it is a value",
                )


def check_operand(path: str, name: str, operand: Any) -> None:
    """Raise InvalidOperation if `operand` does not fit operator `name` (a reference or literal fits all)."""
    if isinstance(operand, Mapping) and set(operand) in ({"$ref"}, {"$literal"}):
        return
    if name in _LIST_OPERATORS and not isinstance(operand, list | tuple | set | frozenset):
        raise InvalidOperation(f"{name} takes a list, not {operand!r}", field=path)
    if name in _TEXT_OPERATORS and not isinstance(operand, str):
        raise InvalidOperation(f"{name} takes text, not {operand!r}", field=path)
    if name in _FLAG_OPERATORS and not isinstance(operand, bool):
        raise InvalidOperation(f"{name} takes true or false, not {operand!r}", field=path)
    if name == "$regex":
        patterns.check_regex(path, operand)


# Walking


def comparisons(condition: Condition) -> Iterator[Compare]:
    """Every comparison in the tree, left to right."""
    match condition:
        case Compare():
            yield condition
        case And(parts) | Or(parts):
            for part in parts:
                yield from comparisons(part)
        case Not(part):
            yield from comparisons(part)


def paths(condition: Condition) -> frozenset[str]:
    """The fields that `condition` looks at."""
    return frozenset(item.path for item in comparisons(condition))


def bind(condition: Condition, resolve: Callable[[Any], Any]) -> Condition:
    """The same tree with every operand passed through `resolve`, and checked again."""
    if condition is EVERYTHING:
        return condition
    match condition:
        case Compare(path, operator, value):
            bound = resolve(value)
            check_operand(path, operator, bound)
            return Compare(path, operator, bound)
        case And(parts):
            return And(tuple(bind(part, resolve) for part in parts))
        case Or(parts):
            return Or(tuple(bind(part, resolve) for part in parts))
        case Not(part):
            return Not(bind(part, resolve))


# Evaluating


def evaluate(condition: Condition, record: Mapping[str, Any]) -> bool:
    """Whether `record` satisfies `condition`."""
    match condition:
        case Compare(path, operator, value):
            found = get(record, path)
            return _TESTS[operator](None if found is ABSENT else found, value)
        case And(parts):
            return all(evaluate(part, record) for part in parts)
        case Or(parts):
            return any(evaluate(part, record) for part in parts)
        case Not(part):
            return not evaluate(part, record)


def test(operator: str, found: Any, value: Any) -> bool:
    """Whether `found` (None where nothing is) satisfies one operator with the operand `value`."""
    return _TESTS[operator](found, value)


def equal(left: Any, right: Any) -> bool:
    """Equality of conditions: numbers by value across types, everything else within its kind."""
    if _kind(left) != _kind(right):
        return False
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(equal(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    if (
        isinstance(left, float | Decimal)
        and isinstance(right, float | Decimal)
        and (_nan(left) or _nan(right))
    ):
        return _nan(left) and _nan(right)
    return bool(left == right)


def bucket(value: Any) -> Hashable:
    """Something hashable that is the same for all values that are `equal`."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return "number", "NaN" if not isinstance(value, int) and _nan(value) else value
    if isinstance(value, list | tuple):
        return "list", tuple(bucket(item) for item in value)
    if isinstance(value, Mapping):
        return "mapping", frozenset((name, bucket(item)) for name, item in value.items())
    try:
        hash(value)
    except TypeError:
        return str(_kind(value))
    return str(_kind(value)), value


def _nan(value: float | Decimal) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else math.isnan(value)


def _kind(value: Any) -> Any:
    """The kind within which values compare: numbers are one, zoned and naive times are two."""
    if value is None or isinstance(value, bool):
        return type(value)
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, list | tuple):
        return "list"
    if isinstance(value, Mapping):
        return "mapping"
    if isinstance(value, datetime | time):
        return type(value), value.utcoffset() is None
    return str if isinstance(value, str) else type(value)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(found: Any, value: Any) -> bool:
        if found is None or value is None or _kind(found) != _kind(value):
            return False
        try:
            return bool(test(found, value))
        except (TypeError, ArithmeticError):  # what has no order, such as a Decimal that is no number
            return False

    return compare


def _text(test: Callable[[str, str], Any]) -> Callable[[Any, Any], bool]:
    return lambda found, value: isinstance(found, str) and bool(test(found, value))


def contains(found: Any, value: Any) -> bool:
    """A substring of text, or an element of a list."""
    if isinstance(found, str):
        return isinstance(value, str) and value in found
    return isinstance(found, list | tuple) and any(equal(item, value) for item in found)


_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$eq": equal,
    "$ne": lambda found, value: not equal(found, value),
    "$gt": _ordered(lambda found, value: found > value),
    "$gte": _ordered(lambda found, value: found >= value),
    "$lt": _ordered(lambda found, value: found < value),
    "$lte": _ordered(lambda found, value: found <= value),
    "$in": lambda found, value: any(equal(found, item) for item in value),
    "$nin": lambda found, value: not any(equal(found, item) for item in value),
    "$like": _text(patterns.like),
    "$ilike": _text(lambda found, value: patterns.like(patterns.fold(found), patterns.fold(value))),
    "$startsWith": _text(str.startswith),
    "$endsWith": _text(str.endswith),
    "$contains": contains,
    "$containsAll": lambda found, value: (
        isinstance(found, str | list | tuple) and all(contains(found, item) for item in value)
    ),
    "$containsAny": lambda found, value: any(contains(found, item) for item in value),
    "$exists": lambda found, value: (found is not None) is value,
    "$null": lambda found, value: (found is None) is value,
    "$regex": _text(lambda found, value: patterns.regex(value).search(found)),
}


def literal(value: Any) -> Any:
    """`value` without its `$literal` wrapping, at any depth."""
    if isinstance(value, Mapping):
        if set(value) == {"$literal"}:
            return value["$literal"]
        return {name: literal(item) for name, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value


def sort_records(records: list[dict[str, Any]], order_by: Sequence[str]) -> list[dict[str, Any]]:
    """`records` in the order of `order_by` (`"-name"` descends), nulls first, values of one kind together."""
    for name in reversed(order_by):
        path = name.removeprefix("-")
        nulls = [record for record in records if _is_null(get(record, path))]
        others = [record for record in records if not _is_null(get(record, path))]
        others.sort(key=lambda record: _rank(get(record, path)), reverse=name.startswith("-"))
        records = nulls + others
    return records


def _is_null(value: Any) -> bool:
    return value is ABSENT or value is None


def _rank(value: Any) -> tuple[int, str, Any]:
    if isinstance(value, bool | str | int | float | Decimal | bytes | date | time):
        return (1, str(_kind(value)), value)
    return (2, str(_kind(value)), str(value))
