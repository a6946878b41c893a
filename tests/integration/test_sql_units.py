"""SQL stores: transactions, time-outs, lost connections, what is described and what is said."""

import sys
import time
from decimal import Decimal
from uuid import uuid4

import anyio
import pytest

import servers
from integration.sql_stores import Store, everywhere, opened
from warehouse.adapter import Outcome
from warehouse.errors import (
    ConfigError,
    ConstraintViolated,
    InvalidOperation,
    StoreContention,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownEntity,
    UnknownField,
)
from warehouse.journal import codec
from warehouse.records import Entity
from warehouse_adapters.sql import SqlAdapter
from warehouse_adapters.sql.connections import Connections

pytestmark = pytest.mark.anyio
only_postgres = pytest.mark.parametrize("store", ["postgres"], indirect=True)
only_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
servers_only = pytest.mark.parametrize("store", ["postgres", "mariadb"], indirect=True)


@pytest.fixture
async def store(request, tmp_path):
    async with opened(request.param, request, tmp_path) as store:
        yield store


async def _table(store):
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t VALUES (1, 1)")


@everywhere
async def test_waiting_for_a_lock_ends_as_contention(store):
    await _table(store)
    request = await store.request("update", "t", where={"id": 1}, data={"n": 2})
    async with store.unit() as holder:
        await holder.execute(request)
        begun = time.monotonic()
        async with store.unit(1) as waiter:
            with pytest.raises(StoreContention) as caught:
                await waiter.execute(request)
            assert caught.value.__cause__ is not None
        assert 0.5 < time.monotonic() - begun < 4
        await holder.commit()
    assert await store.sql("SELECT n FROM t") == [(2,)]


@servers_only
async def test_deadlock_is_contention(store):
    await _table(store)
    await store.sql("INSERT INTO t VALUES (2, 2)")
    requests = [await store.request("update", "t", where={"id": key}, data={"n": 7}) for key in (1, 2)]
    failed = []

    async def one(first, second, ready, go):
        async with store.unit(20) as unit:
            await unit.execute(first)
            ready.set()
            await go.wait()
            try:
                await unit.execute(second, savepoint=True)
                await unit.commit()
            except StoreContention as error:
                failed.append(error)
                if store.kind == "mariadb":  # the deadlock has ended the transaction, savepoint and all
                    with pytest.raises(StoreError, match="rolled back"):
                        await unit.execute(first)

    a, b = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(one, *requests, a, b)
        group.start_soon(one, *reversed(requests), b, a)
    assert len(failed) == 1
    assert await store.sql("SELECT n FROM t") == [(7,), (7,)]


@everywhere
async def test_cancellation_leaves_nothing_open(store):
    await _table(store)
    request = await store.request("update", "t", where={"id": 1}, data={"n": 2})
    async with store.unit() as holder:
        await holder.execute(request)
        begun = time.monotonic()
        with anyio.move_on_after(0.3):
            async with store.unit(30) as waiter:
                await waiter.execute(request)
        assert time.monotonic() - begun < 3
    assert await store.find("t") == [{"id": 1, "n": 1}]
    changes = await store.do("update", "t", where={"id": 1}, data={"n": {"$increment": 1}})
    assert changes[0].after["n"] == 2


@everywhere
async def test_a_failed_unit_can_only_be_rolled_back(store):
    await _table(store)
    good = await store.request("insert", "t", records=[{"id": 2}])
    bad = await store.request("insert", "t", records=[{"id": 1}])
    async with store.unit() as unit:
        await unit.execute(good)
        with pytest.raises(ConstraintViolated) as caught:
            await unit.execute(bad)
        assert caught.value.constraint
        for call in (unit.execute(good), unit.commit()):
            with pytest.raises(StoreError, match="rolled back"):
                await call
        await unit.rollback()
        await unit.rollback()
    assert await store.sql("SELECT * FROM t") == [(1, 1)]


