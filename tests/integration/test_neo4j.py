"""Nodes: keys and constraints, values in and out, names, errors, and lost connections."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import pytz
from neo4j.spatial import CartesianPoint, Point, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time

import servers
from integration import arcadedb_peer
from integration.neo4j_kit import STORES, Kit, kit_of
from warehouse import conditions, updates
from warehouse.adapter import Query, Request, UnitSettings
from warehouse.errors import (
    ConfigError,
    ConstraintViolated,
    InvalidOperation,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from warehouse.journal import codec
from warehouse.records import same
from warehouse_adapters.neo4j import Neo4jAdapter
from warehouse_adapters.neo4j.schema import ELEMENT_ID

pytestmark = pytest.mark.anyio
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(params=STORES)
async def kit(request):
    async with kit_of(request, keys={"Configured": ("code",)}) as kit:
        kit.unique("User")
        yield kit


# Keys


async def test_the_key_is_a_constraint(kit):
    kit.unique("User", "email")
    info = await kit.info("User")
    assert (info.key, info.unique, info.fields) == (("id",), (("email",),), None)
    if kit.is_neo4j:
        kit.run("CREATE CONSTRAINT two FOR (n:Two) REQUIRE (n.a, n.b) IS UNIQUE")
        info = await kit.info("Two")
        assert info.key == ("a", "b")
        (change,) = await kit.do(await kit.insert(info, {"a": 1, "b": 2, "c": 3}))
        assert change.key == {"a": 1, "b": 2}
        with pytest.raises(ConstraintViolated) as caught:
            await kit.do(await kit.insert(info, {"a": 1, "b": 2}))
        assert caught.value.constraint == "two"
        (change,) = await kit.do(await kit.upsert(info, {"a": 1, "b": 2, "c": 4}))
        assert (change.action, change.written) == ("updated", {"c"})


async def test_a_label_without_key_keeps_element_ids(kit):
    info = await kit.info(f"Free{uuid4().hex}")
    assert info.key == ()
    (change,) = await kit.do(await kit.insert(info, {"x": 1}))
    assert list(change.key) == [ELEMENT_ID]
    (update,) = await kit.do(await kit.update(info, {"x": 1}, {"x": 2}))
    assert update.key == change.key
    with pytest.raises(InvalidOperation, match="conflict_keys"):
        await kit.upsert(info, {"x": 1}, by=("x",))


async def test_a_configured_key_is_looked_up(kit):
    info = await kit.info("Configured")
    assert info.key == ("code",)
    await kit.do(await kit.insert(info, {"code": "a"}))
    for records in ([{"code": "a"}], [{"code": "b"}, {"code": "b"}]):
        with pytest.raises(ConstraintViolated):
            await kit.do(await kit.insert(info, *records))
    with pytest.raises(InvalidOperation, match="uniqueness constraint"):
        await kit.upsert(info, {"code": "a"})
    kit.run("CREATE (:Configured {code: 'a'})")
    async with kit.unit() as unit:
        with pytest.raises(StoreError, match="several"):
            await unit.read(info, [{"code": "a"}])


async def test_the_key_must_be_given(kit):
    with pytest.raises(InvalidOperation) as caught:
        await kit.insert(await kit.info("User"), {"name": "nobody"})
    assert caught.value.field == "id"


async def test_upserts_of_one_list_build_on_each_other(kit):
    info = await kit.info("User")
    changes = await kit.do(await kit.upsert(info, {"id": 1, "a": 1}, {"id": 1, "b": 2}, {"id": 1, "a": 3}))
    assert [change.action for change in changes] == ["inserted", "updated", "updated"]
    assert [change.before for change in changes[1:]] == [change.after for change in changes[:-1]]
    assert await kit.find(info) == [{"id": 1, "a": 3, "b": 2}]


# Values

VALUES = {
    "bool": True,
    "big": 2**63 - 1,
    "float": 0.1,
    "nan": math.nan,
    "infinite": -math.inf,
    "text": "ä😀`'\"\\",
    "bytes": b"\x00\xff",
    "date": date(2020, 2, 29),
    "naive": datetime(2020, 2, 3, 4, 5, 6, 789012),
    "utc": datetime(2020, 2, 3, 4, 5, 6, 789012, tzinfo=UTC),
    "summer": datetime(2020, 7, 3, 4, 5, 6, tzinfo=BERLIN),
    "winter": datetime(2020, 1, 3, 4, 5, 6, tzinfo=BERLIN),
    "first 2:30": datetime(2020, 10, 25, 2, 30, tzinfo=BERLIN),
    "second 2:30": datetime(2020, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    "nanoseconds": DateTime(2020, 1, 1, 1, 1, 1, 123456789),
    "time": time(1, 2, 3, 4),
    "zoned time": time(1, 2, 3, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    "exact time": Time(1, 2, 3, 123456789),
    "duration": Duration(months=1, days=-2, seconds=3, nanoseconds=4),
    "point": CartesianPoint((1.5, 2.0)),
    "place": WGS84Point((1.5, 2.0, 3.0)),
    "ints": [1, 2],
    "texts": ["a", ""],
    "empty": [],
    "dates": [date(2020, 1, 1)],
    "moments": [datetime(2020, 7, 3, tzinfo=BERLIN)],
    "points": [CartesianPoint((1.0, 2.0))],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_values_come_back_as_they_were(kit, value):
    info = await kit.info("User")
    (change,) = await kit.do(await kit.insert(info, {"id": 1, "value": value}))
    assert same(change.after["value"], value)
    assert getattr(change.after["value"], "tzinfo", None) == getattr(value, "tzinfo", None)
    assert same((await kit.find(info))[0], change.after)
    decoded = codec.decode(codec.encode(change.after))
    assert same(decoded, change.after)
    assert type(decoded["value"]) is type(change.after["value"])
    (gone,) = await kit.do(await kit.delete(info, {"id": 1}))
    await kit.undo([gone])
    assert same((await kit.find(info))[0], change.after)


async def test_offsets(kit):
    """ArcadeDB keeps none: there the same moment is kept in UTC."""
    info = await kit.info("User")
    moment = datetime(2020, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    (change,) = await kit.do(await kit.insert(info, {"id": 1, "value": moment}))
    assert change.after["value"] == moment
    assert change.after["value"].utcoffset() == (moment.utcoffset() if kit.is_neo4j else timedelta(0))
    assert same((await kit.find(info))[0], change.after)


async def test_a_timedelta_becomes_a_duration(kit):
    info = await kit.info("User")
    given = timedelta(days=1, seconds=5, microseconds=7)
    (change,) = await kit.do(await kit.insert(info, {"id": 1, "value": given}))
    assert change.after["value"] == Duration(days=1, seconds=5, microseconds=7)
    assert len(await kit.find(info, {"value": given})) == 1


@pytest.mark.parametrize(
    "value",
    [
        Date(2020, 1, 2),
        Time(1, 2, 3, 4, pytz.FixedOffset(60)),
        DateTime(2020, 1, 1, 1, 1, 1, 5, tzinfo=pytz.FixedOffset(-90)),
        pytz.timezone("Europe/Berlin").localize(DateTime(2020, 10, 25, 2, 30, 0, 5), is_dst=True),
        pytz.timezone("Europe/Berlin").localize(DateTime(2020, 10, 25, 2, 30, 0, 5), is_dst=False),
        Duration(months=-14, days=3, seconds=-5, nanoseconds=-7),
        CartesianPoint((1, 2, 3)),
        WGS84Point((1, 2)),
        Point((1, 2)),
    ],
)
async def test_the_journal_keeps_the_driver_s_types(value):
    decoded = codec.decode(codec.encode(value))
    assert type(decoded) is type(value)
    assert decoded == value
    if isinstance(value, DateTime | Time):
        assert decoded.utc_offset() == value.utc_offset()
        assert decoded.tzinfo == value.tzinfo


REFUSED = {
    "decimal": Decimal("1.5"),
    "mapping": {"a": 1},
    "uuid": uuid4(),
    "set": {1},
    "beyond 64 bits": 2**63,
    "null in a list": [1, None],
    "mixed": [1, "a"],
    "mixed numbers": [1, 2.5],
    "nested": [[1]],
    "bytes in a list": [b"a"],
    "seconds in an offset": datetime(2020, 1, 1, tzinfo=timezone(timedelta(seconds=90))),
    "a time in a zone": time(1, 2, tzinfo=BERLIN),
    "a DateTime in a ZoneInfo": DateTime(2020, 1, 1, tzinfo=BERLIN),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_kept_is_refused_before(kit, value):
    info = await kit.info("User")
    with pytest.raises(InvalidOperation) as caught:
        await kit.insert(info, {"id": 1, "value": value})
    assert caught.value.field == "value"
    literal = {"$set": {"value": {"$literal": value}}}
    with pytest.raises(InvalidOperation):
        await kit.update(info, {"id": 1}, literal)
    async with kit.unit() as unit:  # as where a reference gave it
        with pytest.raises(StoreError) as late:
            await unit.execute(
                Request(step="s", operation="insert", info=info, records=({"id": 1, "v": value},))
            )
    assert late.value.field == "v"


async def test_moments_compare_by_their_moment(kit):
    """Cypher tells equal moments in different zones apart."""
    info = await kit.info("User")
    moment = datetime(2020, 7, 3, 4, 5, 6, tzinfo=BERLIN)
    await kit.do(await kit.insert(info, {"id": 1, "at": moment}, {"id": 2}))
    same_moment = moment.astimezone(UTC)
    second = timedelta(seconds=1)
    for where, ids in (
        ({"at": same_moment}, [1]),
        ({"at": {"$ne": same_moment}}, [2]),
        ({"at": {"$gte": same_moment, "$lte": same_moment}}, [1]),
        ({"at": {"$gt": same_moment}}, []),
        ({"at": {"$lt": same_moment + second}}, [1]),
        ({"at": {"$in": [same_moment, None]}}, [1, 2]),
    ):
        assert [record["id"] for record in await kit.find(info, where, order_by=("id",))] == ids, where
        (step,) = [await kit.do(await kit.update(info, where, {"seen": True}))]
        assert sorted(change.key["id"] for change in step) == ids


async def test_a_number_keeps_its_kind_where_an_index_finds_it_by_another(kit):
    """The planner takes the operand for the property's value where an index has compared them."""
    info = await kit.info("User")
    if kit.is_neo4j:
        kit.run("CREATE INDEX user_n IF NOT EXISTS FOR (n:User) ON (n.n)")
        kit.run("CALL db.awaitIndexes()")
    await kit.do(await kit.insert(info, {"id": 1, "n": 1.0}, {"id": 2, "n": 2}))
    for where, number in (({"n": 1}, 1.0), ({"n": 2.0}, 2), ({"n": {"$in": [2.0, 7]}}, 2)):
        async with kit.unit() as unit:
            inside = await unit.find(Query(info=info, where=conditions.parse(where)))
        for (record,) in (await kit.find(info, where), inside):
            assert (record["n"], type(record["n"])) == (number, type(number))
    if kit.is_neo4j:
        kit.run("DROP INDEX user_n IF EXISTS")


