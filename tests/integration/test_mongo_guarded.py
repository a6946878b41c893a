"""The mongo adapter's guarded single-document writes: exact guards, on the server that the tests have."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from uuid import uuid4

import pymongo
import pytest
from bson import DatetimeMS, DBRef, Int64, MaxKey, MinKey, ObjectId, Timestamp

from servers.mongo_peer import MongoPeer
from warehouse import conditions, undo, updates
from warehouse.adapter import Query, Request, UnitSettings, WriteStatus
from warehouse.errors import ConstraintViolated, StoreError, StoreOutcomeUnknown, StoreUnavailable
from warehouse.journal import codec
from warehouse.records import ABSENT, Change, Entity, get, same
from warehouse_adapters.mongo import MongoAdapter
from warehouse_adapters.mongo.guarded import GuardedDocuments

pytestmark = pytest.mark.anyio
APPLIED, CONFLICT, REFUSED = WriteStatus.APPLIED, WriteStatus.CONFLICT, WriteStatus.REFUSED
NAN = float("nan")


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Things:
    """A collection of its own, seen by the adapter and by somebody else."""

    def __init__(self, adapter, foreign):
        self.adapter = adapter
        self.foreign = foreign
        self.entity = Entity(foreign.name)

    async def info(self):
        return await self.adapter.describe(self.entity, fresh=True)

    async def documents(self):
        await self.info()
        return GuardedDocuments(self.adapter._connected()[1])

    async def read(self, number=1):
        return (await (await self.documents()).load(await self.info(), [{"_id": number}]))[0]

    async def apply(self, before, after, *written, guard=()):
        key = {"_id": (before or after)["_id"]}
        change = Change(
            entity=self.entity,
            key=key,
            before=before,
            after=after,
            written=frozenset(written),
            guard=frozenset(guard),
        )
        (written,) = await (await self.documents()).apply(await self.info(), [change])
        return written

    async def status(self, *args, **kwargs):
        return (await self.apply(*args, **kwargs)).status

    async def update(self, where, data):
        """Plan an update, and write it if that is needed: the changes."""
        info = await self.info()
        items = updates.bind(updates.parse(data), conditions.literal)
        request = Request(
            step="s", operation="update", info=info, where=conditions.parse(where), assignments=items
        )
        self.adapter.check(request)
        async with self.adapter.unit(UnitSettings(transaction_id="t")) as unit:
            step = await unit.execute(request)
            if not self.adapter.capabilities.holds:
                written = await unit.write(step.changes)
                assert all(item.status is APPLIED for item in written), written
            await unit.commit()
        return step.changes

    async def find(self, where):
        query = Query(info=await self.info(), where=conditions.parse(where))
        return sorted(record["_id"] for record in await self.adapter.find(query))


@pytest.fixture
async def things(mongo):
    adapter = MongoAdapter(MongoAdapter.Settings(adapter="mongo", url=mongo.url, database="guarded"))
    await adapter.connect()
    with pymongo.MongoClient(
        mongo.url, tz_aware=True, uuidRepresentation="standard", retryWrites=False
    ) as client:
        yield Things(adapter, client["guarded"][f"things_{uuid4().hex}"])
        client.drop_database("guarded")
    await adapter.close()


def document(path, value):
    return {"_id": 1} if value is ABSENT else {"_id": 1, path: value}


# Guards


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (5, [5]),
        (5, 5.0),
        (5, Int64(5)),
        (5, True),
        (5, "5"),
        (5, None),
        (5, ABSENT),
        (None, [None]),
        (ABSENT, []),
        (ABSENT, [None]),
        (None, 0),
        (None, ""),
        ([5], 5),
        ([5], [[5]]),
        ([5], [5, 5]),
        ([5], [5, [5]]),
        ([], [[]]),
        ([], None),
        ({"x": 1}, {"x": 1, "y": 2}),
        ({"x": 1}, [{"x": 1}]),
        ({}, None),
        (0.0, NAN),
        (NAN, 0.0),
        (NAN, None),
        (Decimal("1.10"), 1.1),
        ("a", "A"),
        ("a", ["a"]),
        (True, 1),
        (b"x", "x"),
        (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        (ObjectId("0" * 24), "0" * 24),
        (MinKey(), None),
    ],
    ids=repr,
)
async def test_a_value_that_is_not_the_same_is_a_conflict(things, before, now):
    things.foreign.insert_one(document("a", before if not isinstance(before, Decimal) else 0))
    if isinstance(before, Decimal):
        await things.update({}, {"a": before})
    image = await things.read()
    written = {**image, "b": 1}
    assert await things.status(image, written, "b", guard=["a"]) is APPLIED
    things.foreign.replace_one({"_id": 1}, document("a", now))
    assert await things.status(image, {**image, "a": "new"}, "a") is CONFLICT
    assert await things.status(image, {**image, "b": 1}, "b", guard=["a"]) is CONFLICT
    assert await things.status(image, ABSENT, "a") is CONFLICT
    things.foreign.replace_one({"_id": 1}, document("a", now))
    now_image = await things.read()
    assert await things.status(now_image, ABSENT, *now_image) is APPLIED


@pytest.mark.parametrize(("before", "now"), [(None, ABSENT), (ABSENT, None)])
async def test_null_and_missing_are_the_same(things, before, now):
    things.foreign.insert_one(document("a", before))
    image = await things.read()
    things.foreign.replace_one({"_id": 1}, document("a", now))
    assert await things.status(image, {**image, "a": 1}, "a") is APPLIED


@pytest.mark.parametrize(
    "now",
    [{"b": 6}, [{"b": 5}], {}, None, ABSENT, {"b": [5]}, {"b": {"b": 5}}, {"b": 5.0}],
    ids=repr,
)
async def test_a_path_guards_where_it_leads(things, now):
    things.foreign.insert_one({"_id": 1, "a": {"b": 5, "c": 1}})
    image = await things.read()
    things.foreign.update_one({"_id": 1}, {"$set": {"a.c": 2}})
    assert await things.status(image, {"_id": 1, "a": {"b": 6}}, "a.b") is APPLIED
    assert (await things.read())["a"] == {"b": 6, "c": 2}
    things.foreign.replace_one({"_id": 1}, document("a", now))
    assert await things.status(image, {"_id": 1, "a": {"b": 7}}, "a.b") is CONFLICT


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ({"c": 1}, APPLIED),
        ({"b": None}, APPLIED),
        (ABSENT, APPLIED),
        ({"b": 0}, CONFLICT),
        ([{"c": 1}], CONFLICT),
        ([], CONFLICT),
    ],
    ids=repr,
)
async def test_a_path_that_was_missing(things, now, status):
    things.foreign.insert_one({"_id": 1, "a": {"c": 1}})
    image = await things.read()
    things.foreign.replace_one({"_id": 1}, document("a", now))
    assert await things.status(image, {"_id": 1, "a": {"c": 1, "b": 7}}, "a.b") is status


async def test_a_path_into_a_list_is_guarded_by_the_list(things):
    things.foreign.insert_one({"_id": 1, "a": [{"n": 1}, {"n": 2}]})
    (change,) = await things.update({"_id": 1}, {"a.1.n": {"$increment": 5}})
    assert things.foreign.find_one() == {"_id": 1, "a": [{"n": 1}, {"n": 7}]}
    things.foreign.update_one({"_id": 1}, {"$set": {"a": [{"n": 0}, {"n": 1}, {"n": 7}]}})
    back = undo.inverse(change)
    assert await things.status(back.before, back.after, "a.1.n") is CONFLICT


async def test_a_name_that_is_no_path_cannot_be_guarded(things):
    image = {"_id": 1, "a.b": 5}
    written = await things.apply(image, ABSENT, *image)
    assert written.status is REFUSED
    assert written.error.field == "a.b"


async def test_sixteen_tasks_lose_nothing(things):
    things.foreign.insert_one({"_id": 1, "n": 0})

    async def work():
        done = 0
        while done < 5:
            image = await things.read()
            done += await things.status(image, {**image, "n": image["n"] + 1}, "n") is APPLIED

    await asyncio.gather(*(work() for _ in range(16)))
    assert things.foreign.find_one() == {"_id": 1, "n": 80}


async def test_one_of_many_inserts_wins(things):
    image = {"_id": 1, "n": 0}
    found = await asyncio.gather(*(things.status(ABSENT, {**image, "n": n}, "n") for n in range(16)))
    assert sorted(status.value for status in found) == ["applied"] + ["conflict"] * 15


# Writes


async def test_a_foreign_write_to_another_field_survives(things):
    things.foreign.insert_one({"_id": 1, "n": 1, "m": 1})
    (change,) = await things.update({"_id": 1}, {"n": {"$increment": 1}})
    things.foreign.update_one({"_id": 1}, {"$set": {"m": 2, "k": 3}})
    back = undo.merge(change, await things.read(), (await things.info()).config).write
    assert await things.status(back.before, back.after, *back.written) is APPLIED
    assert things.foreign.find_one() == {"_id": 1, "n": 1, "m": 2, "k": 3}


@pytest.mark.parametrize(
    ("stored", "data"),
    [
        ({"a": None}, {"a.b.c": 1}),
        ({}, {"a.b.c": 1, "a.b.d": 2, "a.x": 3}),
        ({"a": {"m": 1}}, {"a.z": 1, "a.b": 2, "a.10": 3, "a.9": 4}),
        ({"a": {"b": 1, "c": 2}}, {"a.b": {"$unset": True}}),
        ({"a": [1, 2, 3]}, {"a.1": 9, "b": 1}),
        ({"a": [1, 2, 3]}, {"a.0": {"$unset": True}}),
        ({"a": {"b": None}}, {"a.b.c": 1, "a.b.d": {"$unset": True}}),
        ({"a": 5}, {"a": {"x": 1, "y": [1, {"z": None}]}}),
        ({"a": 5, "b": 1}, {"a": {"$unset": True}, "b": None}),
        ({"a": Int64(5)}, {"a": {"$increment": 1}}),
        ({"a": 2**31 - 1}, {"a": {"$increment": 1}}),
    ],
    ids=repr,
)
async def test_the_image_is_what_the_store_has(things, stored, data):
    things.foreign.insert_one({"_id": 1, **stored})
    (change,) = await things.update({"_id": 1}, data)
    found = await things.read()
    assert (
        list(found.get("a", ())) == list(change.after.get("a", ()))
        if isinstance(found.get("a"), dict)
        else True
    )
    assert same(found, change.after), f"{found} is not {change.after}"
    back = undo.inverse(change)
    assert await things.status(back.before, back.after, *back.written) is APPLIED
    assert same(await things.read(), change.before)


async def test_a_long_stays_long_and_an_int_an_int(things):
    things.foreign.insert_one({"_id": 1, "a": Int64(5), "b": 5})
    await things.update({}, {"a": {"$increment": 1}, "b": {"$multiply": 2}})
    raw = things.foreign.find_one()
    assert (type(raw["a"]), type(raw["b"])) == (Int64, int)


async def test_steps_of_one_unit_build_on_each_other(things):
    """New fields of a document come in MongoDB's order, so that the whole of it can be guarded later."""
    things.foreign.insert_one({"_id": 1, "a": {"m": 1}})
    info = await things.info()
    items = updates.bind(updates.parse({"a.z": 1, "a.b": 2}), conditions.literal)
    first = Request(step="0", operation="update", info=info, assignments=items)
    last = Request(step="1", operation="delete", info=info)
    async with things.adapter.unit(UnitSettings(transaction_id="t")) as unit:
        steps = [await unit.execute(first), await unit.execute(last)]
        if not things.adapter.capabilities.holds:
            for step in steps:
                assert [written.status for written in await unit.write(step.changes)] == [APPLIED]
        await unit.commit()
    assert things.foreign.find_one() is None