@everywhere
async def test_a_savepoint_keeps_the_unit(store):
    await _table(store)
    good = await store.request("insert", "t", records=[{"id": 2}])
    bad = await store.request("insert", "t", records=[{"id": 3}, {"id": 1}])
    async with store.unit() as unit:
        await unit.execute(good, savepoint=True)
        with pytest.raises(ConstraintViolated):
            await unit.execute(bad, savepoint=True)
        await unit.execute(await store.request("update", "t", where={"id": 2}, data={"n": 5}))
        await unit.commit()
    assert await store.sql("SELECT * FROM t ORDER BY id") == [(1, 1), (2, 5)]


async def _cut(store):
    """Close every connection but our own."""
    if store.kind == "postgres":
        await store.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return
    others = await store.sql(
        "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
    )
    await store.sql(*(f"KILL {number}" for (number,) in others))


@servers_only
async def test_a_connection_lost_in_commit_leaves_the_outcome_unknown(store):
    await _table(store)
    request = await store.request("update", "t", where={"id": 1}, data={"n": 2})
    async with store.unit() as unit:
        await unit.execute(request)
        await _cut(store)
        with pytest.raises(StoreOutcomeUnknown) as caught:
            await unit.commit()
        assert caught.value.outcome_unknown
        assert caught.value.__cause__ is not None
    assert await store.find("t") == [{"id": 1, "n": 1}]


@servers_only
async def test_a_lost_connection_is_unavailable_once(store):
    await _table(store)
    request = await store.request("update", "t", where={"id": 1}, data={"n": 2})
    async with store.unit() as one, store.unit() as two:
        await one.execute(request)
        await two.read(await store.info("t"), [{"id": 9}])
    await _cut(store)
    with pytest.raises(StoreUnavailable):
        await store.find("t")
    assert await store.find("t") == [{"id": 1, "n": 1}]


async def test_a_server_that_is_not_there(tmp_path):
    for url in ("postgresql://u:hidden@127.0.0.1:1/x", "mysql://u:hidden@127.0.0.1:1/x"):
        adapter = SqlAdapter(SqlAdapter.Settings(adapter="sql", url=url))
        with pytest.raises(StoreUnavailable) as caught:
            await adapter.connect()
        assert "hidden" not in str(caught.value)
        assert "hidden" not in repr(adapter._settings)
        await adapter.close()
    adapter = SqlAdapter(SqlAdapter.Settings(adapter="sql", url=f"sqlite:///{tmp_path}/no/file.db"))
    with pytest.raises(ConfigError, match="no folder"):
        await adapter.connect()


@pytest.mark.parametrize(
    "url", ["oracle://u:hidden@h/x", "no url, hidden", "postgresql+asyncpg://u:hidden@h/x"]
)
async def test_a_url_that_is_none(url):
    with pytest.raises(ConfigError) as caught:
        SqlAdapter(SqlAdapter.Settings(adapter="sql", url=url))
    assert "hidden" not in str(caught.value)


@only_postgres
async def test_what_fails_at_commit_is_a_violation(store):
    await store.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int CONSTRAINT once UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    await store.do("insert", "t", records=[{"id": 1, "n": 1}])
    request = await store.request("insert", "t", records=[{"id": 2, "n": 1}])
    async with store.unit() as unit:
        await unit.execute(request)
        with pytest.raises(ConstraintViolated) as caught:
            await unit.commit()
    assert caught.value.constraint == "once"


@only_postgres
async def test_postgres_can_be_asked_for_the_outcome(store):
    await _table(store)
    assert store.adapter.capabilities.asks
    request = await store.request("update", "t", where={"id": 1}, data={"n": 2})
    async with store.unit() as unit:
        assert unit.token is None
        await unit.execute(request)
        first = unit.token
        assert await store.adapter.outcome(first) is Outcome.OPEN
        await unit.commit()
    async with store.unit() as unit:
        await unit.execute(request)
        second = unit.token
    assert await store.adapter.outcome(first) is Outcome.COMMITTED
    assert await store.adapter.outcome(second) is Outcome.ROLLED_BACK