# Names


async def test_names_are_quoted(kit):
    label, field = "My `Label`", "a `b` :c"
    info = await kit.info(label)
    injected = "x`}) DETACH DELETE n //"
    await kit.do(await kit.insert(info, {field: 1, injected: 2}))
    await kit.do(await kit.update(info, {field: 1, injected: {"$gt": 1}}, {field: {"$increment": 1}}))
    assert await kit.find(info) == [{field: 2, injected: 2}]


@pytest.mark.parametrize("name", ["", "a.b", "a\\u0060b", "a\nb", "$a"])
async def test_names_that_cannot_be_are_refused(kit, name):
    info = await kit.info("User")
    with pytest.raises(InvalidOperation):
        await kit.insert(info, {"id": 1, name: 1})
    with pytest.raises(InvalidOperation):
        kit.adapter.check(
            Request(
                step="s", operation="update", info=info, assignments=(updates.Assignment(name, "$set", 1),)
            )
        )


async def test_values_cannot_be_statements(kit):
    info = await kit.info("User")
    evil = "' OR 1=1 // `"
    await kit.do(await kit.insert(info, {"id": 1, "name": evil}, {"id": 2, "name": "b"}))
    assert [record["id"] for record in await kit.find(info, {"name": {"$contains": evil}})] == [1]


