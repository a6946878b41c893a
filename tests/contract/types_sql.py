"""The types of the SQL stores, as the type contract tries them."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

from hypothesis import strategies as st

from warehouse.records import float32
from warehouse.testing.harness import StoredType

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
INFINITE = st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308])
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MICROSECONDS = st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
).filter(lambda value: value is not None)


def kind(stored, values, *, takes, gives=None, **more):
    field = "f_" + "".join(c if c.isalnum() else "_" for c in stored)
    return StoredType(field=field, stored=stored, takes=takes, gives=gives or takes, values=values, **more)


def integers(bits):
    ends = st.sampled_from([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0])
    return ends | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def decimals(digits, places):
    top = Decimal(10) ** (digits - places) - Decimal(10) ** -places
    return st.decimals(-top, top, places=places, allow_nan=False) | st.sampled_from([top, -top])


def single(value):
    """The shortest decimal that stands for the same single-precision number, which is what PostgreSQL writes."""
    short = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((found for found in short if float32(found) == float32(value)), value)


def from_json(value):
    """What JSON makes of numbers: a large double without a fraction is written as an integer."""
    if isinstance(value, dict):
        return {name: from_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return int(Decimal(repr(value))) if isinstance(value, float) and "e+" in repr(value) else value


def numeric(value):
    """What SQLite makes of a JSON text that is a number and nothing else."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def utc(moment):
    return moment.astimezone(UTC)


MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=OFFSETS)

