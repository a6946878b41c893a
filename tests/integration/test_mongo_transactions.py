"""The mongo adapter's transactions, against the scripted peer: what is sent, and what faults lead to."""

import asyncio

import pytest

from servers.mongo_peer import MongoPeer
from warehouse import conditions, updates
from warehouse.adapter import Query, Request, UnitSettings, WriteStatus
from warehouse.conditions import EVERYTHING
from warehouse.errors import (
    ConstraintViolated,
    StoreContention,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from warehouse.records import ABSENT, Change, Entity
from warehouse_adapters.mongo import MongoAdapter
from warehouse_adapters.mongo.adapter import has_transactions

pytestmark = pytest.mark.anyio
THINGS = Entity("things")
STORED = "db.things"
TRANSIENT = ["TransientTransactionError"]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def peer():
    with MongoPeer().serving() as peer:
        yield peer


@pytest.fixture
async def adapter(peer):
    settings = MongoAdapter.Settings(adapter="mongo", url=peer.url, database="db", connect_timeout=2)
    adapter = MongoAdapter(settings)
    await adapter.connect()
    peer.index("db", "things", "email")
    await adapter.describe(THINGS)
    peer.sent()
    yield adapter
    await adapter.close()


def unit(adapter):
    return adapter.unit(UnitSettings(transaction_id="t"))


async def request(adapter, operation, **parts):
    info = await adapter.describe(THINGS)
    made = Request(step="step_0", operation=operation, info=info, **parts)
    adapter.check(made)
    return made


async def insert(adapter, *records):
    return await request(adapter, "insert", records=records)


async def update(adapter, where, data):
    items = updates.bind(updates.parse(data), conditions.literal)
    return await request(adapter, "update", where=conditions.parse(where), assignments=items)


async def seed(adapter, peer, *records):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, *records))
        await one.commit()
    peer.sent()


# Round trips


async def test_an_operation_costs_what_its_commands_do(adapter, peer):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, *({"_id": number} for number in range(50))))
        assert peer.sent() == ["insert"]
        await one.execute(await update(adapter, None, {"n": {"$increment": 1}}))
        assert peer.sent() == ["find", "update"]
        await one.execute(
            await request(
                adapter, "upsert", records=({"_id": 1, "n": 5}, {"_id": 99}), conflict_keys=("_id",)
            )
        )
        assert peer.sent() == ["find", "update", "insert"]
        await one.execute(await request(adapter, "delete", where=EVERYTHING))
        assert peer.sent() == ["find", "delete"]
        await one.commit()
        assert peer.sent() == ["commitTransaction"]
    assert peer.sent() == []


async def test_a_unit_without_calls_sends_nothing(adapter, peer):
    async with unit(adapter) as one:
        await one.commit()
    assert peer.sent() == []


async def test_every_write_of_a_list_upsert_sees_those_before(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "email": "a", "n": 1})
    records = (
        {"email": "b", "n": 1},
        {"email": "a", "n": 2, "m": {"x": 1}},
        {"email": "b", "n": 3},
        {"email": None, "n": 4},
    )
    async with unit(adapter) as one:
        step = await one.execute(await request(adapter, "upsert", records=records, conflict_keys=("email",)))
        await one.commit()
    assert [change.action for change in step.changes] == ["inserted", "updated", "updated", "inserted"]
    assert step.changes[2].before == step.changes[0].after
    assert step.changes[0].claims == ({"email": "b"},)
    stored = [{key: document[key] for key in ("email", "n")} for document in peer.documents(STORED)]
    assert stored == [{"email": "a", "n": 2}, {"email": "b", "n": 3}, {"email": None, "n": 4}]


async def test_new_fields_come_in_the_order_of_the_server(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "a": {"m": 1}})
    async with unit(adapter) as one:
        step = await one.execute(await update(adapter, None, {"a.z": 1, "a.b": 2, "a.c.y": 3, "a.c.x": 4}))
        await one.commit()
    (stored,) = peer.documents(STORED)
    assert repr(step.changes[0].after) == repr(stored)


async def test_what_somebody_stored_oddly_can_be_updated(adapter, peer):
    await seed(adapter, peer, {"_id": 1})
    (image,) = peer.documents(STORED)
    image.update({"a.b": 1, "$c": {"$d": 2}, "n": 1})
    async with unit(adapter) as one:
        await one.execute(await update(adapter, {"n": 1}, {"n": 2}))
        await one.commit()
    assert peer.documents(STORED) == [{"_id": 1, "a.b": 1, "$c": {"$d": 2}, "n": 2}]


