"""What reads foreign bytes or text refuses it with an error of ours, whatever it is, and changes nothing."""

import asyncio
import sqlite3
import uuid
from contextlib import suppress

import cbor2
import pytest
from hypothesis import HealthCheck, Phase, example, find, given, settings
from hypothesis import strategies as st

from integration.memory_world import World, insert
from warehouse import AsyncWarehouse
from warehouse.errors import ConfigError, JournalUnavailable, WarehouseError
from warehouse.journal import codec, rows
from warehouse.journal.seal import Seal
from warehouse.records import ABSENT, Change, Entity

# What the journal has

CHANGE = Change(
    entity=Entity("things"),
    key={"id": 1},
    before=ABSENT,
    after={"id": 1, "text": "x" * 600, "n": 7},
    written=frozenset({"id", "text", "n"}),
)
KEPT = [Seal().close(rows.pack([CHANGE])), rows.pack([CHANGE]), codec.encode({"a": [1, {"b": None}]})]
TAGS = st.integers(codec._BASE, codec._BASE + 12) | st.just(codec._NAMED) | st.integers(0, 300)
ITEMS = st.recursive(
    st.none() | st.integers() | st.text(max_size=9) | st.binary(max_size=9) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.builds(cbor2.CBORTag, TAGS, inner)
    ),
)


@st.composite
def damaged(draw):
    """What was kept, cut off, or with some bytes changed."""
    kept = bytearray(draw(st.sampled_from(KEPT)))
    for place, byte in draw(
        st.lists(st.tuples(st.integers(0, len(kept) - 1), st.integers(0, 255)), max_size=4)
    ):
        kept[place] = byte
    return bytes(kept[: draw(st.integers(0, len(kept)))])


