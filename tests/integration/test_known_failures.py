"""Failures that systems of this kind are known for, each by its name. The long way round stands in other files."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from integration.memory_world import World, delete, insert, statuses, update
from integration.test_calls import Bank, call
from warehouse import (
    AlreadyFinished,
    ConstraintViolated,
    InvalidOperation,
    StoreError,
    StoreUnavailable,
    TransactionCompensated,
)

pytestmark = pytest.mark.anyio
TAKEN = insert("p", {"id": 9})
PATTERNS = pytest.mark.parametrize("pattern", ["staged", "saga", "two_phase_commit"])


async def world_of(*filled):
    world = World()
    await world.__aenter__()
    await world.fill("p", {"id": 9})
    await world.fill("b", {"id": 9})
    for tag, record in filled:
        await world.fill(tag, record)
    return world


@pytest.fixture
async def world():
    made = await world_of(("a", {"id": 1, "n": 10}))
    yield made
    assert await made.leftovers() == []
    await made.__aexit__(None, None, None)


@pytest.mark.parametrize("step", [insert("a", {"id": 2}), update("a", 1, {"n": 0}), delete("a", 1)])
async def test_a_step_that_returns_nothing_is_compensated(world, step):
    result = await world.run({**step, "returning": []}, TAKEN, pattern="saga")
    assert (result.status, statuses(result)) == ("compensated", "uf")
    assert world.rows("a") == {1: {"n": 10}}


async def test_two_steps_of_one_name_are_refused(world):
    steps = [update("a", 1, {"n": 1}, name="same"), update("a", 1, {"n": 2}, name="same")]
    with pytest.raises(InvalidOperation, match="two steps have this name"):
        await world.run(*steps)


async def test_two_steps_on_one_record_are_each_undone_once(world):
    steps = [update("a", 1, {"n": {"$increment": 1}}), update("a", 1, {"n": {"$increment": 5}})]
    assert (await world.run(*steps, TAKEN, pattern="saga")).status == "compensated"
    assert world.rows("a") == {1: {"n": 10}}


@PATTERNS
async def test_the_timeout_of_the_whole_is_kept(world, pattern):
    world.faults.delay("b.execute", 30)
    began = time.monotonic()
    result = await world.run(update("a", 1, {"n": 0}), insert("b", {"id": 1}), timeout=0.3, pattern=pattern)
    assert time.monotonic() - began < 5
    assert (result.status, world.rows("a")) == ("compensated", {1: {"n": 10}})


async def test_concurrent_calls_with_one_key_run_once(world):
    steps = [update("a", 1, {"n": {"$increment": 1}}), insert("b", {"id": 1})]
    results = await asyncio.gather(*(world.run(*steps, idempotency_key="k") for _ in range(8)))
    assert len({result.transaction_id for result in results}) == 1
    assert world.rows("a") == {1: {"n": 11}}


async def test_a_failure_is_not_kept_under_its_key(world):
    steps = [update("a", 1, {"n": {"$increment": 1}}), insert("b", {"id": 1})]
    world.faults.fail("b.execute", StoreError("no"))
    assert (await world.run(*steps, idempotency_key="k")).status == "compensated"
    assert (await world.run(*steps, idempotency_key="k")).ok
    assert world.rows("a") == {1: {"n": 11}}


async def test_after_a_failed_commit_nobody_that_committed_is_rolled_back(world):
    world.faults.fail("b.commit", StoreUnavailable("connection lost"))
    result = await world.run(update("a", 1, {"n": 0}), insert("b", {"id": 1}), pattern="two_phase_commit")
    assert result.ok
    assert (world.rows("a")[1], world.rows("b")[1]) == ({"n": 0}, {})


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_participant_whose_prepare_raised_is_rolled_back_too(world, prepared):
    go_wrong = world.faults.lose if prepared else world.faults.fail
    go_wrong("b.prepare", StoreUnavailable("no reply"))
    result = await world.run(update("a", 1, {"n": 0}), insert("b", {"id": 1}), pattern="two_phase_commit")
    assert result.status == "compensated"
    for tag in "ab":
        assert not world.stores[tag]._store.space.prepared
    assert 1 not in world.rows("b")


async def test_a_failed_callback_is_followed_by_one_rollback_that_works(world):
    bank = Bank(world)
    bank.fails = [ValueError("declined")]
    result = await world.run(update("a", 1, {"n": 0}), call(), insert("b", {"id": 1}))
    assert result.status == "compensated"
    assert (world.rows("a")[1], list(world.rows("b"))) == ({"n": 10}, [9])


@pytest.mark.parametrize("name", ["x'; DROP TABLE warehouse_locks; --", 'a"b', "%s"])
async def test_a_name_is_never_spliced_into_a_statement(tmp_path, name):
    async with World(journal=f"sqlite:///{tmp_path}/journal.db") as world:
        result = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}), name=name)
        assert (result.ok, result.name) == (True, name)
        assert (await world.warehouse.show(result.transaction_id)).name == name
        with pytest.raises(InvalidOperation):
            world.warehouse.begin(name, hold=True)
        with pytest.raises(InvalidOperation):
            await world.warehouse.commit(name)


async def test_every_step_is_saved_before_it_is_committed(world):
    await world.run(insert("a", {"id": 2}), insert("b", {"id": 2}), insert("q", {"id": 2}), pattern="saga")
    calls = [
        call
        for call in world.faults.calls
        if call.endswith((".commit", ".decide", ".append", "q.write", ".finish"))
    ]
    assert calls == [
        "journal.decide",
        "a.commit",
        "journal.append",
        "b.commit",
        "journal.append",
        "q.write",
        "journal.finish",
    ]


async def test_a_failed_compensation_is_not_counted_as_one(world):
    world.faults.fail("a.write", ConstraintViolated("no", constraint="c"), times=None)
    result = await world.run(update("a", 1, {"n": 0}), TAKEN, pattern="saga")
    assert (result.status, result.compensated_steps) == ("failed", [])
    assert [left.step for left in result.residue] == ["step_0"]


async def test_no_lock_outlives_a_failed_rollback(world):
    world.faults.fail("a.write", StoreUnavailable("away"), times=None)
    result = await world.run(update("a", 1, {"n": 0}), TAKEN, pattern="saga")
    assert result.status == "failed"
    world.faults.clear()
    resolved = await world.warehouse.resolve(result.transaction_id, "retry")
    assert (resolved.transaction_id, resolved.status) == (result.transaction_id, "compensated")
    assert (await world.run(update("a", 1, {"n": 5}), insert("b", {"id": 5}))).ok


async def test_what_a_store_that_is_away_has_left_is_not_resolved_behind_recovery(world):
    world.faults.fail("a.write", StoreUnavailable("away"), times=None)
    result = await world.run(update("a", 1, {"n": 0}), TAKEN, pattern="saga")
    for how in ("retry", "force", "accept"):
        with pytest.raises(AlreadyFinished, match="is still being undone"):
            await world.warehouse.resolve(result.transaction_id, how)
    world.faults.clear()
    assert [item.status for item in await world.warehouse.recover()] == ["compensated"]


async def test_automatic_times_precision_and_order_are_no_conflict(world):
    await world.fill("a", {"id": 3, "at": None, "list": [1, 2], "map": {"x": 1, "y": 2}, "f": 0.1})
    changed = {"at": {"$currentDate": True}, "f": {"$multiply": 3}, "list": {"$push": 3}, "map.x": 5}
    done = await world.run(update("a", 3, changed), insert("b", {"id": 3}))
    now = world.rows("a")[3]
    assert isinstance(now["at"], datetime)
    assert now["at"].tzinfo == UTC
    await world.foreign("a", 3, {"map": {"y": 2, "x": 5}})  # the same, in another order
    undone = await world.warehouse.undo(done.transaction_id)
    assert (undone.status, undone.conflicts) == ("completed", [])
    assert world.rows("a")[3] == {"at": None, "list": [1, 2], "map": {"x": 1, "y": 2}, "f": 0.1}


async def test_a_large_field_is_undone_like_any_other(world):
    large = "x" * 5_000_000
    await world.fill("a", {"id": 4, "text": large})
    result = await world.run(update("a", 4, {"text": large[::-1] + "y"}), TAKEN, pattern="saga")
    assert (result.status, result.residue) == ("compensated", [])
    assert world.rows("a")[4] == {"text": large}


@PATTERNS
async def test_nothing_that_was_reserved_beside_a_step_that_fails_is_leaked(world, pattern):
    await world.fill("a", *({"id": key, "free": 5} for key in range(20, 25)))
    reserve = [update("a", key, {"free": {"$decrement": 1}}) for key in range(20, 25)]
    result = await world.run(*reserve[:3], insert("b", {"id": 9}), *reserve[3:], pattern=pattern)
    assert result.status == "compensated"
    assert {world.rows("a")[key]["free"] for key in range(20, 25)} == {5}


async def test_what_is_released_after_it_was_confirmed_changes_no_count(world):
    done = await world.run(update("a", 1, {"n": {"$decrement": 1}}), insert("b", {"id": 1}))
    for _ in range(3):
        await world.warehouse.undo(done.transaction_id, on_conflict="skip")
    assert world.rows("a") == {1: {"n": 10}}
    async with world.warehouse.begin("reservation", hold=True) as tx:
        await tx.update(None, "a", "things", {"id": 1}, {"n": {"$decrement": 1}})
    await world.warehouse.commit("reservation")
    for late in (world.warehouse.rollback, world.warehouse.commit):
        with pytest.raises(Exception, match="not held any more"):
            await late("reservation")
    assert world.rows("a") == {1: {"n": 9}}
    with pytest.raises(TransactionCompensated):
        async with world.warehouse.begin() as tx:
            await tx.update(None, "a", "things", {"id": 1}, {"n": {"$decrement": 1}})
            await tx.insert(None, "p", "things", {"id": 77})
            world.faults.fail("p.write", ConstraintViolated("no", constraint="c"))
    assert world.rows("a") == {1: {"n": 9}}