@everywhere
async def test_describe(store):
    await store.sql(
        "CREATE TABLE customers (a varchar(9) NOT NULL, b int NOT NULL DEFAULT 1, c int, d int NOT NULL,"
        " UNIQUE (a), UNIQUE (c, d))",
        "CREATE VIEW seen AS SELECT a FROM customers",
        "CREATE TABLE loose (a int)",
    )
    info = await store.info("customers")
    assert info.key == ("a",)
    assert info.unique == (("c", "d"),)
    assert info.fields == {"a", "b", "c", "d"}
    assert info.required == {"a", "d"}
    assert (await store.info("loose")).key == ()
    with pytest.raises(InvalidOperation, match="nothing identifies"):
        await store.request("insert", "loose", records=[{"a": 1}])
    with pytest.raises(UnknownEntity, match="did you mean 'customers'"):
        await store.info("custmers")
    with pytest.raises(UnknownEntity, match="view"):
        await store.info("seen")
    with pytest.raises(UnknownEntity):
        await store.adapter.describe(Entity("customers", "relationship"))
    with pytest.raises(UnknownField, match="did you mean"):
        await store.find("customers", {"aa": 1}, order_by=("bb",))
    await store.sql("ALTER TABLE customers ADD COLUMN e int")
    assert "e" not in (await store.info("customers")).fields
    assert "e" in (await store.info("customers", fresh=True)).fields


@everywhere
async def test_describe_with_a_configured_key(store):
    await store.sql("CREATE TABLE loose (a int, b int)")
    for key, error in [(("a", "b"), None), (("aa",), ConfigError)]:
        adapter = store.again(entities={"loose": {"key": key}})
        await adapter.connect()
        try:
            if error is None:
                assert (await adapter.describe(Entity("loose"))).key == key
            else:
                with pytest.raises(error, match="'aa'"):
                    await adapter.describe(Entity("loose"))
        finally:
            await adapter.close()


@only_postgres
async def test_describe_a_table_of_a_schema_and_partial_indexes(store):
    await store.sql(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.t (id int PRIMARY KEY, a int, b int, c int)",
        "CREATE UNIQUE INDEX ON shop.t (a) WHERE b > 1",
        "CREATE UNIQUE INDEX ON shop.t ((b + 1))",
        "CREATE UNIQUE INDEX ON shop.t (c)",
        "CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES shop.t ON DELETE CASCADE)",
    )
    info = await store.info("shop.t")
    assert (info.entity.name, info.key, info.unique) == ("shop.t", ("id",), (("c",),))
    assert (await store.info("public.u")).entity.name == "u"
    await store.do("insert", "shop.t", records=[{"id": 1}])
    await store.do("insert", "u", records=[{"id": 2, "t": 1}])
    changes = await store.do("delete", "shop.t", where={"id": 1})
    assert [str(change.entity) for change in changes] == ["u", "shop.t"]
    assert await store.undo(changes) == ["applied", "applied"]


@everywhere
async def test_identity_is_that_of_the_database(store, request, tmp_path):
    other = store.again()
    await other.connect()
    await other.close()
    assert other.capabilities.identity == store.adapter.capabilities.identity
    async with opened(store.kind, request, tmp_path) as stranger:
        assert stranger.adapter.capabilities.identity != store.adapter.capabilities.identity


@servers_only
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_connection_lost_while_it_connects_changes_nothing_that_it_finds_out(store, nth, monkeypatch):
    """Under another identity it would not meet the locks of those who connected before."""
    asked = []

    async def lose(self, sql):
        asked.append(sql.text)
        if len(asked) == nth:
            raise StoreUnavailable("gone")
        return await once(self, sql)

    once = Connections.once
    other = store.again()
    monkeypatch.setattr(Connections, "once", lose)
    with pytest.raises(StoreUnavailable):
        await other.connect()
    await other.close()
    await other.connect()
    await other.close()
    assert other.capabilities == store.adapter.capabilities