async def test_an_update_of_nothing_still_compares(things):
    things.foreign.insert_one({"_id": 1, "a": 1})
    image = await things.read()
    assert await things.status(image, image, guard=["a"]) is APPLIED
    things.foreign.update_one({"_id": 1}, {"$set": {"a": 2}})
    assert await things.status(image, image, guard=["a"]) is CONFLICT


async def test_a_unique_index_refuses_and_is_named(things):
    things.foreign.create_index([("a", 1), ("b", 1)], unique=True, name="pair")
    things.foreign.insert_many([{"_id": 1, "a": 1, "b": 1}, {"_id": 2, "a": 1, "b": 2}])
    assert (await things.info()).unique == (("a", "b"),)
    image = await things.read(2)
    for written in (
        await things.apply(ABSENT, {"_id": 3, "a": 1, "b": 1}, "a", "b"),
        await things.apply(image, {**image, "b": 1}, "b"),
    ):
        assert written.status is REFUSED
        assert isinstance(written.error, ConstraintViolated)
        assert written.error.constraint == "pair"


@pytest.mark.parametrize("path", ["a", "a.b"])
async def test_conditions_agree_with_the_reference(things, path):
    values = [
        1,
        1.0,
        True,
        "1",
        None,
        [],
        [1],
        [None],
        {"b": 1},
        {"b": None},
        [{"b": 1}],
        [{"c": 1}],
        "z",
        NAN,
    ]
    records = [{"_id": number, "a": value} for number, value in enumerate(values)] + [{"_id": 99}]
    things.foreign.insert_many(records)
    operands = [1, 0.5, "1", True, None, [1], [], {"b": 1}]
    wheres = [{path: {op: v}} for op in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte") for v in operands]
    wheres += [{path: {op: [1, v]}} for op in ("$in", "$nin") for v in operands]
    wheres += [{path: {op: flag}} for op in ("$exists", "$null") for flag in (True, False)]
    wheres += [{"$not": where} for where in wheres] + [{"$or": [where, {"_id": 3}]} for where in wheres]
    for where in wheres:
        tree = conditions.parse(where)
        expected = [record["_id"] for record in records if conditions.evaluate(tree, record)]
        assert await things.find(where) == expected, where


# Values


async def test_every_value_comes_back_and_can_be_journaled(things):
    values = {
        "oid": ObjectId(),
        "long": Int64(7),
        "big": 2**62,
        "decimal": Decimal("1234567890.123456789012345678901234"),
        "bytes": b"\0\xff",
        "uuid": uuid4(),
        "moment": datetime(2024, 2, 29, 12, 30, 1, 999999, tzinfo=UTC),
        "timestamp": Timestamp(1, 2),
        "min": MinKey(),
        "max": MaxKey(),
        "ref": DBRef("other", 5, "db", extra=1),
        "far": DatetimeMS(2**55),
        "nested": {"tuple": (1, [2.5, None])},
    }
    adapter, info = things.adapter, await things.info()
    request = Request(step="s", operation="insert", info=info, records=({"_id": 1, **values},))
    async with adapter.unit(UnitSettings(transaction_id="t")) as unit:
        (change,) = (await unit.execute(request)).changes
        if not adapter.capabilities.holds:
            assert [written.status for written in await unit.write([change])] == [APPLIED]
        await unit.commit()
    stored = await things.read()
    assert same(stored, change.after)
    assert same(codec.decode(codec.encode(stored)), stored)
    assert get(stored, "moment").microsecond == 999000
    assert things.foreign.find_one({}, {"decimal": 1})["decimal"].to_decimal() == values["decimal"]


# Faults


@pytest.fixture
async def peered():
    with MongoPeer().serving() as peer:
        settings = MongoAdapter.Settings(adapter="mongo", url=peer.url, database="db", connect_timeout=1)
        adapter = MongoAdapter(settings)
        await adapter.connect()
        yield Things(adapter, SimpleNamespace(name="things")), peer
        await adapter.close()


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_lost_reply_leaves_it_open(peered, lost):
    things, peer = peered
    await things.info()
    peer.fail("insert", lose=lost)
    written = await things.apply(ABSENT, {"_id": 1, "n": 1}, "n")
    assert written.status is WriteStatus.UNKNOWN
    assert isinstance(written.error, StoreOutcomeUnknown)
    assert peer.sent().count("insert") == 1
    assert len(peer.documents("db.things")) == (lost == "after")


@pytest.mark.parametrize(
    ("code", "kind"), [(13, StoreError), (121, ConstraintViolated), (10107, StoreUnavailable)]
)
async def test_a_refusal_was_never_made(peered, code, kind):
    things, peer = peered
    await things.info()
    peer.fail("insert", error={"code": code})
    written = await things.apply(ABSENT, {"_id": 1, "n": 1}, "n")
    assert written.status is REFUSED
    assert type(written.error) is kind


async def test_what_could_not_be_sent_was_never_made(peered):
    things, peer = peered
    documents, info = await things.documents(), await things.info()
    peer.stop()
    image = {"_id": 1, "n": 1}
    change = Change(
        entity=things.entity, key={"_id": 1}, before=ABSENT, after=image, written=frozenset({"n"})
    )
    with pytest.raises(StoreUnavailable):
        await documents.load(info, [{"_id": 1}])
    (written,) = await documents.apply(info, [change])
    assert written.status is REFUSED
    assert isinstance(written.error, StoreUnavailable)
