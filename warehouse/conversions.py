"""Conversions that an entity's configuration names, and how a store refuses a value that it cannot hold.

`convert = {price = "text"}`: whatever is written to `price`, or compared with it, is converted first. A path
inside a list of mappings (`items.price`) means that field of each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from warehouse.conditions import And, Compare, Condition, Not, Or
from warehouse.config import Conversion
from warehouse.errors import InvalidOperation
from warehouse.records import Record
from warehouse.updates import Assignment, is_number

_LONGEST: Final = 60
_ORDERING: Final = frozenset({"$gt", "$gte", "$lt", "$lte", "$min", "$max"})
_NUMERIC: Final = frozenset({"$increment", "$multiply"})
_UNCONVERTED: Final = frozenset(
    {"$like", "$ilike", "$startsWith", "$endsWith", "$regex", "$exists", "$null", "$unset"}
)


def refusal(store: str, path: str, value: object, reason: str, *conversions: Conversion) -> InvalidOperation:
    """The error of a value that `store` cannot hold exactly; `conversions` are those that would make it fit."""
    hint = None
    if conversions:
        name = path if path.isidentifier() else f'"{path}"'
        kinds = " or ".join(f'"{kind}"' for kind in conversions)
        hint = f"set convert = {{{name} = {kinds}}} in the configuration of the entity"
    return InvalidOperation(f"{store} cannot hold {short(value)}: {reason}", field=path, hint=hint)


def short(value: object) -> str:
    """The repr of `value`, shortened to what fits into a message."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}... ({len(text)} characters)"


# Where conversions apply


def convert_record(record: Record, configured: Mapping[str, Conversion]) -> Record:
    """`record` with every configured field converted. Raises InvalidOperation naming the field."""
    return {name: _at(name, value, configured) for name, value in record.items()}


def convert_assignment(item: Assignment, configured: Mapping[str, Conversion]) -> Assignment:
    """`item` with its operand converted. Raises InvalidOperation where the field then cannot take the operator."""
    if item.operator in _UNCONVERTED:
        return item
    kind = _kind_of(item.path, configured)
    if kind == "text" and item.operator in _NUMERIC:
        raise InvalidOperation(
            f"{item.operator} cannot be used on a field that is kept as text", field=item.path
        )
    if kind is not None and item.operator == "$currentDate":
        raise InvalidOperation(f"$currentDate cannot be kept as {kind}", field=item.path)
    _check_order(kind, item.path, item.operator, item.value)
    return Assignment(item.path, item.operator, _at(item.path, item.value, configured))


def convert_condition(condition: Condition, configured: Mapping[str, Conversion]) -> Condition:
    """`condition` with the operands of configured fields converted. Raises InvalidOperation naming the field."""
    match condition:
        case Compare(path, operator, value):
            return Compare(path, operator, _operand(path, operator, value, configured))
        case And(parts):
            return And(tuple(convert_condition(part, configured) for part in parts))
        case Or(parts):
            return Or(tuple(convert_condition(part, configured) for part in parts))
        case Not(part):
            return Not(convert_condition(part, configured))


def _operand(path: str, operator: str, value: Any, configured: Mapping[str, Conversion]) -> Any:
    if operator in _UNCONVERTED:
        return value
    kind = _kind_of(path, configured)
    _check_order(kind, path, operator, value)
    if isinstance(value, set | frozenset):
        value = list(value)
    return _whole(path, value) if kind == "int" else _at(path, value, configured)


def _whole(path: str, value: Any) -> Any:
    """An operand as int; a number with a fraction stays: nothing stored equals it, but it may bound something."""
    if isinstance(value, list | tuple):
        return [_whole(path, item) for item in value]
    return value if is_number(value) and _int(value) is None else convert(path, value, "int")


def _kind_of(path: str, configured: Mapping[str, Conversion]) -> Conversion | None:
    """What the field `path`, or what it lies in, is converted to."""
    while path not in configured and "." in path:
        path = path.rpartition(".")[0]
    return configured.get(path)


def _check_order(kind: Conversion | None, path: str, operator: str, value: Any) -> None:
    if kind == "text" and operator in _ORDERING and not isinstance(value, str | None):
        raise InvalidOperation(
            f"{operator} of {short(value)} cannot be used on a field that is kept as text, which orders otherwise",
            field=path,
            hint="give text, if its order by code point is what you want",
        )


def _at(path: str, value: Any, configured: Mapping[str, Conversion]) -> Any:
    """The value of the field `path`, with whatever is configured of it or inside it converted."""
    kind = _kind_of(path, configured)
    if kind is not None:
        return convert(path, value, kind)
    for inner, kind in configured.items():
        if inner.startswith(path + "."):
            value = _inside(inner, value, inner[len(path) + 1 :].split("."), kind)
    return value


def _inside(path: str, value: Any, parts: Sequence[str], kind: Conversion) -> Any:
    if not parts:
        return convert(path, value, kind)
    head, *rest = parts
    if isinstance(value, Mapping) and head in value:
        return {
            name: _inside(path, item, rest, kind) if name == head else item for name, item in value.items()
        }
    if isinstance(value, list) and head.isdigit():
        return [_inside(path, item, rest, kind) if i == int(head) else item for i, item in enumerate(value)]
    if isinstance(value, list):
        return [_inside(path, item, parts, kind) for item in value]
    return value


# What they make of a value


def convert(path: str, value: Any, kind: Conversion) -> Any:
    """`value` as `kind`; null stays, and of a list each element is converted.

    Text is the ISO form of dates and times, and what `str` gives of numbers and UUIDs. A float is the nearest
    one. An int takes only numbers without a fraction. Raises InvalidOperation for anything else.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [convert(path, item, kind) for item in value]
    made = _MADE[kind](value)
    if made is None:
        raise InvalidOperation(f"{short(value)} cannot be converted to {kind}", field=path)
    return made


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, int | float | Decimal | UUID) else None


def _float(value: Any) -> float | None:
    if isinstance(value, float):
        return value
    if not isinstance(value, int | Decimal) or (isinstance(value, Decimal) and value.is_snan()):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    overflown = math.isinf(made) and not (isinstance(value, Decimal) and value.is_infinite())
    return None if overflown else made


def _int(value: Any) -> int | None:
    if not isinstance(value, int | float | Decimal):
        return None
    try:
        made = int(value)
    except (OverflowError, ValueError):  # an infinity, or no number
        return None
    return made if made == value else None


_MADE: Final[dict[Conversion, Callable[[Any], Any]]] = {"text": _text, "float": _float, "int": _int}
