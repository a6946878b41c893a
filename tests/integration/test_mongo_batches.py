"""Many guarded writes of MongoDB at once: what is sent, and how each of them ended."""

from types import SimpleNamespace
from uuid import uuid4

import pymongo
import pytest

from servers.mongo_peer import MongoPeer
from warehouse.adapter import WriteStatus
from warehouse.errors import ConstraintViolated, StoreError, StoreOutcomeUnknown
from warehouse.records import ABSENT, Change, Entity
from warehouse_adapters.mongo import MongoAdapter
from warehouse_adapters.mongo.guarded import GuardedDocuments

pytestmark = pytest.mark.anyio
APPLIED, CONFLICT, REFUSED = WriteStatus.APPLIED, WriteStatus.CONFLICT, WriteStatus.REFUSED
UNKNOWN = WriteStatus.UNKNOWN


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Things:
    """A collection, its documents as the adapter writes them, and somebody else who writes them too."""

    def __init__(self, adapter, foreign):
        self.documents = GuardedDocuments(adapter._connected()[1])
        self.adapter = adapter
        self.entity = Entity(foreign.name)
        self.foreign = foreign

    async def apply(self, *changes):
        info = await self.adapter.describe(self.entity, fresh=True)
        return await self.documents.apply(info, changes)

    async def statuses(self, *changes):
        return [item.status for item in await self.apply(*changes)]

    def meddle(self, action):
        """Let somebody else act between the reading of a batch and its writing."""
        load = self.documents.load

        async def loaded(info, keys):
            images = await load(info, keys)
            self.documents.load = load
            action()
            return images

        self.documents.load = loaded

    def change(self, number, before, after):
        written = frozenset({*(before or {}), *(after or {})} - {"_id"})
        return Change(entity=self.entity, key={"_id": number}, before=before, after=after, written=written)

    def inserts(self, *numbers, **fields):
        return [self.change(n, ABSENT, {"_id": n, "n": 0, **fields}) for n in numbers]

    def updates(self, *numbers):
        return [self.change(n, {"_id": n, "n": 0}, {"_id": n, "n": 1}) for n in numbers]

    def deletes(self, *numbers):
        return [self.change(n, {"_id": n, "n": 0}, ABSENT) for n in numbers]

    def rows(self):
        return {row["_id"]: row["n"] for row in self.foreign.find()}


@pytest.fixture
async def things(mongo):
    adapter = MongoAdapter(MongoAdapter.Settings(adapter="mongo", url=mongo.url, database="batches"))
    await adapter.connect()
    with pymongo.MongoClient(mongo.url, retryWrites=False) as client:
        yield Things(adapter, client["batches"][f"things_{uuid4().hex}"])
        client.drop_database("batches")
    await adapter.close()


async def test_nothing_is_sent_from_the_first_on_that_is_not_as_it_was(things):
    assert await things.statuses(*things.inserts(1, 2, 3, 4)) == [APPLIED] * 4
    things.foreign.update_one({"_id": 3}, {"$set": {"n": 7}})
    assert await things.statuses(*things.updates(1, 2, 3, 4)) == [APPLIED, APPLIED, CONFLICT]
    assert things.rows() == {1: 1, 2: 1, 3: 7, 4: 0}
    assert await things.statuses(*things.inserts(5, 4, 6)) == [APPLIED, CONFLICT]
    assert await things.statuses(*things.deletes(5, 3, 4)) == [APPLIED, CONFLICT]
    assert things.rows() == {1: 1, 2: 1, 3: 7, 4: 0}


async def test_changes_of_one_record_build_on_each_other(things):
    changes = [*things.inserts(1, 2), *things.updates(1, 2), things.change(1, {"_id": 1, "n": 1}, ABSENT)]
    assert await things.statuses(*changes) == [APPLIED] * 5
    assert things.rows() == {2: 1}


