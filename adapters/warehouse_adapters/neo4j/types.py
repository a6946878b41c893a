"""Values into and out of Neo4j, and its temporal and spatial types in the journal.

What goes in: null, bool, int (64 bits), float, str, bytes, date, time, datetime, timedelta, the driver's own
temporal and spatial types, and lists of one kind of these. What comes out: Python's types wherever they hold
the value exactly; a time with nanoseconds, a duration and a point stay what the driver made of them.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytz  # type: ignore[import-untyped]
from neo4j.spatial import CartesianPoint, Point, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time

from warehouse.errors import InvalidOperation
from warehouse.journal import codec

_INT: Final = range(-(2**63), 2**63)
_MINUTE: Final = timedelta(minutes=1)
_SAME: Final = frozenset({str, int, float, bool, type(None)})  # in Python, on the wire, and in the store
_PLAIN: Final = (str, float, date, Date, Duration, Point, timedelta)


# In


def to_store(value: Any, field: str, *, offsets: bool = True) -> Any:
    """`value` as the driver can send it and the store can keep it; InvalidOperation names `field` if none can.

    A datetime in a `ZoneInfo` keeps its zone: it goes as a pytz zone, since the driver mistakes ZoneInfo.
    Where the store does not keep `offsets`, a datetime with a fixed one becomes the same moment in UTC.
    """
    if type(value) in _SAME and (type(value) is not int or value in _INT):
        return value
    if isinstance(value, list | tuple) and not isinstance(value, Duration | Point):
        return _list(value, field, offsets=offsets)
    return None if value is None else _scalar(value, field, offsets=offsets)


def _scalar(value: Any, field: str, *, offsets: bool) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in _INT:
            raise _refused(field, f"{value} is beyond 64 bits")
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, datetime | DateTime):
        return _datetime(value, field, offsets=offsets)
    if isinstance(value, time | Time):
        return _time(value, field)
    if isinstance(value, _PLAIN):
        return value
    raise _refused(field, f"a value of type {type(value).__name__} cannot be a property")


def _list(values: list[Any] | tuple[Any, ...], field: str, *, offsets: bool) -> list[Any]:
    for value in values:
        if value is None:
            raise _refused(field, "a list in a property cannot contain null")
        if isinstance(value, list | tuple | bytes) and not isinstance(value, Duration | Point):
            raise _refused(field, "a list in a property cannot contain lists or bytes")
        if type(value) is not type(values[0]):
            raise _refused(field, "a list in a property has elements of one type")
    return [_scalar(value, field, offsets=offsets) for value in values]


def _datetime(value: datetime | DateTime, field: str, *, offsets: bool) -> Any:
    zone = value.tzinfo
    if zone is None:
        return value
    if isinstance(zone, ZoneInfo):
        return _in_pytz(value, zone, field)
    if getattr(zone, "zone", None):  # a pytz zone that has a name
        return value
    offset = value.utcoffset() if isinstance(value, datetime) else value.utc_offset()
    if offset is None or offset % _MINUTE:
        raise _refused(field, "a zone's offset is a whole number of minutes")
    if not offset or not offsets:
        return value.astimezone(pytz.UTC)
    return value.replace(tzinfo=timezone(offset)) if isinstance(value, datetime) else value


def _in_pytz(value: datetime | DateTime, zone: ZoneInfo, field: str) -> datetime:
    if isinstance(value, DateTime):
        raise _refused(field, "a neo4j.time.DateTime takes a pytz zone, not a ZoneInfo")
    try:
        named = pytz.timezone(zone.key or "")
    except pytz.UnknownTimeZoneError:
        raise _refused(field, f"the zone {zone} has no name that Neo4j knows") from None
    zoned: datetime = named.localize(value.replace(tzinfo=None), is_dst=not value.fold)
    return zoned


def _time(value: time | Time, field: str) -> time | Time:
    if value.tzinfo is None or isinstance(value, Time):
        return value
    offset = value.utcoffset()
    if offset is None or offset % _MINUTE:
        raise _refused(field, "a time's zone is a fixed offset of whole minutes")
    zone = pytz.FixedOffset(offset // _MINUTE)
    return Time(value.hour, value.minute, value.second, value.microsecond * 1000, tzinfo=zone)


def _refused(field: str, why: str) -> InvalidOperation:
    return InvalidOperation(why, field=field)


def to_operand(value: Any) -> Any:
    """An operand of a condition, of the type that images have: a timedelta as the Duration it is stored as."""
    if type(value) in {list, tuple, set, frozenset}:
        return [to_operand(item) for item in value]
    if isinstance(value, timedelta):
        return Duration(days=value.days, seconds=value.seconds, microseconds=value.microseconds)
    return value


# Out


def from_store(value: Any) -> Any:
    """What the driver read, as a Python value where that holds it exactly."""
    if isinstance(value, list):
        return [from_store(item) for item in value]
    if isinstance(value, Date):
        return value.to_native()
    if isinstance(value, DateTime):
        return _native_datetime(value)
    if isinstance(value, Time):
        return _native_time(value)
    return value


def record(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties of a node or relationship as an image keeps them."""
    return {name: value if type(value) in _SAME else from_store(value) for name, value in properties.items()}


