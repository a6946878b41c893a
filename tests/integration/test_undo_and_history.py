"""Undo of completed transactions, the history of records, lists, and settling what failed."""

import asyncio
import sqlite3
from contextlib import ExitStack, closing
from decimal import Decimal

import pytest

from integration.memory_world import World, delete, insert, statuses, update, upsert
from integration.test_recovery import pause
from servers.places import database, emptied, schema_of
from warehouse import (
    AlreadyFinished,
    AsyncWarehouse,
    InvalidOperation,
    JournalUnavailable,
    TransactionConflict,
    UnknownTransaction,
)
from warehouse.config import JournalSettings
from warehouse.engine.housekeeping import Housekeeping
from warehouse.errors import ConstraintViolated, StoreContention
from warehouse.records import ABSENT

pytestmark = pytest.mark.anyio
FILLED = {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 0}}
ALL = [
    insert("a", {"id": 9, "n": Decimal("1.50")}),
    update("a", 1, {"n": {"$increment": 5}, "m": 7}),
    delete("p", 1),
    upsert("p", [{"id": 2, "n": 20}, {"id": 3, "n": 30}]),
    update("a", 1, {"n": {"$increment": 1}}),
    delete("a", 2),
]


async def filled(world):
    for tag in "ap":
        await world.fill(tag, *({"id": key, **fields} for key, fields in FILLED.items()))


@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_a_completed_transaction_is_undone_whole(pattern):
    async with World() as world:
        await filled(world)
        before = world.everything()
        done = await world.run(*ALL, pattern=pattern)
        assert done.ok
        undone = await world.warehouse.undo(done.transaction_id)
        assert (undone.status, undone.conflicts, undone.name) == (
            "completed",
            [],
            f"undo {done.transaction_id}",
        )
        assert world.everything() == before
        again = await world.warehouse.undo(done.transaction_id)
        assert (again.status, again.conflicts) == ("completed", [])
        assert world.everything() == before
        assert await world.leftovers() == []
        redone = await world.warehouse.undo(undone.transaction_id)
        assert redone.ok
        assert world.rows("a") == {1: {"n": 7, "m": 7}, 9: {"n": Decimal("1.50")}}
        assert world.rows("p") == {2: {"n": 20, "m": 0}, 3: {"n": 30}}


async def test_a_transaction_of_one_store_can_be_undone_too():
    async with World() as world:
        await filled(world)
        done = await world.run(update("a", 1, {"n": 100}), insert("a", {"id": 5}))
        assert not [call for call in world.faults.calls if call == "journal.decide"]
        assert (await world.warehouse.undo(done.transaction_id)).ok
        assert world.rows("a") == FILLED
        async with world.warehouse.begin("block") as tx:
            await tx.delete("database", "a", "things", {"id": 1})
        assert (await world.warehouse.undo(tx.result.transaction_id)).ok
        assert world.rows("a") == FILLED


CONFLICTS = [
    (update("p", 1, {"n": 5, "m": 5}), {"n": 77}, ("n", 5, 77), {"n": 77, "m": 0}, {"n": 1, "m": 0}),
    (delete("p", 1), {"n": 77, "m": 0}, ("n", 1, 77), {"n": 77, "m": 0}, {"n": 1, "m": 0}),
    (upsert("p", {"id": 1, "n": 5}), {"n": 77}, ("n", 5, 77), {"n": 77, "m": 0}, {"n": 1, "m": 0}),
    (update("p", 1, {"n": 5}), ABSENT, (None, {"id": 1, "n": 5, "m": 0}, None), None, {"n": 1, "m": 0}),
    (insert("p", {"id": 5, "n": 5}), {"n": 77}, ("n", 5, 77), {"n": 77}, None),
]


@pytest.mark.parametrize("case", CONFLICTS, ids=range(5))
@pytest.mark.parametrize("store", ["p", "a"])
async def test_what_somebody_changed_since(store, case):
    operation, foreign, conflict, skipped, forced = case
    operation = {**operation, "from": {"tag": store, "entity": "things"}}
    other = update("b", 1, {"n": 9})
    async with World() as world:
        await filled(world)
        await world.fill("b", {"id": 1, "n": 1})
        done = await world.run(operation, other)
        key = 5 if operation["operation"] == "insert" else 1
        await world.foreign(store, key, {"id": key, **foreign} if foreign is not ABSENT else ABSENT)
        was = world.everything()

        refused = await world.warehouse.undo(done.transaction_id)
        assert refused.status == "compensated"
        assert world.everything() == was
        (found,) = refused.conflicts
        assert (found.field, found.expected, found.found, found.key) == (*conflict, {"id": key})
        assert "on_conflict='skip'" in refused.error

        skipping = await world.warehouse.undo(done.transaction_id, on_conflict="skip")
        assert (skipping.status, len(skipping.conflicts)) == ("completed", 1)
        assert world.rows(store).get(key) == skipped
        assert world.rows("b") == {1: {"n": 1}}

        forcing = await world.warehouse.undo(done.transaction_id, on_conflict="force")
        assert (forcing.status, len(forcing.conflicts)) == ("completed", 1)
        assert world.rows(store).get(key) == forced
        assert await world.leftovers() == []