POSTGRES = (
    kind("smallint", integers(16), takes="int", refused=(2**15, -(2**15) - 1, 1.5, "1", True)),
    kind("integer", integers(32), takes="int", refused=(2**31, "x")),
    kind("bigint", integers(64), takes="int", refused=(2**63, -(2**63) - 1)),
    kind(
        "numeric",
        st.decimals(allow_nan=False, allow_infinity=False, places=30)
        | st.sampled_from([Decimal("NaN"), Decimal(10) ** 300, Decimal("0.00")]),
        takes="Decimal, int, float",
        gives="Decimal",
    ),
    kind(
        "numeric(12, 4)",
        decimals(12, 4),
        takes="Decimal, int, float",
        gives="Decimal",
        refused=(Decimal("0.00001"), Decimal(123456789), Decimal("Infinity")),
    ),
    kind(
        "real",
        st.floats(width=32) | st.just(float("nan")),
        takes="float",
        note="rounded to single precision",
        expected=single,
    ),
    kind("double precision", st.floats() | INFINITE, takes="float"),
    kind("text", TEXT, takes="str", refused=("a\0b", "\ud800", 1, b"x")),
    kind("varchar(8)", TEXT.filter(lambda text: len(text) <= 8), takes="str", refused=("123456789",)),
    kind("boolean", st.booleans(), takes="bool", refused=(1, "yes")),
    kind("bytea", st.binary(max_size=20), takes="bytes", refused=("x",)),
    kind("uuid", st.uuids(), takes="UUID, str", gives="UUID", refused=("no uuid", 1)),
    kind(
        "json",
        JSON,
        takes="dict, list, str, int, float, bool",
        refused=({"a": float("nan")}, {1: 2}, {"a": "\0"}, b"x"),
    ),
    kind(
        "jsonb",
        JSON,
        expected=from_json,
        takes="dict, list, str, int, float, bool",
        refused=({"a": "x\0"}, "\ud800"),
    ),
    kind(
        "date",
        st.dates() | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"]),
        takes="date, str",
        note="beyond Python's range: text",
    ),
    kind("time", st.times(), takes="time", refused=(time(1, tzinfo=UTC),)),
    kind("timetz", st.times(timezones=OFFSETS), takes="time with zone", refused=(time(1),)),
    kind(
        "timestamp",
        st.datetimes() | st.sampled_from(["infinity", "-infinity"]),
        takes="datetime without zone",
        note="with a zone: kept in UTC",
    ),
    kind(
        "timestamptz",
        MOMENTS,
        takes="datetime with zone",
        gives="datetime in UTC",
        expected=utc,
        refused=(datetime(2020, 1, 1),),
    ),
    kind(
        "interval",
        MICROSECONDS | st.sampled_from(["1 mon", "-10 mons", "1 year 2 mons -3 days +04:05:06.000007"]),
        takes="timedelta, str",
        note="with months: text",
    ),
    kind("integer[]", st.lists(st.none() | integers(32), max_size=4), takes="list of int"),
    kind("text[]", st.lists(st.none() | TEXT, max_size=4), takes="list of str"),
    kind("numeric[]", st.lists(st.none() | decimals(20, 5), max_size=4), takes="list of Decimal"),
    kind(
        "timestamptz[]",
        st.lists(MOMENTS, max_size=3),
        takes="list of datetime with zone",
        expected=lambda items: [utc(item) for item in items],
    ),
    kind("uuid[]", st.lists(st.uuids(), max_size=3), takes="list of UUID"),
    kind(
        "integer[][]",
        st.integers(1, 3).flatmap(
            lambda n: st.lists(st.lists(integers(32), min_size=n, max_size=n), min_size=1, max_size=3)
        ),
        takes="list of lists of int",
    ),
    kind("mood", st.sampled_from(["sad", "it's", "\u00fc"]), takes="str", note="an enum", refused=("angry",)),
    kind("positive", st.integers(1, 2**31 - 1), takes="int", note="a domain"),
    kind("inet", st.sampled_from(["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32"]), takes="str"),
    kind("cidr", st.sampled_from(["10.0.0.0/8", "2001:db8::/32"]), takes="str"),
    kind("int4range", st.sampled_from(["empty", "[1,5)", "(,5)", "(,)"]), takes="str"),
    kind(
        "tstzrange",
        st.sampled_from(['["2020-01-01 00:00:00+00","2021-01-01 00:00:00+00")', "empty"]),
        takes="str",
    ),
    kind("bit(5)", st.sampled_from(["10101", "00000"]), takes="str"),
    kind("varbit", st.sampled_from(["1", "", "0101"]), takes="str"),
    kind("macaddr", st.just("08:00:2b:01:02:03"), takes="str"),
    kind("point", st.sampled_from(["(1,2)", "(0.1,-0)"]), takes="str"),
    kind("tsvector", st.sampled_from(["'a':1 'b':2", ""]), takes="str"),
    kind("xml", st.just("<a>x</a>"), takes="str"),
)
_UNLESS_THERE = "DO $$ BEGIN CREATE {}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
POSTGRES_SETUP = (
    _UNLESS_THERE.format("TYPE mood AS ENUM ('sad', 'it''s', '\u00fc')"),
    _UNLESS_THERE.format("DOMAIN positive AS integer CHECK (VALUE > 0)"),
)


def unsigned(bits):
    return st.sampled_from([0, 2**bits - 1]) | st.integers(0, 2**bits - 1)


PLAIN = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31))
WHOLE = PLAIN.map(lambda moment: moment.replace(microsecond=0))