# Errors


async def test_errors_name_the_constraint(kit):
    info = await kit.info("User")
    await kit.do(await kit.insert(info, {"id": 1}, {"id": 2}))
    request = Request(
        step="s",
        operation="update",
        info=info,
        assignments=(updates.Assignment("id", "$set", 1),),
    )
    with pytest.raises(ConstraintViolated) as caught:
        await kit.do(request)
    assert caught.value.constraint == "User_id"


async def test_an_overflow_is_an_error_of_the_store(kit):
    info = await kit.info("User")
    await kit.do(await kit.insert(info, {"id": 1, "n": 2**63 - 1}))
    with pytest.raises(StoreError):
        await kit.do(await kit.update(info, {"id": 1}, {"n": {"$increment": 1}}))


async def test_nothing_answers():
    kit = Kit.of("bolt://127.0.0.1:1")
    with pytest.raises(StoreUnavailable) as caught:
        await kit.adapter.connect()
    assert caught.value.__cause__ is not None
    await kit.adapter.close()


async def test_wrong_settings():
    for settings in ({"url": "ftp://x"}, {"url": "bolt://x", "options": {"no_such_option": 1}}):
        with pytest.raises(ConfigError):
            await Kit.of(**settings).adapter.connect()


async def test_a_wrong_password_is_not_told():
    kit = Kit.of(arcadedb_peer.start().url, ("root", "s3cr3t"))
    with pytest.raises(ConfigError) as caught:
        await kit.adapter.connect()
    assert "s3cr3t" not in f"{caught.value!r} {caught.value} {kit.adapter!r} {kit.adapter._settings!r}"