# The commit


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_commit_is_repeated_after_a_lost_reply_and_takes_effect_once(adapter, peer, lost):
    await seed(adapter, peer, {"_id": 1, "n": 1})
    async with unit(adapter) as one:
        await one.execute(await update(adapter, {"_id": 1}, {"n": {"$increment": 1}}))
        peer.sent()
        peer.fail("commitTransaction", lose=lost)
        await one.commit()
    assert peer.sent() == ["commitTransaction", "commitTransaction"]
    assert peer.documents(STORED) == [{"_id": 1, "n": 2}]


async def test_a_commit_lost_twice_is_unknown_and_can_be_asked_again(adapter, peer):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.fail("commitTransaction", lose="after")
        peer.fail("commitTransaction", lose="before")
        with pytest.raises(StoreOutcomeUnknown) as caught:
            await one.commit()
        assert caught.value.__cause__ is not None
        await one.commit()
        await one.rollback()
    assert peer.documents(STORED) == [{"_id": 1}]


@pytest.mark.parametrize(
    "error",
    [
        {"code": 64, "errorLabels": ["UnknownTransactionCommitResult"]},
        {"code": 50},
        {"code": 112, "errorLabels": ["UnknownTransactionCommitResult"]},
        {"code": 8},
    ],
    ids=str,
)
async def test_a_commit_answered_vaguely_is_unknown(adapter, peer, error):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.fail("commitTransaction", error=error)
        peer.fail("commitTransaction", error=error)
        with pytest.raises(StoreOutcomeUnknown):
            await one.commit()


@pytest.mark.parametrize("labels", [TRANSIENT, []])
@pytest.mark.parametrize("code", [112, 251])
async def test_a_commit_refused_is_a_contention(adapter, peer, code, labels):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.fail("commitTransaction", error={"code": code, "errorLabels": labels})
        with pytest.raises(StoreContention):
            await one.commit()
    assert peer.documents(STORED) == []


# Errors before the commit


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 112, "errorLabels": TRANSIENT}, StoreContention),
        ({"code": 112}, StoreContention),
        ({"code": 24}, StoreContention),
        ({"code": 50}, StoreContention),
        ({"code": 251}, StoreContention),
        ({"code": 11600, "errorLabels": TRANSIENT}, StoreUnavailable),
        ({"code": 10107}, StoreUnavailable),
        ({"code": 13}, StoreError),
        ({"code": 263}, StoreError),
    ],
    ids=str,
)
async def test_any_error_aborts(adapter, peer, error, kind):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.fail("update", error=error, abort=False)
        with pytest.raises(StoreError) as caught:
            await one.execute(await update(adapter, {"_id": 1}, {"n": 1}))
        assert type(caught.value) is kind
        assert caught.value.__cause__ is not None
        assert peer.transactions == 0
        with pytest.raises(StoreError, match="has ended"):
            await one.execute(await insert(adapter, {"_id": 2}))
        with pytest.raises(StoreError, match="has ended"):
            await one.commit()
    assert peer.sent()[-1] == "abortTransaction"
    assert peer.documents(STORED) == []


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_write_whose_reply_is_lost_has_not_happened(adapter, peer, lost):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.fail("insert", lose=lost)
        with pytest.raises(StoreUnavailable):
            await one.execute(await insert(adapter, {"_id": 2}))
    assert peer.documents(STORED) == []
    assert peer.transactions == 0


async def test_a_duplicate_names_the_index_and_hides_the_value(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "email": "secret@x"})
    async with unit(adapter) as one:
        with pytest.raises(ConstraintViolated) as caught:
            await one.execute(await insert(adapter, {"_id": 2}, {"_id": 3, "email": "secret@x"}))
        assert caught.value.constraint == "email_1"
        assert "secret@x" not in str(caught.value)
        assert peer.transactions == 0
    async with unit(adapter) as one:
        with pytest.raises(ConstraintViolated) as caught:
            await one.execute(await insert(adapter, {"_id": 1}))
        assert caught.value.constraint == "_id_"
    assert len(peer.documents(STORED)) == 1


async def test_a_validator_is_a_constraint(adapter, peer):
    async with unit(adapter) as one:
        peer.fail("insert", write_error={"code": 121, "errmsg": "Document failed validation"})
        with pytest.raises(ConstraintViolated) as caught:
            await one.execute(await insert(adapter, {"_id": 1}))
    assert caught.value.constraint == "validator"


async def test_a_refused_write_ends_the_transaction(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "email": "a"})
    taken = Change(
        entity=THINGS,
        key={"_id": 2},
        before=ABSENT,
        after={"_id": 2, "email": "a"},
        written=frozenset({"email"}),
    )
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 5}))
        (written,) = await one.write([taken])
        assert written.status is WriteStatus.REFUSED
        assert written.error.constraint == "email_1"
        with pytest.raises(StoreError):
            await one.commit()
    assert len(peer.documents(STORED)) == 1