async def test_undo_waits_for_who_has_the_record_and_stages_again():
    async with World() as world:
        await filled(world)
        done = await world.run(update("p", 1, {"n": 5}), insert("a", {"id": 5}))
        paused, go = pause(world, "b.commit")
        other = asyncio.ensure_future(world.run(update("p", 1, {"m": 8}), insert("b", {"id": 1})))
        await paused.wait()
        undoing = asyncio.ensure_future(world.warehouse.undo(done.transaction_id))
        await asyncio.sleep(0.05)
        go.set()
        assert (await other).ok
        assert (await undoing).ok
        assert world.rows("p")[1] == {"n": 1, "m": 8}


async def test_undo_that_fails_half_way_leaves_nothing_of_itself():
    async with World() as world:
        await filled(world)
        done = await world.run(update("p", 1, {"n": 5}), update("q", 1, {"n": 1}), update("p", 2, {"n": 5}))
        after = world.everything()
        world.faults.fail("p.write", ConstraintViolated("no", constraint="c"), nth=2)
        undone = await world.warehouse.undo(done.transaction_id)
        assert undone.status == "compensated"
        assert world.everything() == after
        assert await world.leftovers() == []


async def test_what_cannot_be_undone_says_so():
    async with World(grace=0.2) as world:
        with pytest.raises(UnknownTransaction, match="nobody"):
            await world.warehouse.undo("nobody")
        with pytest.raises(InvalidOperation, match="did you mean 'refuse'"):
            await world.warehouse.undo("nobody", on_conflict="refuze")
        world.faults.fail("q.write", ConstraintViolated("no", constraint="c"))
        failed = await world.run(insert("p", {"id": 1}), insert("q", {"id": 1}))
        assert failed.status == "compensated"
        with pytest.raises(AlreadyFinished, match="nothing of it to undo"):
            await world.warehouse.undo(failed.transaction_id)
        done = await world.run(insert("p", {"id": 1}), insert("q", {"id": 1}))
        await world.journal.prune(finished=0, images=4e9)
        with pytest.raises(UnknownTransaction, match="image_retention"):
            await world.warehouse.undo(done.transaction_id)


# History


async def test_the_history_of_a_record():
    async with World() as world:
        await filled(world)
        one = await world.run(update("a", 1, {"n": 5}), insert("p", {"id": 8}), name="first")
        two = await world.run(update("a", 1, {"n": 6}))
        three = await world.run(delete("a", 1), insert("a", {"id": 1, "n": 0}), update("p", 8, {"n": 1}))
        items = await world.warehouse.history({"tag": "a", "entity": "things"}, {"id": 1})
        assert [(item.transaction_id, item.step, item.action) for item in items] == [
            (three.transaction_id, "step_1", "inserted"),
            (three.transaction_id, "step_0", "deleted"),
            (two.transaction_id, "step_0", "updated"),
            (one.transaction_id, "step_0", "updated"),
        ]
        assert (items[-1].before["n"], items[-1].after["n"], items[-1].name) == (1, 5, "first")
        assert (items[0].before, items[1].after, items[0].tag) == (None, None, "a")
        assert items[0].at >= items[-1].at
        assert len(await world.warehouse.history({"tag": "a", "entity": "things"}, {"id": 1}, limit=1)) == 2
        assert await world.warehouse.history({"tag": "a", "entity": "things"}, {"id": 77}) == []
        with pytest.raises(InvalidOperation, match="the key of things is id, not name"):
            await world.warehouse.history({"tag": "a", "entity": "things"}, {"name": 1})


async def test_lists_and_one_of_them():
    async with World() as world:
        done = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}), name="both")
        world.faults.fail("q.write", ConstraintViolated("no", constraint="c"))
        undone = await world.run(insert("p", {"id": 2}), insert("q", {"id": 2}))
        alone = await world.run(insert("a", {"id": 5, "n": bytes(2)}))
        listed = await world.warehouse.transactions()
        assert [(item.transaction_id, item.status) for item in listed] == [
            (alone.transaction_id, "completed"),
            (undone.transaction_id, "compensated"),
            (done.transaction_id, "completed"),
        ]
        assert all(item.steps == [] for item in listed)
        (found,) = await world.warehouse.transactions(status="compensated")
        assert found.transaction_id == undone.transaction_id
        assert len(await world.warehouse.transactions(["completed", "failed"], limit=1)) == 1
        with pytest.raises(InvalidOperation, match="completed"):
            await world.warehouse.transactions(status="complete")
        shown = await world.warehouse.show(done.transaction_id)
        assert (shown.name, [step.name for step in shown.steps]) == ("both", ["step_0", "step_1"])
        assert shown.steps[0].changes[0].after == {"id": 1}
        assert shown.finished >= shown.started
        assert shown.started.tzinfo is not None
        assert "AA" in (await world.warehouse.show(alone.transaction_id)).model_dump_json()