@given(st.binary(max_size=80) | damaged() | ITEMS.map(cbor2.dumps))
@example(b"\x01" + b"\x78\x01")
@example(b"\x81" * 100_000)
@example(b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff")
@example(cbor2.dumps(cbor2.CBORTag(codec._BASE + 5, ["2026-01-01T00:00:00", "Europe", 0])))
@example(cbor2.dumps(cbor2.CBORTag(codec._BASE + 4, 7)))
@settings(max_examples=3000, deadline=None)
def test_bytes_are_read_or_refused(data):
    try:
        changes, called = rows.unpack(Seal().open(data))
    except JournalUnavailable as error:
        assert "damaged" in error.message or "encrypted" in error.message
    else:
        assert called is not None or all(isinstance(change, Change) for change in changes)


@pytest.mark.parametrize(
    "column", ["steps.body", "steps.entities", "transactions.detail", "transactions.tokens"]
)
@pytest.mark.parametrize("damage", [b"", b"\x01", b"\xff\xff", b"\x81\x01", b"\x63abc", None])
@pytest.mark.anyio
async def test_a_damaged_journal_stops_nothing_but_what_needs_it(tmp_path, column, damage):
    """One transaction cannot be read: it is named, others are recovered, and nothing is changed because of it."""
    async with World(journal=f"sqlite:///{tmp_path}/journal.db") as world:
        await world.fill("a", {"id": 1, "n": 0})
        for key in (1, 2):
            world.faults.fail("a.commit", JournalUnavailable("away"))
            world.faults.fail("journal.finish", JournalUnavailable("away"))
            world.faults.fail("journal.change_state", JournalUnavailable("away"))
            with pytest.raises(WarehouseError):
                await world.run(insert("a", {"id": 10 + key}), insert("p", {"id": 10 + key}))
        table, name = column.split(".")
        with sqlite3.connect(f"{tmp_path}/journal.db") as connection:
            first = connection.execute("SELECT id FROM warehouse_transactions ORDER BY started").fetchone()[0]
            where = "id" if table == "transactions" else "transaction_id"
            if damage is None:
                (old,) = connection.execute(
                    f"SELECT {name} FROM warehouse_{table} WHERE {where} = ?", [first]
                ).fetchone()
                damage = bytes(old)[:-1]
            connection.execute(f"UPDATE warehouse_{table} SET {name} = ? WHERE {where} = ?", [damage, first])
        before = world.everything()
        found = {item.transaction_id: item for item in await world.warehouse.recover()}
        others = [item for name, item in found.items() if name != first]
        assert [item.status for item in others] == ["completed"]
        if found[first].status is None:
            assert "damaged" in found[first].error
            assert first in found[first].error
        left = world.everything()
        for tag in before:
            assert left[tag].keys() >= before[tag].keys()
        for ask in (
            world.warehouse.show(first),
            world.warehouse.transactions(),
            world.warehouse.wait(first, 0),
        ):
            with suppress(WarehouseError):
                await ask


# What is written: operations and configurations

NAMES = "operation from data where id name set tag type entity adapter url after ref expect n a p 0".split()
OPERATORS = (
    "$eq $ne $in $nin $not $and $or $gt $regex $set $increment $push $unset $exists $now $nonsense".split()
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["things", "a", "p", "insert", "step_0.id", "memory://", "database", "step_9.x", "\x00", "id"]
    ),
    st.binary(max_size=3),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES + OPERATORS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = st.dictionaries(st.sampled_from(["id", "n", "name", "a.b", "", "$n", "ref"]), JSON, max_size=3)
OPERATION = st.fixed_dictionaries(
    {
        "operation": st.sampled_from("insert update upsert delete call nothing".split()),
        "from": st.fixed_dictionaries(
            {"tag": st.sampled_from(["a", "p", "x"]), "entity": st.sampled_from(["things", "", "t;--"])}
        ),
    },
    optional={
        **dict.fromkeys(("data", "where"), FIELDS | JSON | st.lists(FIELDS, max_size=2)),
        **dict.fromkeys(
            "expect returning after timeout max_retries allow_fail conflict_keys update_fields name".split(),
            JSON,
        ),
        "nonsense": JSON,
    },
)


@given(st.lists(OPERATION, max_size=3) | JSON)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_operations_run_or_are_refused(operations):
    async def main():
        async with World() as world:
            for tag in "ap":
                await world.fill(tag, {"id": 1, "n": 1})
            before = world.everything()
            ok = False
            try:
                ok = (await world.warehouse.transaction(operations, timeout=2)).ok
            except WarehouseError as error:
                assert str(error)
            if not ok:
                assert repr(world.everything()) == repr(before)
            assert await world.leftovers() == []

    asyncio.run(main())


@given(st.dictionaries(st.sampled_from([*NAMES, *OPERATORS]), JSON, max_size=3), st.sampled_from(["a", "p"]))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_reads_run_or_are_refused(where, tag):
    async def main():
        async with World() as world:
            await world.fill(tag, {"id": 1, "n": 1})
            try:
                found = await world.warehouse.find(
                    {"type": "database", "tag": tag, "entity": "things"}, where=where
                )
            except WarehouseError as error:
                assert str(error)
            else:
                assert found in ([], [{"id": 1, "n": 1}])

    asyncio.run(main())


SETTINGS = {
    "adapters": st.dictionaries(
        st.sampled_from(["a", "b", "", "a b"]),
        JSON
        | st.dictionaries(
            st.sampled_from(["adapter", "url", "options", "entities", "host"]), JSON, max_size=4
        )
        | st.fixed_dictionaries(
            {"adapter": st.sampled_from("memory sql mongo neo4j qdrant none".split())},
            optional={
                "url": st.text(max_size=9) | st.sampled_from(["sqlite://", "postgresql://", "bolt://"])
            },
        ),
        max_size=2,
    ),
    "journal": st.dictionaries(
        st.sampled_from("url lease retention key recover image_retention x".split()),
        JSON | st.sampled_from(["memory://", "sqlite://", "redis://", "sqlite:///", "://", "mysql://:x@/"]),
        max_size=3,
    ),
    "transactions": st.dictionaries(
        st.sampled_from("timeout lock_timeout grace max_records pattern x".split()), JSON, max_size=3
    ),
}


@given(st.fixed_dictionaries({}, optional=SETTINGS) | st.dictionaries(st.sampled_from([*SETTINGS]), JSON))
@settings(max_examples=1500, deadline=None)
def test_a_configuration_is_taken_or_refused(given_settings):
    try:
        AsyncWarehouse.from_config(given_settings)
    except ConfigError as error:
        assert str(error)


@given(
    st.text(max_size=60)
    | st.sampled_from(["[journal]\nurl = 1", "adapters = []", "[adapters.a]", "\x00", "a=1"])
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_is_taken_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("config") / f"{uuid.uuid4().hex}.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        AsyncWarehouse.from_config(path)
    except ConfigError as error:
        assert str(error)


def test_not_everything_is_refused():
    """The generator of operations reaches the stores."""

    async def completes(operation):
        async with World() as world:
            with suppress(WarehouseError):
                return (await world.run(operation)).ok
        return False

    enough = settings(max_examples=20_000, phases=[Phase.generate], database=None)
    find(OPERATION, lambda operation: asyncio.run(completes(operation)), settings=enough)
