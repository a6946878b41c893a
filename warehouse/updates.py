"""Update operators: parsed into assignments, applied by pure functions (the reference for every store)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import NoneType
from typing import Any, Final

from warehouse.conditions import check_path, equal, refuse_company, refuse_operators
from warehouse.errors import InvalidOperation, did_you_mean
from warehouse.records import ABSENT, Effect, Record, get, overlaps, put


@dataclass(frozen=True, slots=True)
class Assignment:
    """One operator on one field: `Assignment("stock", "$increment", -1)`."""

    path: str
    operator: str
    value: Any


OPERATORS: Final = frozenset(
    "$set $unset $increment $decrement $multiply $min $max $push $pull $addToSet $currentDate".split()
)
ALIASES: Final = {"$inc": "$increment", "$dec": "$decrement", "$mul": "$multiply"}
_NUMERIC: Final = frozenset({"$increment", "$decrement", "$multiply"})


def parse(data: Mapping[str, Any]) -> tuple[Assignment, ...]:
    """The assignments of an update's `data`; raises InvalidOperation naming the field.

    Operators stand under the field, or at top level over a mapping of fields; a bare value is `$set`.
    """
    if not isinstance(data, Mapping) or not data:
        raise InvalidOperation("`data` of an update is a non-empty mapping of fields to values")
    out: list[Assignment] = []
    for name, value in data.items():
        check_path(name)
        if name.startswith("$"):
            out += _parse_top(name, value)
        else:
            out.append(_parse_field(name, value))
    _check_clashes(out)
    return tuple(out)


def _parse_top(name: str, fields: Any) -> list[Assignment]:
    operator = _operator(name, name)
    if not isinstance(fields, Mapping) or not fields:
        raise InvalidOperation(f"{name} takes a mapping of fields to values, not {fields!r}", field=name)
    for path in fields:
        check_path(path)
        if path.startswith("$"):
            raise InvalidOperation(
                f"{name} takes a mapping of fields to values, and {path} is an operator", field=name
            )
    return [_parsed(path, operator, value) for path, value in fields.items()]


def _parse_field(path: str, value: Any) -> Assignment:
    if isinstance(value, Mapping) and set(value) not in ({"$ref"}, {"$literal"}):
        operators = [name for name in value if isinstance(name, str) and name.startswith("$")]
        if operators:
            refuse_company(path, value)
            if len(value) > 1:
                raise InvalidOperation("one field takes one update operator", field=path)
            return _parsed(path, _operator(operators[0], path), value[operators[0]])
    return Assignment(path, "$set", value)


def _operator(name: str, path: str) -> str:
    name = ALIASES.get(name, name)
    if name not in OPERATORS:
        raise InvalidOperation(
            f"{name} is no update operator", field=path, hint=did_you_mean(name, OPERATORS | ALIASES.keys())
        )
    return name


def _parsed(path: str, operator: str, value: Any) -> Assignment:
    """An assignment as written: what a reference or a literal stands for is checked when it is bound."""
    item = Assignment(path, operator, value)
    if isinstance(value, Mapping) and set(value) in ({"$ref"}, {"$literal"}):
        return item
    refuse_operators(path, operator, value)
    return _checked(item)


def _checked(item: Assignment) -> Assignment:
    if item.operator in _NUMERIC and not is_number(item.value):
        raise InvalidOperation(f"{item.operator} takes a number, not {item.value!r}", field=item.path)
    if item.operator in _NUMERIC and not math.isfinite(item.value):
        raise InvalidOperation(f"{item.operator} takes a finite number, not {item.value!r}", field=item.path)
    if item.operator in {"$min", "$max"} and isinstance(item.value, NoneType | list | tuple | Mapping):
        raise InvalidOperation(
            f"{item.operator} takes what has an order, as numbers, text and dates, not {item.value!r}",
            field=item.path,
        )
    if item.operator in {"$unset", "$currentDate"} and item.value is not True and item.value != "":
        raise InvalidOperation(f"{item.operator} takes true, not {item.value!r}", field=item.path)
    return item


def _check_clashes(items: Sequence[Assignment]) -> None:
    for index, item in enumerate(items):
        for other in items[:index]:
            if overlaps(item.path, other.path):
                raise InvalidOperation(
                    f"{item.operator} writes what {other.operator} of {other.path!r} writes too",
                    field=item.path,
                )


def bind(items: Sequence[Assignment], resolve: Callable[[Any], Any]) -> tuple[Assignment, ...]:
    """Every value passed through `resolve`; `$decrement` becomes `$increment` of the opposite."""
    out = []
    for item in items:
        bound = _checked(Assignment(item.path, item.operator, resolve(item.value)))
        if bound.operator == "$decrement":
            bound = Assignment(bound.path, "$increment", -bound.value)
        out.append(bound)
    return tuple(out)


def is_number(value: Any) -> bool:
    """True for int, float and Decimal, not for bool."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


# Applying


def apply(items: Sequence[Assignment], record: Mapping[str, Any], *, now: datetime | None = None) -> Record:
    """`record` after the (bound) assignments. Raises TypeError naming the field whose value does not fit."""
    out = dict(record)
    moment = now or datetime.now(UTC)
    for item in items:
        found = get(out, item.path)
        if item.operator == "$pull" and (found is None or found is ABSENT):
            continue
        value = _apply_one(item, None if found is ABSENT else found, moment)
        try:
            out = put(out, item.path, value)
        except TypeError as error:
            raise TypeError(f"field {item.path!r}: {error}") from None
    return out


def _apply_one(item: Assignment, found: Any, now: datetime) -> Any:
    match item.operator:
        case "$set":
            return item.value
        case "$unset":
            return ABSENT
        case "$currentDate":
            return now
        case "$increment":
            return _number(item, found, 0) + _operand(item, found)
        case "$multiply":
            return _number(item, found, 0) * _operand(item, found)
        case "$min" | "$max":
            return _bounded(item, found)
        case _:
            return _in_list(item, found)


def _number(item: Assignment, found: Any, default: int) -> Any:
    if found is None:
        return default
    if not is_number(found):
        raise TypeError(f"field {item.path!r}: {item.operator} needs a number, and {found!r} is none")
    return found


def _operand(item: Assignment, found: Any) -> Any:
    """The operand in the kind of the stored number, so that a Decimal stays one."""
    if isinstance(found, Decimal) and isinstance(item.value, float):
        return Decimal(str(item.value))
    if isinstance(found, float) and isinstance(item.value, Decimal):
        return float(item.value)
    return item.value


def _bounded(item: Assignment, found: Any) -> Any:
    if found is None:
        return item.value
    try:
        keep = found <= item.value if item.operator == "$min" else found >= item.value
    except TypeError:
        raise TypeError(f"field {item.path!r}: {found!r} and {item.value!r} cannot be compared") from None
    return found if keep else item.value


def _in_list(item: Assignment, found: Any) -> Any:
    if found is None:
        return [item.value]
    if not isinstance(found, list):
        raise TypeError(f"field {item.path!r}: {item.operator} needs a list, and {found!r} is none")
    if item.operator == "$pull":
        return [element for element in found if not equal(element, item.value)]
    if item.operator == "$addToSet" and any(equal(element, item.value) for element in found):
        return found
    return [*found, item.value]


def effects(items: Sequence[Assignment]) -> dict[str, Effect]:
    """By path, the increments and pushes: what undo can take back without the images."""
    return {
        item.path: Effect(item.operator, item.value)  # type: ignore[arg-type]
        for item in items
        if item.operator in {"$increment", "$push"}
    }