async def test_a_history_that_cannot_be_kept_hurts_nobody():
    async with World() as world:
        world.faults.fail("journal.note", JournalUnavailable("full"))
        done = await world.run(insert("a", {"id": 1}))
        assert done.ok
        with pytest.raises(UnknownTransaction):
            await world.warehouse.show(done.transaction_id)
        await world.run(insert("a", {"id": 2}))
        assert len(await world.warehouse.transactions()) == 1


async def test_closing_writes_the_history_that_is_still_to_be_written():
    async with World() as world:
        world.faults.delay("journal.note", 0.05)
        done = await asyncio.gather(*(world.run(insert("a", {"id": number})) for number in range(20)))
        await world.warehouse.close()
        assert world.faults.calls.count("journal.note") < 5
        entries = await world.journal.entries()
        assert {entry.transaction_id for entry in entries} == {result.transaction_id for result in done}


# Settling


async def failed(world):
    """A transaction that could not be undone whole: somebody changed `n` of the first record."""
    await filled(world)
    await world.fill("b", {"id": 1, "n": 1})
    world.faults.after("p.write", lambda: world.foreign("p", 1, {"n": 77}))
    world.faults.fail("q.write", ConstraintViolated("no", constraint="c"))
    result = await world.run(
        update("p", 1, {"n": 5, "m": 5}), update("b", 1, {"n": 2}), insert("q", {"id": 1})
    )
    assert (result.status, statuses(result)) == ("failed", "fuf")
    assert world.rows("p")[1] == {"n": 77, "m": 0}
    return result.transaction_id


async def test_what_failed_is_retried_until_nobody_is_in_the_way():
    async with World() as world:
        name = await failed(world)
        assert [item.transaction_id for item in await world.warehouse.transactions("failed")] == [name]
        again = await world.warehouse.resolve(name, "retry")
        assert (len(again.conflicts), world.rows("p")[1]) == (1, {"n": 77, "m": 0})
        assert (await world.warehouse.show(name)).status == "failed"
        await world.foreign("p", 1, {"n": 5})
        assert (await world.warehouse.resolve(name, "retry")).conflicts == []
        shown = await world.warehouse.show(name)
        assert (shown.status, shown.resolved, world.rows("p")[1]) == (
            "compensated",
            "retry",
            {"n": 1, "m": 0},
        )
        with pytest.raises(AlreadyFinished, match="not failed, but compensated"):
            await world.warehouse.resolve(name, "retry")


async def test_what_failed_is_forced():
    async with World() as world:
        name = await failed(world)
        forced = await world.warehouse.resolve(name, "force")
        assert (forced.status, len(forced.conflicts), world.rows("p")[1]) == (
            "completed",
            1,
            {"n": 1, "m": 0},
        )
        assert (await world.warehouse.show(name)).status == "compensated"


async def test_what_failed_is_accepted():
    async with World() as world:
        name = await failed(world)
        accepted = await world.warehouse.resolve(name, "accept")
        assert (accepted.status, world.rows("p")[1]) == ("failed", {"n": 77, "m": 0})
        shown = await world.warehouse.show(name)
        assert (shown.status, shown.resolved, len(shown.residue)) == ("completed", "accept", 1)
        with pytest.raises(InvalidOperation, match="how is 'acept'"):
            await world.warehouse.resolve(name, "acept")


async def test_contention_is_no_end():
    async with World() as world:
        await filled(world)
        done = await world.run(update("a", 1, {"n": 5}), insert("p", {"id": 7}))
        world.faults.fail("a.read", StoreContention("locked"))
        assert (await world.warehouse.undo(done.transaction_id)).ok
        assert world.rows("a") == FILLED


async def test_what_ended_long_ago_is_removed(tmp_path):
    async with World(journal=f"sqlite:///{tmp_path}/journal.db") as world:
        settings = JournalSettings(retention=0.2, image_retention=0.1)
        keeping = Housekeeping(world.warehouse._engine.lease, settings)
        done = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        await keeping.prune()
        assert (await world.warehouse.show(done.transaction_id)).steps
        await asyncio.sleep(0.11)
        await keeping.prune()
        assert (await world.warehouse.show(done.transaction_id)).steps == []
        await asyncio.sleep(0.1)
        await keeping.prune()
        assert await world.warehouse.transactions() == []


