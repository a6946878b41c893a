"""BSON values: what a record may hold, what MongoDB makes of it, and how images of it are journaled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion, TypeDecoder, TypeEncoder, TypeRegistry
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError

from warehouse.errors import InvalidOperation
from warehouse.journal import codec
from warehouse.records import ABSENT, Record

_MAX_DOCUMENT: Final = 16 * 1024 * 1024
_UNFIT: Final = (BSONError, ArithmeticError, ValueError, TypeError, RecursionError)


class Long(Int64):
    """A 64-bit integer that stays one in arithmetic, as it does in MongoDB."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return _as_long(int(self) + other)

    def __sub__(self, other: Any) -> Any:
        return _as_long(int(self) - other)

    def __mul__(self, other: Any) -> Any:
        return _as_long(int(self) * other)

    def __neg__(self) -> Long:
        return Long(-int(self))

    __radd__ = __add__
    __rmul__ = __mul__


def _as_long(value: Any) -> Any:
    return Long(value) if type(value) is int else value


class _DecodeLong(TypeDecoder):
    bson_type = Int64

    def transform_bson(self, value: Any) -> Long:
        return Long(value)


class _DecodeDecimal(TypeDecoder):
    bson_type = Decimal128

    def transform_bson(self, value: Any) -> Decimal:
        decimal: Decimal = value.to_decimal()
        return decimal


class _EncodeDecimal(TypeEncoder):
    python_type = Decimal

    def transform_python(self, value: Any) -> Decimal128:
        return Decimal128(value)


OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    type_registry=TypeRegistry([_DecodeLong(), _DecodeDecimal(), _EncodeDecimal()]),
)

codec.register("bson.objectid", ObjectId, lambda value: value.binary, ObjectId)
codec.register("bson.int64", Long, int, Long)
codec.register(
    "bson.binary",
    Binary,
    lambda value: [bytes(value), value.subtype],
    lambda parts: Binary(parts[0], parts[1]),
)
codec.register(
    "bson.regex",
    Regex,
    lambda value: [value.pattern, value.flags],
    lambda parts: Regex(parts[0], parts[1]),
)
codec.register(
    "bson.timestamp",
    Timestamp,
    lambda value: [value.time, value.inc],
    lambda parts: Timestamp(parts[0], parts[1]),
)
codec.register(
    "bson.code",
    Code,
    lambda value: [str.__str__(value), value.scope],
    lambda parts: Code(parts[0], parts[1]),
)
codec.register(
    "bson.dbref",
    DBRef,
    lambda value: dict(value.as_doc()),
    lambda parts: DBRef(parts.pop("$ref"), parts.pop("$id"), parts.pop("$db", None), parts),
)
codec.register("bson.minkey", MinKey, lambda _: None, lambda _: MinKey())
codec.register("bson.maxkey", MaxKey, lambda _: None, lambda _: MaxKey())
codec.register("bson.datetime_ms", DatetimeMS, int, DatetimeMS)


def check_record(record: Record) -> None:
    """Raise InvalidOperation, naming the field, where a record cannot be stored as it is given."""
    for name, value in record.items():
        check_name(name, name)
        check_value(name, value)
    if isinstance(record.get("_id", ""), list | tuple | Regex | None):
        raise InvalidOperation("an _id cannot be null, a list or a regular expression", field="_id")
    keep(record)


def keep(record: Record) -> Record:
    """The record as MongoDB will return it: dates in milliseconds, tuples as lists, long integers as `Long`.

    Raises InvalidOperation naming the field that BSON cannot express.
    """
    try:
        data = bson.encode(record, codec_options=OPTIONS)
    except _UNFIT as error:
        raise _refusal(record, error) from error
    if len(data) > _MAX_DOCUMENT:
        raise InvalidOperation(f"the record is too large for MongoDB: {len(data)} bytes, 16 MiB are allowed")
    return bson.decode(data, codec_options=OPTIONS)


def type_code(value: Any) -> int:
    """The number of the BSON type that `value` is stored as."""
    code = bson.encode({"": value}, codec_options=OPTIONS)[4]
    return -1 if code == 0xFF else code  # noqa: PLR2004 - MinKey's byte is signed


def storable(value: Any) -> bool:
    """Whether BSON can express `value`."""
    try:
        bson.encode({"": value}, codec_options=OPTIONS)
    except _UNFIT:
        return False
    return True


def check_path(path: str) -> None:
    """Raise InvalidOperation where a dotted path has a part that MongoDB takes for something else."""
    for part in path.split("."):
        check_name(part, path)


def check_name(name: Any, field: str) -> None:
    """Raise InvalidOperation for a name that is no plain field name; `field` is where it stands."""
    if not isinstance(name, str) or not name or name[0] == "$" or "." in name or "\0" in name:
        raise InvalidOperation(
            f"{name!r} cannot be a field name",
            field=field,
            hint="MongoDB reserves names that are empty, begin with $, or contain a dot or NUL",
        )


def check_value(field: str, value: Any) -> None:
    """Raise InvalidOperation where the value of `field` would not be stored as it is given."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_name(name, field)
            check_value(field, item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_value(field, item)
    elif isinstance(value, datetime) and value.tzinfo is None:
        raise InvalidOperation(
            "MongoDB keeps points in time, and a datetime without a zone is none",
            field=field,
            hint="give an aware datetime, as datetime.now(UTC)",
        )
    elif isinstance(value, Decimal128):
        raise InvalidOperation("Decimal128 is not taken", field=field, hint="give a decimal.Decimal")
    elif isinstance(value, Timestamp) and not (value.time or value.inc):
        raise InvalidOperation("MongoDB replaces an empty Timestamp by its clock", field=field)


def identity(values: Iterable[Any]) -> tuple[Any, ...] | None:
    """A hashable stand-in for the values of a key, equal where MongoDB holds them equal; None for nulls."""
    found = tuple(values)
    if any(value is None or value is ABSENT for value in found):
        return None
    return tuple(_canonical(value) for value in found)


def _canonical(value: Any) -> Any:
    match value:
        case bool() | str() | ObjectId() | UUID():
            return type(value).__name__, value
        case int() | float() | Decimal():
            return "number", value
        case Mapping():
            return "document", tuple((name, _canonical(item)) for name, item in value.items())
        case list() | tuple():
            return "list", tuple(_canonical(item) for item in value)
    return type(value).__name__, bson.encode({"": value}, codec_options=OPTIONS)


def check_storable(field: str, value: Any) -> None:
    """Raise InvalidOperation where BSON cannot express the value of `field`."""
    if not storable(value):
        raise InvalidOperation(
            f"MongoDB cannot hold this value of type {type(value).__name__}",
            field=field,
            hint="BSON has 64-bit integers, decimals of 34 digits, and no dates without a time",
        )


def _refusal(record: Record, error: Exception) -> InvalidOperation:
    """Why `record` cannot be stored, naming the first field that is to blame."""
    try:
        for name, value in record.items():
            check_storable(name, value)
    except InvalidOperation as refusal:
        return refusal
    return InvalidOperation(f"MongoDB cannot hold this record: {type(error).__name__}")