async def test_a_database_in_memory():
    store = Store("sqlite", "sqlite+aiosqlite://")
    await store.adapter.connect()
    try:
        async with store.adapter._pool._engine.connect() as connection:
            await connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n int)")
        await store.do("insert", "t", records=[{"id": 1, "n": 1}])
        assert await store.find("t") == [{"id": 1, "n": 1}]
        other = Store("sqlite", "sqlite+aiosqlite:///:memory:")
        await other.adapter.connect()
        assert other.adapter.capabilities.identity != store.adapter.capabilities.identity
        await other.adapter.close()
        await other.engine.dispose()
    finally:
        await store.adapter.close()
        await store.engine.dispose()


POSTGRES = {
    "interval": ["1 mon 2 days", "1 year", "3 days 04:05:06.789", "-1 days"],
    "timestamp": ["infinity", "2024-02-29 01:02:03.456789", "0044-03-15 00:00:00 BC"],
    "timestamptz": ["-infinity", "2024-02-29 01:02:03.4+02"],
    "date": ["infinity", "0001-01-01", "12000-01-01"],
    "numeric": ["0.10", "NaN", "1e-30", "12345678901234567890.12345678901234567890"],
    "real": ["0.1", "16777216", "NaN", "Infinity"],
    "double precision": ["0.1", "1e308", "-Infinity"],
    "int4range": ["[1,5)", "empty"],
    "tstzrange": ["[2024-01-01,)"],
    "inet": ["10.0.0.1/8"],
    "cidr": ["10.0.0.0/8"],
    "bytea": ["\\x00ff"],
    "time": ["24:00:00", "01:02:03.4"],
    "timetz": ["01:02:03+02"],
    "money": ["12.34"],
    "bit varying": ["0101"],
    "point": ["(1,2)"],
    "uuid": [str(uuid4())],
    "jsonb": ['{"a": [1, null]}'],
    "text[]": ['{a,NULL,"b c"}', "{}"],
    "interval[]": ['{"1 mon","1 day"}'],
    "char(4)": ["a"],
    "xml": ["<a/>"],
}


@only_postgres
async def test_every_type_is_written_back_as_it_was(store):
    """Read, journaled, deleted and written again, each value is the same for PostgreSQL."""
    values = [(kind, value) for kind, several in POSTGRES.items() for value in several]
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(values))
    row = ", ".join("'" + value.replace("'", "''") + "'" for _, value in values)
    await store.sql(f"CREATE TABLE t (id int PRIMARY KEY, {columns})", f"INSERT INTO t VALUES (1, {row})")
    before = await store.sql("SELECT t::text FROM t")
    changes = await store.do("delete", "t", where={"id": 1})
    image = codec.decode(codec.encode(changes[0].before))
    assert image == changes[0].before or "nan" in repr(image).lower()
    assert isinstance(image["c9"], Decimal | str)
    assert await store.undo(changes) == ["applied"]
    assert await store.sql("SELECT t::text FROM t") == before
    (changed,) = await store.do("update", "t", where={"id": 1}, data={"c0": "2 mons"})
    assert await store.undo([changed]) == ["applied"]


async def test_mariadb_types_are_written_back_as_they_were(request, tmp_path):
    async with opened("mariadb", request, tmp_path) as store:
        await store.sql(
            "CREATE TABLE t (id int PRIMARY KEY, f float, d double, n decimal(30, 20), b varbinary(9),"
            " t time(6), y year, dt datetime(6), ts timestamp(6) NULL, u bigint unsigned, s set('a','b'),"
            " bits bit(9), j json)",
            "INSERT INTO t VALUES (1, 16777217, 0.1, 0.10000000000000000001, x'00ff27', '-25:00:00.5', 2024,"
            " '2024-02-29 01:02:03.456789', '2024-02-29 01:02:03', 18446744073709551615, 'a,b', b'101',"
            """ '{"a": [1, "x"]}')""",
        )
        before = await store.sql("SELECT *, f + 0e0, hex(b), bits + 0 FROM t")
        changes = await store.do("delete", "t", where={"id": 1})
        assert codec.decode(codec.encode(changes[0].before)) == changes[0].before
        assert changes[0].before["j"] == {"a": [1, "x"]}
        assert await store.undo(changes) == ["applied"]
        assert await store.sql("SELECT *, f + 0e0, hex(b), bits + 0 FROM t") == before