async def test_an_open_warehouse_does_that_by_itself(monkeypatch):
    monkeypatch.setattr("warehouse.engine.housekeeping._OFTEN", 0.01)
    async with AsyncWarehouse(
        adapters={"a": {"adapter": "memory"}},
        journal={"url": "memory://", "retention": 0.05, "image_retention": 0.05},
    ) as warehouse:
        await warehouse.transaction([insert("a", {"id": 1})])
        assert len(await warehouse.transactions()) == 1
        await asyncio.sleep(0.15)
        assert await warehouse.transactions() == []


async def test_what_refers_to_a_record_is_undone_before_it(tmp_path):
    """Foreign keys: a parent made first and changed last, with a child in between."""
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
        connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY, n INTEGER)")
        connection.execute(
            "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id))"
        )
    async with AsyncWarehouse(
        adapters={
            "s": {"adapter": "sql", "url": f"sqlite+aiosqlite:///{tmp_path}/s.db"},
            "a": {"adapter": "memory"},
        },
        journal={"url": f"sqlite:///{tmp_path}/journal.db"},
    ) as warehouse:
        parents, children = {"tag": "s", "entity": "parents"}, {"tag": "s", "entity": "children"}
        done = await warehouse.transaction(
            [
                {"operation": "insert", "from": parents, "data": {"id": 1, "n": 0}},
                {"operation": "insert", "from": children, "data": {"id": 1, "parent": 1}},
                {"operation": "update", "from": parents, "where": {"id": 1}, "data": {"n": 5}},
                insert("a", {"id": 1}),
            ]
        )
        assert done.ok, done.error
        undone = await warehouse.undo(done.transaction_id)
        assert undone.ok, undone.error
        assert await warehouse.find(parents) == await warehouse.find(children) == []
        again = await warehouse.undo(undone.transaction_id)
        assert again.ok, again.error
        assert await warehouse.find(children) == [{"id": 1, "parent": 1}]
        assert await warehouse.find(parents) == [{"id": 1, "n": 5}]


# Erasing


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "mariadb", "redis"])
async def test_a_forgotten_record_leaves_nothing_in_the_journal(tmp_path, kind, request):
    with ExitStack() as stack:
        if kind == "redis":
            url = stack.enter_context(emptied(request.getfixturevalue("redis_server")))
        elif kind in {"postgres", "mariadb"}:
            server = request.getfixturevalue(kind)
            url = stack.enter_context((database if kind == "postgres" else schema_of)(server))
        else:
            url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/journal.db"
        async with World(journal=url) as world:
            both = await world.run(
                insert("a", {"id": 1, "name": "Grace Hopper"}),
                insert("p", {"id": 1, "name": "kept"}),
                insert("a", {"id": 2, "name": "Ada"}),
            )
            await world.run(update("a", 1, {"name": "Grace B. Hopper"}))
            source = {"tag": "a", "entity": "things"}
            assert await world.warehouse.forget(source, {"id": 1}) == 2
            assert await world.warehouse.history(source, {"id": 1}) == []
            assert len(await world.warehouse.history(source, {"id": 2})) == 1
            shown = await world.warehouse.show(both.transaction_id)
            assert [len(step.changes) for step in shown.steps] == [0, 1, 1]
            assert world.rows("a")[1] == {"name": "Grace B. Hopper"}
            with pytest.raises(UnknownTransaction, match="erased by forget"):
                await world.warehouse.undo(both.transaction_id)
            assert await world.warehouse.forget(source, {"id": 1}) == 0
            assert (await world.run(delete("a", 1))).ok
            assert await world.warehouse.forget(source, {"id": 1}) == 1
        for file in tmp_path.iterdir():
            assert b"Hopper" not in file.read_bytes()


async def test_what_open_and_failed_transactions_need_is_kept():
    async with World() as world:
        await world.run(insert("a", {"id": 1, "n": 1}))
        async with world.warehouse.begin("later", hold=True) as tx:
            await tx.update(None, "a", "things", {"id": 1}, {"n": 2})
        source = {"tag": "a", "entity": "things"}
        with pytest.raises(TransactionConflict, match=tx.transaction_id):
            await world.warehouse.forget(source, {"id": 1})
        assert (await world.warehouse.commit("later")).ok
        assert world.rows("a") == {1: {"n": 2}}
        assert await world.warehouse.forget(source, {"id": 1}) == 1
        with pytest.raises(InvalidOperation, match="the key of things is id, not name"):
            await world.warehouse.forget(source, {"name": "x"})