async def test_a_server_that_is_gone(adapter, peer):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.stop()
        with pytest.raises(StoreUnavailable):
            await one.execute(await insert(adapter, {"_id": 2}))
    with pytest.raises(StoreUnavailable):
        await adapter.find(Query(info=await adapter.describe(THINGS)))


# Isolation


async def test_what_somebody_wrote_since_we_read_is_a_contention(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "n": 1})
    info = await adapter.describe(THINGS)
    async with unit(adapter) as one:
        (before,) = await one.read(info, [{"_id": 1}])
        async with unit(adapter) as other:
            await other.execute(await update(adapter, {"_id": 1}, {"m": 1}))
            await other.commit()
        assert await one.read(info, [{"_id": 1}]) == [before]
        change = Change(
            entity=THINGS, key={"_id": 1}, before=before, after={**before, "n": 2}, written=frozenset({"n"})
        )
        with pytest.raises(StoreContention):
            await one.write([change])
    assert peer.documents(STORED) == [{"_id": 1, "n": 1, "m": 1}]


async def test_a_locking_find_locks_and_leaves_no_trace(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "n": 1}, {"_id": 2, "n": 2})
    info = await adapter.describe(THINGS)
    async with unit(adapter) as one:
        found = await one.find(Query(info=info, where=conditions.parse({"n": 1}), lock=True))
        assert found == [{"_id": 1, "n": 1}]
        async with unit(adapter) as other:
            await other.execute(await update(adapter, {"_id": 2}, {"n": 3}))
            with pytest.raises(StoreContention):
                await other.execute(await update(adapter, {"_id": 1}, {"n": 3}))
        await one.commit()
    assert peer.documents(STORED) == [{"_id": 1, "n": 1}, {"_id": 2, "n": 2}]


async def test_what_a_unit_holds_nobody_sees(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "n": 1})
    info = await adapter.describe(THINGS)
    async with unit(adapter) as one:
        await one.execute(await update(adapter, {"_id": 1}, {"n": 2}))
        assert await adapter.find(Query(info=info)) == [{"_id": 1, "n": 1}]
        await one.commit()
    assert await adapter.find(Query(info=info)) == [{"_id": 1, "n": 2}]


async def test_many_tasks_that_try_again_lose_nothing(adapter, peer):
    await seed(adapter, peer, {"_id": 1, "n": 0})
    increment = await update(adapter, {"_id": 1}, {"n": {"$increment": 1}})

    async def work():
        while True:
            async with unit(adapter) as one:
                try:
                    await one.execute(increment)
                    await one.commit()
                except StoreContention:
                    await asyncio.sleep(0)
                else:
                    return

    await asyncio.gather(*(work() for _ in range(16)))
    assert peer.documents(STORED) == [{"_id": 1, "n": 16}]
    assert peer.transactions == 0


async def test_a_cancelled_call_leaves_no_transaction(adapter, peer):
    async with unit(adapter) as one:
        await one.execute(await insert(adapter, {"_id": 1}))
        peer.fail("insert", delay=0.3)
        call = asyncio.create_task(one.execute(await insert(adapter, {"_id": 2})))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await one.rollback()
        assert peer.transactions == 0
    await asyncio.sleep(0.4)
    assert peer.documents(STORED) == []


# What the server is


@pytest.mark.parametrize(
    ("hello", "has"),
    [
        ({"setName": "rs", "logicalSessionTimeoutMinutes": 30, "maxWireVersion": 7}, True),
        ({"setName": "rs", "logicalSessionTimeoutMinutes": 30, "maxWireVersion": 6}, False),
        ({"setName": "rs", "maxWireVersion": 25}, False),
        ({"msg": "isdbgrid", "logicalSessionTimeoutMinutes": 30, "maxWireVersion": 8}, True),
        ({"msg": "isdbgrid", "logicalSessionTimeoutMinutes": 30, "maxWireVersion": 7}, False),
        ({"logicalSessionTimeoutMinutes": 30, "maxWireVersion": 25}, False),
    ],
    ids=str,
)
def test_transactions_take_a_replica_set_or_a_cluster(hello, has):
    assert has_transactions(hello) is has


async def test_the_identity_is_the_set_and_the_database(adapter, peer):
    place = peer.url.removeprefix("mongodb://").split("/")[0]
    assert adapter.capabilities.identity == f"mongodb:peer@{place}/db"
    assert adapter.capabilities.holds
