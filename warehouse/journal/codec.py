"""Images as bytes, losslessly: CBOR with a tag of ours for every type that CBOR would change.

`decode(encode(value))` equals `value`, by type and value. Adapters register the types of their drivers.
Unknown types are errors; nothing is ever pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import cbor2

from warehouse.records import ABSENT, Absent

T = TypeVar("T")
# Where our tags begin: inside the range that IANA leaves to first-come use, above the registered ones.
_BASE: Final = 0x57_4800_00
_NAMED: Final = _BASE + 100
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
_NAMES: Final = frozenset({str, int})
_LIST: Final = 0x80  # how CBOR begins a list of up to 23 items
# What foreign bytes make the decoders of all these types raise.
_UNREADABLE: Final = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError),
    *(OSError, EOFError, cbor2.CBORDecodeError),
)

_encoders: dict[type, tuple[int, Callable[[Any], Any]]] = {}
_decoders: dict[int, Callable[[Any], Any]] = {}
_named: dict[str, tuple[type, Callable[[Any], Any]]] = {}
_names: dict[type, tuple[str, Callable[[Any], Any]]] = {}


def register(name: str, kind: type[T], encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Teach the codec a driver's type: `encode` gives values that the codec knows, `decode` takes them back.

    `name` identifies the type in the journal for ever, as `bson.ObjectId`. Exact types only, no subclasses.
    """
    _names[kind] = (name, encode)
    _named[name] = (kind, decode)


def encode(value: Any) -> bytes:
    """`value` as bytes; TypeError names a type that nobody registered."""
    return cbor2.dumps(_pack(value))


def encode_head(head: Sequence[str]) -> bytes:
    """What `encode([*head, pairs])` begins with, up to the pairs of `encode_pairs`."""
    return bytes([_LIST | (len(head) + 1)]) + b"".join(map(cbor2.dumps, head))


def encode_pairs(key: Mapping[str, Any]) -> bytes:
    """As `encode` of the pairs of `key` by name, but faster: there is one for each record."""
    if len(key) == 1:
        ((name, value),) = key.items()
        return cbor2.dumps([[name, value if type(value) in _PLAIN else _pack(value)]])
    pairs = [[name, value if type(value) in _PLAIN else _pack(value)] for name, value in sorted(key.items())]
    return cbor2.dumps(pairs)


def decode(data: bytes) -> Any:
    """The value of `encode`; ValueError where `data` is none."""
    try:
        return _unpack(cbor2.loads(data))
    except _UNREADABLE as error:
        raise ValueError(f"not an image of ours: {error}") from error


def _pack(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        if _PLAIN.issuperset(map(type, value.values())) and _NAMES.issuperset(map(type, value)):
            return value
        return {_pack_key(name): _pack(item) for name, item in value.items()}
    if kind is list:
        return value if _PLAIN.issuperset(map(type, value)) else [_pack(item) for item in value]
    if kind in _encoders:
        tag, convert = _encoders[kind]
        return cbor2.CBORTag(tag, convert(value))
    if kind in _names:
        name, convert = _names[kind]
        return cbor2.CBORTag(_NAMED, [name, _pack(convert(value))])
    if isinstance(value, Mapping):
        return _pack(dict(value))
    raise TypeError(f"a value of type {kind.__module__}.{kind.__qualname__} cannot be journaled")


def _pack_key(name: Any) -> Any:
    if not isinstance(name, str | int):
        raise TypeError(f"a mapping with the key {name!r} cannot be journaled")
    return name


def _unpack(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        if _PLAIN.issuperset(map(type, value.values())):
            return value
        return {name: _unpack(item) for name, item in value.items()}
    if kind is list:
        return value if _PLAIN.issuperset(map(type, value)) else [_unpack(item) for item in value]
    if isinstance(value, cbor2.CBORTag):
        if value.tag == _NAMED:
            name, content = value.value
            if name not in _named:
                raise ValueError(f"no adapter here knows the type {name!r}")
            return _named[name][1](_unpack(content))
        return _decoders[value.tag](value.value)
    if isinstance(value, Mapping):
        return {name: _unpack(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_unpack(item) for item in value]
    return value


def _native(number: int, kind: type[T], encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    _encoders[kind] = (_BASE + number, encode)
    _decoders[_BASE + number] = decode


def _zone(value: datetime | time) -> Any:
    """A zone by its name where it has one, else its offset in microseconds."""
    if value.tzinfo is None:
        return None
    if isinstance(value.tzinfo, ZoneInfo) and value.tzinfo.key:
        return value.tzinfo.key
    offset = value.utcoffset()
    if offset is None:
        raise TypeError(f"the zone of {value!r} has no offset and cannot be journaled")
    return offset // timedelta(microseconds=1)


def _unzone(zone: Any) -> Any:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    return UTC if zone == 0 else timezone(timedelta(microseconds=zone))


_native(1, Absent, lambda _: None, lambda _: ABSENT)
_native(2, Decimal, str, Decimal)
_native(3, UUID, lambda value: value.bytes, lambda data: UUID(bytes=data))
_native(4, date, date.isoformat, date.fromisoformat)
_native(
    5,
    datetime,
    lambda value: [value.replace(tzinfo=None).isoformat(), _zone(value), value.fold],
    lambda data: datetime.fromisoformat(data[0]).replace(tzinfo=_unzone(data[1]), fold=data[2]),
)
_native(
    6,
    time,
    lambda value: [value.replace(tzinfo=None).isoformat(), _zone(value), value.fold],
    lambda data: time.fromisoformat(data[0]).replace(tzinfo=_unzone(data[1]), fold=data[2]),
)
_native(
    7, timedelta, lambda value: value // timedelta(microseconds=1), lambda data: timedelta(microseconds=data)
)
_native(
    8,
    tuple,
    lambda value: [_pack(item) for item in value],
    lambda data: tuple(_unpack(item) for item in data),
)
_native(9, bytearray, bytes, bytearray)
_native(10, memoryview, bytes, memoryview)
_native(11, complex, lambda value: [value.real, value.imag], lambda data: complex(*data))