async def test_whoever_is_faster_is_found_by_what_the_records_are(things):
    """The others of the batch were made all the same, and it says so."""
    await things.apply(*things.inserts(1, 2, 3, 4, 5))
    things.meddle(lambda: things.foreign.update_one({"_id": 2}, {"$set": {"n": 7}}))
    assert await things.statuses(*things.updates(1, 2, 3)) == [APPLIED, UNKNOWN, APPLIED]
    assert things.rows() == {1: 1, 2: 7, 3: 1, 4: 0, 5: 0}
    things.meddle(lambda: things.foreign.update_one({"_id": 4}, {"$set": {"n": 7}}))
    assert await things.statuses(*things.deletes(4, 5)) == [UNKNOWN, APPLIED]
    assert things.rows() == {1: 1, 2: 7, 3: 1, 4: 7}
    things.meddle(lambda: things.foreign.delete_one({"_id": 4}))
    changes = [things.change(n, {"_id": n, "n": 7}, {"_id": n, "n": 8}) for n in (2, 4)]
    assert await things.statuses(*changes) == [APPLIED, UNKNOWN]


async def test_a_record_that_somebody_inserted_meanwhile_stops_the_batch(things):
    things.meddle(lambda: things.foreign.insert_one({"_id": 2, "n": 7}))
    assert await things.statuses(*things.inserts(1, 2, 3)) == [APPLIED, CONFLICT]
    assert things.rows() == {1: 0, 2: 7}


async def test_what_the_store_refuses_stops_the_batch_and_names_the_index(things):
    things.foreign.create_index("email", unique=True)
    await things.apply(*things.inserts(1, email="a"))
    taken = [things.change(n, ABSENT, {"_id": n, "n": 0, "email": e}) for n, e in enumerate("bac", 2)]
    written = await things.apply(*taken)
    assert [item.status for item in written] == [APPLIED, REFUSED]
    assert isinstance(written[-1].error, ConstraintViolated)
    assert written[-1].error.constraint == "email_1"
    assert things.rows() == {1: 0, 2: 0}


async def test_a_change_that_writes_nothing_is_compared_all_the_same(things):
    await things.apply(*things.inserts(1, 2))
    same = things.change(1, {"_id": 1, "n": 0}, {"_id": 1, "n": 0})
    assert await things.statuses(same, *things.updates(2)) == [APPLIED, APPLIED]
    things.foreign.update_one({"_id": 1}, {"$set": {"n": 7}})
    assert await things.statuses(same, *things.inserts(3)) == [CONFLICT]
    assert things.rows() == {1: 7, 2: 1}


# Faults, and what is sent


@pytest.fixture
async def peered():
    with MongoPeer().serving() as peer:
        settings = MongoAdapter.Settings(adapter="mongo", url=peer.url, database="db", connect_timeout=1)
        adapter = MongoAdapter(settings)
        await adapter.connect()
        yield Things(adapter, SimpleNamespace(name="things")), peer
        await adapter.close()


async def test_round_trips_grow_by_chunks(peered):
    things, peer = peered
    for changes in (things.inserts, things.updates):
        already = len(peer.sent())
        assert await things.statuses(*changes(*range(2500))) == [APPLIED] * 2500
        assert len([name for name in peer.sent()[already:] if name in ("find", "insert", "update")]) == 6


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_lost_reply_leaves_all_open_that_were_sent(peered, lost):
    things, peer = peered
    peer.fail("insert", lose=lost)
    written = await things.apply(*things.inserts(*range(1500)))
    assert [item.status for item in written] == [UNKNOWN] * 1000
    assert isinstance(written[0].error, StoreOutcomeUnknown)
    assert len(peer.documents("db.things")) == (1000 if lost == "after" else 0)


async def test_a_batch_that_cannot_be_read_is_not_sent(peered):
    things, peer = peered
    peer.fail("find", error={"code": 13})
    (written,) = await things.apply(*things.inserts(1, 2))
    assert written.status is REFUSED
    assert isinstance(written.error, StoreError)
    assert "insert" not in peer.sent()
