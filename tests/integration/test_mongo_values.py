"""What the mongo adapter refuses before it reaches a server, and what its values are."""

import traceback
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from servers.mongo_peer import MongoPeer, forget_broken_sockets
from warehouse import conditions, updates
from warehouse.adapter import EntityInfo, Request
from warehouse.errors import ConfigError, InvalidOperation, StoreUnavailable
from warehouse.journal import codec
from warehouse.records import Entity
from warehouse_adapters.mongo import MongoAdapter
from warehouse_adapters.mongo.language import narrow, targets
from warehouse_adapters.mongo.values import Long, keep

THINGS = Entity("things")
UNFIT = [
    {"a": datetime(2020, 1, 1)},
    {"a": [{"b": datetime(2020, 1, 1)}]},
    {"a": date(2020, 1, 1)},
    {"a": time(1)},
    {"a": {1}},
    {"a": object()},
    {"a": 2**63},
    {"a": Decimal("1." + "1" * 34)},
    {"a": Decimal128("1")},
    {"a": Timestamp(0, 0)},
    {"a": {"$b": 1}},
    {"a": {"b.c": 1}},
    {"a": {1: 1}},
    {"a": "x" * (16 * 1024 * 1024)},
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


def adapter(**settings):
    return MongoAdapter(
        MongoAdapter.Settings(**{"adapter": "mongo", "url": "mongodb://h", "database": "d", **settings})
    )


def check(operation, unique=(), **parts):
    info = EntityInfo(entity=THINGS, key=("_id",), unique=unique)
    adapter().check(Request(step="s", operation=operation, info=info, **parts))


@pytest.mark.parametrize("record", UNFIT, ids=lambda record: repr(record)[:30])
def test_what_cannot_be_stored_is_refused_by_its_field(record):
    with pytest.raises(InvalidOperation) as caught:
        check("insert", records=({"_id": 1, **record},))
    assert caught.value.field == "a" or "too large" in str(caught.value)


@pytest.mark.parametrize("name", ["$a", "a.b", "a\0", ""])
def test_names_that_mongodb_reserves_are_refused(name):
    with pytest.raises(InvalidOperation):
        check("insert", records=({name: 1},))


@pytest.mark.parametrize("path", ["a.$b", "a.$[].b", "a..b", "a\0", "_id", "_id.x"])
def test_paths_that_mean_something_else_are_refused(path):
    with pytest.raises(InvalidOperation):
        check("update", assignments=updates.parse({path: 1}))


@pytest.mark.parametrize("key", [[1], Regex("a"), None])
def test_keys_that_mongodb_refuses_are_refused(key):
    with pytest.raises(InvalidOperation):
        check("insert", records=({"_id": key},))


@pytest.mark.parametrize("value", [datetime(2020, 1, 1), Decimal128("1"), [datetime(2020, 1, 1)]], ids=repr)
def test_conditions_on_values_that_no_record_has_are_refused(value):
    with pytest.raises(InvalidOperation):
        check("delete", where=conditions.parse({"a": {"$in": [value]}}))
    with pytest.raises(InvalidOperation):
        check("delete", where=conditions.parse({"a.$b": 1}))


def test_an_upsert_needs_a_unique_index():
    check("upsert", records=({"_id": 1},), conflict_keys=("_id",))
    check("upsert", records=({"a": 1, "b": 1},), conflict_keys=("b", "a"), unique=(("a", "b"),))
    with pytest.raises(InvalidOperation):
        check("upsert", records=({"a": 1},), conflict_keys=("a",), unique=(("a", "b"),))


@pytest.mark.parametrize(
    "value",
    [
        ObjectId(),
        Long(5),
        Binary(b"x", 128),
        Regex("^a", 2),
        Timestamp(1, 2),
        Code("x"),
        Code("x", {"y": 1}),
        DBRef("c", ObjectId(), "d", extra=1),
        MinKey(),
        MaxKey(),
        DatetimeMS(2**60),
    ],
    ids=repr,
)
def test_bson_values_are_kept_and_journaled(value):
    image = keep({"_id": 1, "a": value})
    found = codec.decode(codec.encode(image))["a"]
    for other in (image["a"], found):
        assert type(other) is type(value)
        assert other == value


def test_values_come_as_the_store_gives_them():
    image = keep({"_id": 1, "t": (1, 2), "i": Int64(1), "d": datetime(2020, 1, 1, 1, 1, 1, 1999, tzinfo=UTC)})
    assert image == {"_id": 1, "t": [1, 2], "i": 1, "d": datetime(2020, 1, 1, 1, 1, 1, 1000, tzinfo=UTC)}
    assert type(image["i"]) is Long


@pytest.mark.parametrize(
    "value", [Long(5) + 1, 1 + Long(5), Long(7) - 1, Long(2) * 3, 3 * Long(2), -Long(-6)]
)
def test_a_long_stays_one(value):
    assert value == 6
    assert type(value) is Long


def test_a_long_meets_other_numbers():
    assert type(Long(1) + 0.5) is float
    assert Long(1) + Decimal("0.5") == Decimal("1.5")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"a": 1, "b": {"$gt": 2}}, {"$and": [{"a": {"$eq": 1}}, {"b": {"$gte": 2}}]}),
        ({"$or": [{"a": 1}, {"a": {"$ne": 2}}]}, {}),
        ({"a": {"$ne": 1}}, {}),
        ({"a.b": None}, {}),
        ({"a": None}, {"a": {"$eq": None}}),
        ({"a": {"x": 1, "y": 2}}, {}),
        ({"a": {"$gt": "\ue000"}}, {}),
        ({"$where": 1, "a": 1}, None),
        ({"a.$where": 1}, {}),
    ],
    ids=str,
)
def test_what_is_pushed_down(where, expected):
    if expected is None:
        with pytest.raises(InvalidOperation):
            conditions.parse(where)
    else:
        assert narrow(conditions.parse(where)) == expected


