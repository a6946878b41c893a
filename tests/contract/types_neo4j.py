"""The property types of Neo4j, as the type contract tries them."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from neo4j.spatial import CartesianPoint, WGS84Point
from neo4j.time import DateTime, Duration, Time

from contract.types_sql import INFINITE, TEXT, integers, utc
from warehouse.testing.harness import StoredType

OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
NAMED = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata"]).map(ZoneInfo)
NANOSECONDS = st.integers(1, 999).map(lambda number: 123_456_000 + number)
LOCAL = st.datetimes()
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=OFFSETS)
# As nothing is twice or never there: not the hours in which clocks are put back or forward.
ZONED = st.datetimes(datetime(1980, 1, 1, 12), datetime(2030, 1, 1, 12), timezones=NAMED).map(
    lambda moment: moment.replace(hour=12)
)
PRECISE_TIMES = st.builds(Time, st.integers(0, 23), st.just(5), st.just(7), NANOSECONDS)
PRECISE = st.tuples(st.dates(), NANOSECONDS).map(
    lambda parts: DateTime(parts[0].year, parts[0].month, parts[0].day, 4, 5, 6, parts[1])
)
NUMBERS = st.floats(-1e6, 1e6)
PAIRS, TRIPLES = st.tuples(NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS, NUMBERS)
DURATIONS = st.builds(
    Duration,
    months=st.integers(-1000, 1000),
    days=st.integers(-1000, 1000),
    seconds=st.integers(-(10**9), 10**9),
    nanoseconds=st.integers(0, 999_999_999),
)
SPANS = st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000))


def kind(stored, values, *, takes, gives=None, **more):
    field = "f_" + "".join(c if c.isalnum() else "_" for c in stored)
    return StoredType(field=field, stored=stored, takes=takes, gives=gives or takes, values=values, **more)


def listed(of, values, *, takes, gives=None, **more):
    return kind(
        f"LIST OF {of}",
        st.lists(values, max_size=4),
        takes=f"list of {takes}",
        gives=f"list of {gives or takes}",
        **more,
    )


def as_duration(value):
    return Duration(days=value.days, seconds=value.seconds, microseconds=value.microseconds)


BASIC = (
    kind("BOOLEAN", st.booleans(), takes="bool"),
    kind("INTEGER", integers(64), takes="int", refused=(2**63, -(2**63) - 1, Decimal(1), UUID(int=1))),
    kind("FLOAT", st.floats() | INFINITE, takes="float", refused=(Decimal("1.5"), 1j)),
    kind("STRING", TEXT, takes="str", refused=({"a": 1}, {1, 2})),
    listed("BOOLEAN", st.booleans(), takes="bool", refused=([True, 1], [True, None])),
    listed("INTEGER", integers(64), takes="int", refused=([1, 1.5], [1, None], [[1]], [2**63])),
    listed("FLOAT", st.floats() | INFINITE, takes="float", refused=([1.5, "x"],)),
    listed("STRING", TEXT, takes="str", refused=(["a", None], ["a", 1], ["a", b"x"])),
)
NEO4J = (
    *BASIC,
    kind("BYTE ARRAY", st.binary(max_size=20), takes="bytes, bytearray", gives="bytes", refused=([b"x"],)),
    kind("DATE", st.dates(), takes="date"),
    kind("LOCAL TIME", st.times(), takes="time without zone"),
    kind(
        "LOCAL TIME, nanoseconds",
        st.builds(Time, st.integers(0, 23), st.just(5), st.just(7), NANOSECONDS),
        takes="neo4j.time.Time",
    ),
    kind("ZONED TIME", st.times(timezones=OFFSETS), takes="time with an offset"),
    kind("LOCAL DATETIME", LOCAL, takes="datetime without zone"),
    kind(
        "LOCAL DATETIME, nanoseconds",
        st.builds(
            DateTime,
            st.integers(1, 9999),
            st.just(2),
            st.just(3),
            st.just(4),
            st.just(5),
            st.just(6),
            NANOSECONDS,
        ),
        takes="neo4j.time.DateTime",
    ),
    kind(
        "ZONED DATETIME, an offset",
        MOMENTS,
        takes="datetime with an offset",
        refused=(datetime(2020, 1, 1, tzinfo=timezone(timedelta(seconds=1))),),
    ),
    kind("ZONED DATETIME, a named zone", ZONED, takes="datetime with a ZoneInfo"),
    kind("DURATION", DURATIONS, takes="neo4j.time.Duration"),
    kind(
        "DURATION, of a timedelta",
        SPANS,
        takes="timedelta",
        gives="neo4j.time.Duration",
        expected=as_duration,
    ),
    kind(
        "POINT, cartesian",
        PAIRS.map(CartesianPoint),
        takes="CartesianPoint of 2 numbers",
    ),
    kind(
        "POINT, cartesian-3d",
        TRIPLES.map(CartesianPoint),
        takes="CartesianPoint of 3",
    ),
    kind(
        "POINT, wgs-84",
        st.tuples(st.floats(-180, 180), st.floats(-90, 90)).map(WGS84Point),
        takes="WGS84Point of 2 numbers",
    ),
    kind(
        "POINT, wgs-84-3d",
        st.tuples(st.floats(-180, 180), st.floats(-90, 90), NUMBERS).map(WGS84Point),
        takes="WGS84Point of 3",
    ),
    listed("DATE", st.dates(), takes="date"),
    listed("LOCAL TIME", st.times(), takes="time without zone"),
    listed("ZONED TIME", st.times(timezones=OFFSETS), takes="time with an offset"),
    listed("LOCAL DATETIME", LOCAL, takes="datetime without zone"),
    listed("ZONED DATETIME", MOMENTS, takes="datetime with an offset"),
    listed("DURATION", DURATIONS, takes="neo4j.time.Duration"),
    listed("POINT", PAIRS.map(CartesianPoint), takes="CartesianPoint"),
)
ARCADEDB = (
    *BASIC,
    kind("DATE", st.dates(), takes="date"),
    kind("LOCAL DATETIME", LOCAL, takes="datetime without zone"),
    kind(
        "ZONED DATETIME",
        MOMENTS,
        takes="datetime with an offset",
        gives="datetime in UTC",
        expected=utc,
    ),
)
