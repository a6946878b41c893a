"""Images as bytes: what is decoded equals what was encoded, by type and value."""

import io
import struct
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from uuid import UUID
from zoneinfo import ZoneInfo

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.journal import codec
from warehouse.records import ABSENT, same

_ZONES = (
    st.none()
    | st.timezones()
    | st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**62, 2**70),
    st.floats(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=_ZONES, allow_imaginary=False),
    st.builds(lambda moment, zone: moment.replace(tzinfo=zone), st.times(), _ZONES),
    st.timedeltas(),
    st.complex_numbers(allow_nan=False),
    st.binary().map(bytearray),
    st.just(ABSENT),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def identical(left, right):
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, datetime | time):
        return left == right and left.utcoffset() == right.utcoffset() and left.fold == right.fold
    if isinstance(left, Decimal):
        return str(left) == str(right)
    return same(left, right)


@given(_VALUES)
def test_round_trip(value):
    assert identical(codec.decode(codec.encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        float("nan"),
        Decimal("1.10"),
        Decimal("-Infinity"),
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime.max.replace(tzinfo=UTC),
        timedelta(days=-999_999_999),
        time(23, 59, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
        memoryview(b"x"),
    ],
    ids=repr,
)
def test_edges(value):
    found = codec.decode(codec.encode({"value": value}))["value"]
    assert type(found) is type(value)
    assert repr(found) == repr(value) or found == value
    if isinstance(value, datetime):
        assert (found.tzinfo, found.fold) == (value.tzinfo, value.fold)


def test_a_zone_without_a_name_keeps_its_offset():
    header = struct.pack(">4s16x6l", b"TZif", 0, 0, 0, 0, 1, 4)
    zone = ZoneInfo.from_file(io.BytesIO(header + struct.pack(">lbb4s", 19_800, 0, 0, b"IST\0")))
    moment = datetime(2024, 1, 1, tzinfo=zone)
    found = codec.decode(codec.encode(moment))
    assert (found, found.utcoffset()) == (moment, timedelta(hours=5, minutes=30))


def test_mappings_of_other_kinds_become_dicts():
    assert codec.decode(codec.encode(OrderedDict(a=1))) == {"a": 1}


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize("value", [object(), Colour.RED, {1.5: 1}, {(1, 2): 1}, {1, 2}], ids=repr)
def test_unknown_types_are_errors(value):
    with pytest.raises(TypeError, match="cannot be journaled"):
        codec.encode({"value": value})


class Money:
    def __init__(self, amount):
        self.amount = amount

    def __eq__(self, other):
        return isinstance(other, Money) and self.amount == other.amount

    __hash__ = None


def test_registered_types():
    codec.register(
        "test.Money", Money, lambda money: {"amount": money.amount}, lambda data: Money(data["amount"])
    )
    value = {"price": [Money(Decimal("1.50")), Money(None)]}
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x9f\x01",
        cbor2.dumps(cbor2.CBORTag(0x57_4800_00 + 99, 1)),
        cbor2.dumps(cbor2.CBORTag(0x57_4800_00 + 100, ["test.Nobody", 1])),
        cbor2.dumps(cbor2.CBORTag(0x57_4800_00 + 3, b"short")),
        cbor2.dumps(cbor2.CBORTag(0x57_4800_00 + 2, "no number")),
        cbor2.dumps(cbor2.CBORTag(0x57_4800_00 + 5, 1)),
        codec.encode({"a": UUID(int=1)})[:-3],
        codec.encode(date(2024, 1, 1)).replace(b"2024", b"20x4"),
    ],
)
def test_foreign_bytes_are_value_errors(data):
    with pytest.raises(ValueError):
        codec.decode(data)


def test_a_key_is_encoded_as_ever():
    """Locks are made of it: those in journals that are there must stay what they are."""
    key = {"b": Decimal("1.50"), "a": {"entity": "User", "key": {"id": 1}}, "c": "x"}
    pairs = [["a", key["a"]], ["b", key["b"]], ["c", "x"]]
    assert codec.encode_head(("store", "record", "things")) + codec.encode_pairs(key) == codec.encode(
        ["store", "record", "things", pairs]
    )