@pytest.mark.parametrize(
    ("before", "after", "written", "expected"),
    [
        ({"a": None}, {"a": {"b": 1}}, ["a.b"], ["a"]),
        ({}, {"a": {"b": 1}}, ["a.b"], ["a.b"]),
        ({"a": {"b": 1}}, {}, ["a.b"], ["a"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b"], ["a.b"]),
        ({"a": [1]}, {"a": [2]}, ["a.0"], ["a.0"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a.1"], ["a"]),
        ({"a": [1]}, {}, ["a.0"], ["a"]),
        ({"a": None}, {"a": {"b": 1}}, ["a.b", "a.c"], ["a"]),
        ({}, {"a": {"10": 1, "9": 1, "x": 1}}, ["a.x", "a.10", "a.9"], ["a.9", "a.10", "a.x"]),
    ],
    ids=str,
)
def test_where_an_update_goes(before, after, written, expected):
    assert targets(before, after, written) == expected


# The connection


@pytest.mark.anyio
@pytest.mark.parametrize(
    "settings",
    [
        {"url": "mongodb://user:hunter2@h:port/"},
        {"url": "http://user:hunter2@h"},
        {"options": {"nonsense": 1}},
        {"options": {"maxPoolSize": "many"}},
    ],
    ids=str,
)
async def test_a_wrong_configuration_is_told_without_secrets(settings):
    made = adapter(**settings)
    assert "hunter2" not in repr(made._settings)
    with pytest.raises(ConfigError) as caught:
        await made.connect()
    if "url" in settings:
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.anyio
async def test_an_absent_server_is_unavailable():
    with pytest.raises(StoreUnavailable):
        await adapter(url="mongodb://127.0.0.1:1/", connect_timeout=0.2).connect()
    forget_broken_sockets()


@pytest.fixture
async def connected():
    with MongoPeer().serving() as peer:
        peer.index("d", "things", "email")
        made = adapter(url=peer.url, entities={"things": {"key": ["email"]}, "others": {"key": ["email"]}})
        await made.connect()
        yield made, peer
        await made.close()


@pytest.mark.anyio
async def test_a_configured_key_must_be_unique(connected):
    made, _ = connected
    info = await made.describe(THINGS)
    assert (info.key, info.unique) == (("email",), (("_id",),))
    with pytest.raises(ConfigError):
        await made.describe(Entity("others"))


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["system.views", "a$b", ".a", "a.", "a\0"])
async def test_what_is_no_collection_is_refused(connected, name):
    for entity in (Entity(name), Entity("likes", "relationship")):
        with pytest.raises(InvalidOperation):
            await connected[0].describe(entity)


@pytest.mark.anyio
async def test_a_collation_is_refused(connected):
    made, peer = connected
    index = {"key": {"_id": 1}, "name": "_id_", "collation": {"locale": "en"}}
    peer.fail("listIndexes", answer={"cursor": {"firstBatch": [index], "id": 0, "ns": "d.folded"}})
    with pytest.raises(InvalidOperation):
        await made.describe(Entity("folded"))
