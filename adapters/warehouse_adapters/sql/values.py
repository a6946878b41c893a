"""Which Python values a column takes: decided by its kind, before a driver sees them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import DOMAIN

from warehouse.errors import InvalidOperation
from warehouse_adapters.sql.tables import NUMBERS, Column, Kind

# Subclasses before their bases.
_KINDS: Final[tuple[tuple[type, Kind], ...]] = (
    (types.ARRAY, "array"),
    (types.JSON, "json"),
    (types.Boolean, "boolean"),
    (types.Enum, "text"),
    (types.Uuid, "uuid"),
    (types.Integer, "integer"),
    (types.Float, "float"),
    (types.Numeric, "decimal"),
    (types.LargeBinary, "bytes"),
    (types.BINARY, "bytes"),
    (types.VARBINARY, "bytes"),
    (types.DateTime, "datetime"),
    (types.Date, "date"),
    (types.Time, "time"),
    (types.Interval, "interval"),
    (types.String, "text"),
)

_TAKES: Final[dict[Kind, tuple[type, ...]]] = {
    "integer": (int, float, Decimal),
    "decimal": (int, float, Decimal),
    "float": (int, float, Decimal),
    "text": (str,),
    "boolean": (bool,),
    "bytes": (bytes, bytearray, memoryview),
    "datetime": (datetime, str),
    "date": (date, str),
    "time": (time, timedelta, str),
    "interval": (timedelta, str),
    "uuid": (UUID, str),
    "json": (dict, list, str, int, float, bool),
    "array": (list, tuple),
    "other": (object,),
}
# Beyond this, and for fractions, an integer column can be compared with a double without loss.
_WIDE: Final = 2.0**64
_BOOLEANS: Final = frozenset({"boolean", "json", "other"})


def kind_of(kind: Any) -> Kind:
    """The kind of a reflected column type; `other` takes what its driver takes."""
    if isinstance(kind, DOMAIN):
        kind = kind.data_type
    return next((name for base, name in _KINDS if isinstance(kind, base)), "other")


def element_of(kind: Any) -> Kind | None:
    """The kind of the elements of a reflected array type; None of any other."""
    if isinstance(kind, DOMAIN):
        kind = kind.data_type
    return kind_of(kind.item_type) if isinstance(kind, types.ARRAY) else None


def fits(column: Column, value: Any) -> bool:
    """Whether the column's type can be compared with `value`."""
    if isinstance(value, bool):
        return column.kind in _BOOLEANS
    if column.kind == "date" and isinstance(value, datetime):
        return False
    return isinstance(value, _TAKES[column.kind])


def misfit(column: Column, value: Any) -> InvalidOperation:
    """The error for a value that is not of the column's kind."""
    return InvalidOperation(
        f"{value!r} does not fit a column of kind {column.kind}",
        field=column.name,
    )


def decimal(column: Column, text: str) -> Decimal:
    """The number that `text` writes: how JSON carries money without loss."""
    try:
        return Decimal(text)
    except ArithmeticError:
        raise misfit(column, text) from None


def number(column: Column, value: Any, *, stored: bool) -> Any:
    """`value` as a number of the column's own kind, so that the store need not convert it with loss."""
    if column.kind == "decimal" and isinstance(value, float):
        return Decimal(repr(value))
    if column.kind == "float" and isinstance(value, Decimal):
        return float(value)
    if column.kind == "integer" and not stored and isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _WIDE else value
    if column.kind == "integer" and stored and not isinstance(value, int):
        if not math.isfinite(value) or value != int(value):
            raise misfit(column, value)
        return int(value)
    return value


def finite(column: Column, value: Any) -> Any:
    """`value`, unless it is an infinity or no number at all."""
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise misfit(column, value)
    return value


def is_numeric(column: Column) -> bool:
    return column.kind in NUMBERS


def json_text(column: Column, value: Any, path: str | None = None) -> str:
    """`value` as JSON; InvalidOperation where JSON has no such thing."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidOperation(
            f"the value cannot be written as JSON: {error}", field=path or column.name
        ) from None


def uniform(array: Any) -> list[Any]:
    """`array` with elements of one type, as psycopg wants them: numbers as Decimal, any others as text."""
    kinds = {type(leaf) for leaf in _leaves(array)} - {type(None)}
    if len(kinds) <= 1:
        return list(array)
    if kinds <= {int, float, Decimal}:
        return _mapped(array, lambda leaf: Decimal(repr(leaf)) if isinstance(leaf, float) else Decimal(leaf))
    return _mapped(array, _text)


def _leaves(array: Any) -> Iterator[Any]:
    for item in array:
        if isinstance(item, list | tuple):
            yield from _leaves(item)
        else:
            yield item


def _mapped(array: Any, convert: Callable[[Any], Any]) -> list[Any]:
    return [
        _mapped(item, convert) if isinstance(item, list | tuple) else None if item is None else convert(item)
        for item in array
    ]


def _text(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
    return value.isoformat() if isinstance(value, date | time) else str(value)
