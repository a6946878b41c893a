"""The types of BSON, as the type contract tries them."""

from datetime import date, datetime, time
from decimal import Decimal

from bson import Binary, Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import strategies as st

from contract.types_sql import INFINITE, OFFSETS, TEXT, integers, utc
from warehouse.testing.harness import StoredType
from warehouse_adapters.mongo.values import Long

NAMES = TEXT.filter(lambda name: name and name[0] != "$" and "." not in name)
IDS = st.binary(min_size=12, max_size=12).map(ObjectId)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=OFFSETS)
FAR = st.sampled_from([-(2**62), 253402300800000, 2**62]).map(DatetimeMS)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=10).filter(
    lambda number: len(number.as_tuple().digits) <= 34
) | st.sampled_from([Decimal("1E+6111"), Decimal("-1E-6176"), Decimal("0.00"), Decimal("-0")])
JSON = st.recursive(
    st.none() | st.booleans() | integers(64) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def kind(stored, values, *, takes, gives=None, **more):
    field = "f_" + "".join(c if c.isalnum() else "_" for c in stored)
    return StoredType(field=field, stored=stored, takes=takes, gives=gives or takes, values=values, **more)


def longs(value):
    """As reading gives it: an integer that needs 64 bits is one of a type of its own."""
    if isinstance(value, dict):
        return {name: longs(item) for name, item in value.items()}
    if isinstance(value, list):
        return [longs(item) for item in value]
    return Long(value) if type(value) is int and not -(2**31) <= value < 2**31 else value


def milliseconds(moment):
    if isinstance(moment, DatetimeMS):
        return moment
    moment = utc(moment)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


MONGO = (
    kind("double", st.floats() | INFINITE, takes="float"),
    kind("string", TEXT | st.just("a\0b"), takes="str", refused=("\ud800",)),
    kind(
        "object",
        st.dictionaries(NAMES, JSON, max_size=4),
        takes="dict",
        expected=longs,
        note="the order of its fields stays",
        refused=({"$a": 1}, {"a.b": 1}, {"": 1}, {1: 1}, {"a": {"b": datetime(2020, 1, 1)}}),
    ),
    kind(
        "array",
        st.lists(JSON, max_size=4),
        takes="list, tuple",
        gives="list",
        expected=longs,
        refused=([2**63], [datetime(2020, 1, 1)], {1, 2}),
    ),
    kind("binData", st.binary(max_size=20), takes="bytes"),
    kind(
        "binData, other subtypes",
        st.builds(Binary, st.binary(max_size=20), st.sampled_from([5, 6, 127])),
        takes="bson.Binary",
    ),
    kind("binData, a uuid", st.uuids(), takes="UUID"),
    kind("objectId", IDS, takes="bson.ObjectId"),
    kind("bool", st.booleans(), takes="bool"),
    kind(
        "date",
        MOMENTS | FAR,
        takes="datetime with zone",
        gives="datetime in UTC",
        expected=milliseconds,
        note="whole milliseconds; beyond Python's range: bson.DatetimeMS",
        refused=(datetime(2020, 1, 1), date(2020, 1, 1), time(1)),
    ),
    kind(
        "regex",
        st.builds(Regex, TEXT, st.sampled_from([0, 2, 8, 10])),
        takes="bson.Regex",
    ),
    kind("javascript", TEXT.map(Code), takes="bson.Code"),
    kind(
        "javascriptWithScope",
        st.builds(Code, TEXT, st.dictionaries(NAMES, integers(32), max_size=2)),
        takes="bson.Code with a scope",
    ),
    kind("int", integers(32), takes="int"),
    kind(
        "long",
        st.builds(Long, integers(64)),
        takes="int beyond 32 bits, bson.Int64",
        gives="bson.Int64, an int",
        refused=(2**63, -(2**63) - 1),
    ),
    kind(
        "timestamp",
        st.builds(Timestamp, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1)),
        takes="bson.Timestamp",
        refused=(Timestamp(0, 0),),
    ),
    kind(
        "decimal",
        DECIMALS,
        takes="Decimal",
        note="34 digits",
        refused=(Decimal("1." + "1" * 34), Decimal("1E+6145"), Decimal128("1")),
    ),
    kind("minKey", st.just(MinKey()), takes="bson.MinKey"),
    kind("maxKey", st.just(MaxKey()), takes="bson.MaxKey"),
    kind("DBRef", st.builds(DBRef, NAMES, IDS | integers(32)), takes="bson.DBRef"),
)
# mongo-java-server breaks the connection at these; and `$eq` takes a regex for what it matches there.
JAVA_SERVER_LACKS = frozenset({"binData, other subtypes", "javascript", "javascriptWithScope", "regex"})