@only_sqlite
async def test_sqlite_units_wait_for_each_other(store):
    await _table(store)
    request = await store.request("update", "t", where={"id": 1}, data={"n": {"$increment": 1}})

    async def one():
        async with store.unit(20) as unit:
            await unit.execute(request)
            await anyio.sleep(0.01)
            await unit.commit()

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)
    assert await store.sql("SELECT n FROM t") == [(21,)]


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [("postgresql://h/x", "psycopg", "postgres"), ("mysql://h/x", "asyncmy", "mysql")],
)
async def test_a_missing_driver_names_the_extra(monkeypatch, url, driver, extra):
    monkeypatch.setitem(sys.modules, driver, None)
    adapter = SqlAdapter(SqlAdapter.Settings(adapter="sql", url=url))
    with pytest.raises(ConfigError, match=rf"pip install 'warehouse\[{extra}\]'"):
        await adapter.connect()
    await adapter.close()


@everywhere
async def test_cancelled_anywhere_nothing_is_half_done(store):
    """Units cut off at any moment: each has both rows or none, and no connection keeps a transaction."""
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, pair int)")
    info = await store.info("t")
    done = set()

    async def pair(number, seconds):
        records = [{"id": 2 * number, "pair": number}, {"id": 2 * number + 1, "pair": number}]
        with anyio.move_on_after(seconds):
            async with store.unit(5) as unit:
                for record in records:
                    await unit.execute(await store.request("insert", "t", records=[record]))
                await unit.commit()
                done.add(number)

    for round_ in range(6):
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(pair, round_ * 10 + number, number * 0.006)
    rows = await store.sql("SELECT pair, count(*) FROM t GROUP BY pair")
    assert {count for _, count in rows} <= {2}
    assert done <= {number for number, _ in rows}
    assert 0 < len(done) < 60
    async with store.unit() as unit:
        assert len(await unit.read(info, [{"id": number} for number in range(120)])) == 120
        await unit.commit()
    await store.do("delete", "t", where={"id": {"$gte": 0}})


@everywhere
async def test_a_connection_that_was_waited_for_serves_as_any_other(store):
    """One that comes back while others wait is handed to them by the pool."""
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, pair int)")
    info = await store.info("t")
    await store.do("insert", "t", records=[{"id": number, "pair": number} for number in range(100)])
    found = []

    async def read():
        async with store.unit(20) as unit:
            found.append(len(await unit.read(info, [{"id": number} for number in range(100)])))
            await unit.commit()

    async with anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(read)
    assert found == [100] * 60


async def test_what_a_crash_took_back_is_not_taken_for_committed():
    """PostgreSQL gives the id of a transaction that left nothing on its disk to another one after a crash."""
    server = servers.start("postgres", private=True)
    store = Store("postgres", server.url)
    try:
        await store.sql("ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()")
        await _table(store)
        await store.adapter.connect()
        async with store.unit() as unit:
            await unit.execute(await store.request("update", "t", where={"id": 1}, data={"n": 2}))
            token = unit.token
            assert await store.adapter.outcome(token) is Outcome.OPEN
            server.kill()
        server.start()
        await store.engine.dispose()
        await store.adapter.close()
        store.adapter = store.again()
        await store.adapter.connect()
        for number in range(50):  # until the id has been given again
            await store.sql(f"INSERT INTO t VALUES ({number + 10}, 0)")
            found = await store.adapter.outcome(token)
            assert found in {Outcome.ROLLED_BACK, Outcome.UNKNOWN}
        assert found is Outcome.UNKNOWN  # what has its id now did commit
        assert await store.sql("SELECT n FROM t WHERE id = 1") == [(1,)]
    finally:
        await store.adapter.close()
        await store.engine.dispose()
        server.remove()