MARIADB = (
    kind("tinyint", integers(8), takes="int, bool", gives="int", refused=(128, "x")),
    kind("smallint", integers(16), takes="int", refused=(2**15,)),
    kind("mediumint", integers(24), takes="int", refused=(2**23,)),
    kind("int", integers(32), takes="int", refused=(2**31,)),
    kind("bigint", integers(64), takes="int", refused=(2**63,)),
    kind("bigint unsigned", unsigned(64), takes="int", refused=(-1, 2**64)),
    kind(
        "decimal(65, 30)",
        decimals(40, 30),
        takes="Decimal, int, float",
        gives="Decimal",
        refused=(Decimal("1e-31"), Decimal("1e35")),
    ),
    kind("decimal(12, 4)", decimals(12, 4), takes="Decimal, int, float", gives="Decimal", refused=(0.00001,)),
    kind(
        "float",
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        takes="float",
        note="rounded to single precision",
        expected=lambda value: float32(value) + 0.0,
        refused=(float("nan"), float("inf")),
    ),
    kind(
        "double",
        st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
        takes="float",
        note="minus zero loses its sign",
        refused=(float("nan"), float("-inf")),
    ),
    kind("varchar(20)", TEXT, takes="str", refused=("123456789012345678901", "\ud800")),
    kind("text", TEXT | st.just("a\0b"), takes="str", refused=(b"x", 1)),
    kind("varbinary(20)", st.binary(max_size=20), takes="bytes", refused=("x",)),
    kind("blob", st.binary(max_size=20), takes="bytes"),
    kind("boolean", st.booleans(), takes="bool, int", gives="int", expected=int),
    kind("date", st.dates(date(1000, 1, 1)), takes="date", refused=(datetime(2020, 1, 1),)),
    kind("datetime(6)", PLAIN, takes="datetime without zone", note="with a zone: kept in UTC"),
    kind("datetime", WHOLE, takes="datetime without zone", refused=(datetime(2020, 1, 1, 0, 0, 0, 1),)),
    kind(
        "time(6)",
        st.timedeltas(timedelta(hours=-838), timedelta(hours=838)),
        takes="timedelta, time",
        gives="timedelta",
    ),
    kind("year", st.integers(1901, 2155), takes="int"),
    kind("enum('a','it''s','\u00fc')", st.sampled_from(["a", "it's", "\u00fc"]), takes="str", refused=("b",)),
    kind(
        "set('a','b','c')",
        st.sampled_from(["", "a", "a,b", "a,b,c"]),
        takes="str",
        note="members with commas",
    ),
    kind(
        "bit(9)",
        st.integers(0, 511).map(lambda bits: bits.to_bytes(2)),
        takes="bytes",
        note="most significant first",
    ),
    kind(
        "timestamp(6)",
        st.datetimes(datetime(1980, 1, 1), datetime(2037, 1, 1)),
        takes="datetime without zone",
    ),
    kind("uuid", st.uuids(version=4), takes="UUID, str", gives="str", expected=str),
    kind(
        "json",
        JSON,
        takes="dict, list, str, int, float, bool",
        refused=({"a": float("nan")}, {1: 2}, {"a": "\ud800"}),
    ),
)

# A column of SQLite may hold values of any type, whatever it is declared as.
ANYTHING = integers(64) | st.floats(allow_nan=False) | TEXT | st.just("a\0b") | st.binary(max_size=10)
SQLITE = (
    kind(
        "INTEGER",
        integers(64) | TEXT.map(lambda text: f"x{text}") | st.binary(max_size=5),
        takes="int, bool; any text or bytes",
        gives="as stored",
        refused=(2**63, Decimal("1.2345678901234567890123")),
    ),
    kind("REAL", st.floats(allow_nan=False), takes="float, int", gives="float", refused=(float("nan"),)),
    kind(
        "TEXT",
        TEXT | st.just("a\0b"),
        takes="str, Decimal, UUID, date, time",
        gives="str",
        refused=("\ud800",),
    ),
    kind("BLOB", ANYTHING, takes="anything", gives="as stored", refused=({"a": 1}, [1])),
    kind(
        "DATETIME",
        MOMENTS,
        takes="datetime",
        gives="str",
        note="in UTC",
        expected=lambda v: utc(v).isoformat(sep=" "),
    ),
    kind(
        "JSON",
        JSON.filter(lambda value: not isinstance(value, int) or -(2**63) <= value < 2**63),
        takes="dict, list, str, int, float, bool",
        expected=numeric,
        refused=({"a": float("nan")}, {1: 2}, b"x", 2**63),
        note="a number alone is kept as SQLite keeps numbers",
    ),
)