async def test_the_same_database_has_the_same_identity(neo4j_server):
    host = neo4j_server.url.partition("://")[2]
    identities = set()
    for settings in ({"url": neo4j_server.url}, {"url": f"neo4j://{host}", "database": "neo4j"}):
        kit = Kit.of(**settings)
        await kit.adapter.connect()
        identities.add(kit.adapter.capabilities.identity)
        await kit.adapter.close()
    assert len(identities) == 1


# The driver leaves a socket to the garbage collector where it is cancelled while it connects.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_cancelled_calls_give_their_connections_back(kit):
    async with Kit.of(kit.url, kit.auth, pool_size=2) as small:
        small.unique("User")
        info = await small.info("User")
        for number in range(20):
            async with small.unit() as unit:
                call = asyncio.create_task(unit.execute(await small.insert(info, {"id": number})))
                await asyncio.sleep(number / 4000)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
        await small.do(await small.insert(info, {"id": 1}))
        assert len(await small.find(info)) == 1


@pytest.fixture
def private():
    server = servers.start("neo4j", private=True)
    yield server
    server.remove()


async def test_a_server_that_dies(private):
    """Before the commit it is unavailable; in the commit nobody knows. What was acknowledged stays."""
    async with Kit.of(private.url) as kit:
        kit.unique("User")
        info = await kit.info("User")
        await kit.do(await kit.insert(info, {"id": 1}))
        async with kit.unit() as working, kit.unit() as committing:
            await working.execute(await kit.insert(info, {"id": 2}))
            await committing.execute(await kit.insert(info, {"id": 3}))
            private.kill()
            with pytest.raises(StoreUnavailable):
                await working.execute(await kit.insert(info, {"id": 4}))
            with pytest.raises(StoreOutcomeUnknown) as caught:
                await committing.commit()
            assert caught.value.__cause__ is not None
        with pytest.raises(StoreUnavailable):
            await kit.find(info)
        private.start()
        assert await kit.find(info) == [{"id": 1}]


async def test_arcadedb_keeps_what_it_acknowledged():
    server = arcadedb_peer.process()
    server.start()
    try:
        async with Kit.of(server.url, (arcadedb_peer.USER, arcadedb_peer.PASSWORD)) as kit:
            kit.unique("User")
            info = await kit.info("User")
            await kit.do(await kit.insert(info, *({"id": number} for number in range(50))))
            server.kill()
            server.start()
            with pytest.raises(StoreUnavailable):
                await kit.find(info)  # by a connection of the pool, now dead
            assert len(await kit.find(info)) == 50
    finally:
        server.remove()


def test_a_unit_needs_a_connection():
    adapter = Neo4jAdapter(Neo4jAdapter.Settings(adapter="neo4j", url="bolt://x"))
    with pytest.raises(RuntimeError):
        adapter.unit(UnitSettings(transaction_id="x"))