def _native_datetime(value: DateTime) -> datetime | DateTime:
    if value.nanosecond % 1000:
        return value
    naive = value.replace(tzinfo=None).to_native()
    offset = value.utc_offset()
    if offset is None:
        return naive
    name = getattr(value.tzinfo, "zone", None)
    if name is None or value.tzinfo is pytz.UTC:
        return naive.replace(tzinfo=_fixed(offset))
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return value
    for fold in (0, 1):
        found = naive.replace(tzinfo=zone, fold=fold)
        if found.utcoffset() == offset:
            return found
    return value


def _native_time(value: Time) -> time | Time:
    if value.nanosecond % 1000:
        return value
    offset = value.utc_offset()
    zone = None if offset is None else _fixed(offset)
    return time(value.hour, value.minute, value.second, value.nanosecond // 1000, zone)


def _fixed(offset: timedelta) -> timezone:
    return timezone(offset) if offset else UTC


# In the journal


def _zone(value: DateTime | Time) -> list[Any] | None:
    """A zone as its name (or null) and its offset in seconds."""
    offset = value.utc_offset()
    return None if offset is None else [getattr(value.tzinfo, "zone", None), int(offset.total_seconds())]


def _encode_datetime(value: DateTime) -> list[Any]:
    return [value.date().iso_format(), value.time().ticks, _zone(value)]


def _decode_datetime(data: list[Any]) -> DateTime:
    naive = DateTime.combine(Date.from_iso_format(data[0]), Time.from_ticks(data[1]))
    if data[2] is None:
        return naive
    name, offset = data[2]
    if name is None:
        return naive.replace(tzinfo=pytz.FixedOffset(offset // 60))
    moment = naive.replace(tzinfo=pytz.FixedOffset(offset // 60))
    return moment.astimezone(pytz.timezone(name))


def _encode_time(value: Time) -> list[Any]:
    return [value.ticks, _zone(value)]


def _decode_time(data: list[Any]) -> Time:
    naive = Time.from_ticks(data[0])
    return naive if data[1] is None else naive.replace(tzinfo=pytz.FixedOffset(data[1][1] // 60))


def _decode_duration(data: list[int]) -> Duration:
    months, days, seconds, nanoseconds = data
    return Duration(months=months, days=days, seconds=seconds, nanoseconds=nanoseconds)


def _decode_point(data: list[Any]) -> Point:
    point = Point(data[1])
    point.srid = data[0]
    return point


codec.register("neo4j.time.Date", Date, Date.iso_format, Date.from_iso_format)
codec.register("neo4j.time.DateTime", DateTime, _encode_datetime, _decode_datetime)
codec.register("neo4j.time.Time", Time, _encode_time, _decode_time)
codec.register("neo4j.time.Duration", Duration, list, _decode_duration)
codec.register("neo4j.spatial.CartesianPoint", CartesianPoint, list, CartesianPoint)
codec.register("neo4j.spatial.WGS84Point", WGS84Point, list, WGS84Point)
codec.register(
    "neo4j.spatial.Point", Point, lambda point: [getattr(point, "srid", None), list(point)], _decode_point
)
