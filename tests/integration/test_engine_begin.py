"""Transactions written step by step, explanations and reads, over in-process stores."""

import asyncio
import time

import pytest

from integration.memory_world import STORES, UNIQUE, World, delete, insert, turns, update
from integration.test_recovery import pause
from warehouse import (
    AlreadyFinished,
    ConstraintViolated,
    InvalidOperation,
    JournalUnavailable,
    OutcomeUnknown,
    ReadConflict,
    StepFailed,
    StoreContention,
    StoreError,
    StoreUnavailable,
    TransactionCompensated,
    TransactionConflict,
    TransactionExpired,
    TransactionFailed,
    UnknownTag,
)
from warehouse.errors import TransactionError

pytestmark = pytest.mark.anyio
PATTERNS = pytest.mark.parametrize("pattern", ["staged", "saga"])
EMPTY = {tag: {} for tag in "abpq"}
THINGS = (None, "a", "things")


# The block


@PATTERNS
async def test_a_value_decides_what_comes_next(pattern):
    async with World() as world:
        async with world.warehouse.begin("by hand", pattern=pattern) as tx:
            made = (await tx.insert("database", "a", "things", {"n": 1})).one()
            rows = await tx.insert(
                None, "p", "things", [{"id": 1, "of": made["id"]}, {"id": 2}], returning=["id"]
            )
            assert (rows.all(), rows.affected_rows, len(rows), rows[0]) == (
                [{"id": 1}, {"id": 2}],
                2,
                2,
                {"id": 1},
            )
            assert (await tx.update(None, "p", "things", {"id": 2}, {"n": 5})).one() == {"id": 2, "n": 5}
            assert (
                await tx.upsert(None, "q", "things", {"id": 1, "x": 1}, ["id"], name="last")
            ).affected_rows == 1
            assert (await tx.delete(None, "p", "things", {"id": 2})).one() == {"id": 2, "n": 5}
            with pytest.raises(InvalidOperation, match="has not ended"):
                tx.result  # noqa: B018
            with pytest.raises(LookupError):
                (await tx.update(None, "p", "things", {"id": 9}, {"n": 5})).one()
        assert (tx.result.status, tx.result.name, tx.result.pattern) == ("completed", "by hand", pattern)
        assert list(tx.result.step_results) == ["step_0", "step_1", "step_2", "last", "step_4", "step_5"]
        assert world.rows("p") == {1: {"of": made["id"]}}
        assert await world.leftovers() == []


@PATTERNS
async def test_it_sees_its_own_steps(pattern):
    async with World() as world:
        for tag in "ap":
            await world.fill(tag, {"id": 1, "n": 1})
        async with world.warehouse.begin(pattern=pattern) as tx:
            for tag in "ap":
                await tx.update(None, tag, "things", {"id": 1}, {"n": 2})
                await tx.insert(None, tag, "things", {"id": 2, "n": 1})
                found = await tx.find(
                    None, tag, "things", {"n": {"$gte": 1}}, order_by=["-n"], fields=["n"], limit=1
                )
                assert found == [{"n": 2}]
                assert (world.rows(tag) == {1: {"n": 1}}) is (pattern == "staged")


@PATTERNS
async def test_an_exception_undoes_everything_and_propagates(pattern):
    async with World() as world:
        with pytest.raises(ZeroDivisionError):
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.insert(*THINGS, {"id": 1})
                await tx.insert(None, "p", "things", {"id": 1})
                1 / 0  # noqa: B018
        assert (tx.result.status, tx.result.compensated_steps) == ("compensated", ["step_0", "step_1"])
        assert tx.result.error == "the block was left by ZeroDivisionError: division by zero"
        assert world.everything() == EMPTY
        assert await world.leftovers() == []


@PATTERNS
async def test_a_failing_step_raises_and_the_block_can_only_roll_back(pattern):
    async with World() as world:
        await world.fill("p", {"id": 1})
        with pytest.raises(TransactionCompensated) as caught:
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.insert(*THINGS, {"id": 1})
                with pytest.raises(StepFailed) as first:
                    await tx.insert(None, "p", "things", {"id": 1})
                assert isinstance(first.value.__cause__, ConstraintViolated)
                assert (first.value.step, first.value.tag) == ("step_1", "p")
                for again in (tx.insert(*THINGS, {"id": 2}), tx.find(*THINGS)):
                    with pytest.raises(
                        StepFailed, match=r"failed before .* can only roll back - leave the block"
                    ):
                        await again
        assert caught.value.__cause__ is first.value
        assert tx.result.error == "step_1 (p, things): a record with the key {'id': 1} is there already"
        assert [step.status for step in tx.result.step_results.values()] == ["compensated", "failed"]
        assert world.rows("a") == {}
        assert await world.leftovers() == []


@PATTERNS
async def test_a_mistake_of_the_caller_leaves_the_block_usable(pattern):
    async with World() as world:
        async with world.warehouse.begin(pattern=pattern) as tx:
            with pytest.raises(UnknownTag):
                await tx.insert(None, "nobody", "things", {"id": 1})
            with pytest.raises(InvalidOperation):
                await tx.update(*THINGS, None, {"id": 1})
            with pytest.raises(InvalidOperation, match="names must differ"):
                await tx.insert(*THINGS, {"id": 1}, name="one")
                await tx.insert(*THINGS, {"id": 2}, name="one")
            with pytest.raises(InvalidOperation, match="unknown key 'nam'"):
                await tx.insert(*THINGS, {"id": 1}, nam="one")
            with pytest.raises(InvalidOperation):
                await tx.find(*THINGS, {"n": {"$gte": 1, "x": 1}})
        assert tx.result.status == "completed"
        assert list(tx.result.step_results) == ["one"]


async def test_steps_at_once_are_made_one_after_the_other():
    async with World() as world:
        world.faults.delay("?.execute", 0.01)
        async with world.warehouse.begin() as tx:
            await asyncio.gather(*(tx.insert(None, tag, "things", {"id": 1}) for tag in "aapb"[1:]))
        assert list(tx.result.step_results) == ["step_0", "step_1", "step_2"]
        assert len((await world.journal.entries())[0].steps) == 3
        assert world.rows("a") == world.rows("b") == world.rows("p") == {1: {}}


@PATTERNS
async def test_a_step_that_may_fail(pattern):
    async with World({**STORES, "a": {**STORES["a"], **UNIQUE}}) as world:
        await world.fill("a", {"id": 9, "email": "x@y"})
        async with world.warehouse.begin(pattern=pattern) as tx:
            await tx.insert(*THINGS, {"id": 1})
            assert (await tx.insert(*THINGS, {"id": 2, "email": "x@y"}, allow_fail=True)).all() == []
            await tx.insert(*THINGS, {"id": 3})
        assert tx.result.status == "completed"
        assert tx.result.step_results["step_1"].error == "step_1 (a, things): email must be unique"
        assert set(world.rows("a")) == {1, 3, 9}


async def test_a_step_that_may_fail_but_takes_its_unit_with_it():
    async with World() as world:
        world.faults.fail("a.execute", StoreUnavailable("connection lost"), nth=2)
        with pytest.raises(TransactionCompensated):
            async with world.warehouse.begin() as tx:
                await tx.insert(*THINGS, {"id": 1})
                with pytest.raises(StepFailed):
                    await tx.insert(*THINGS, {"id": 2}, allow_fail=True)
        assert world.rows("a") == {}


async def test_used_outside_of_its_block():
    async with World() as world:
        tx = world.warehouse.begin()
        with pytest.raises(InvalidOperation, match="the block was not entered"):
            await tx.insert(*THINGS, {"id": 1})
        async with tx:
            await tx.insert(*THINGS, {"id": 1})
        for _ in range(2):
            with pytest.raises(AlreadyFinished, match="the transaction has ended: completed"):
                await tx.insert(*THINGS, {"id": 2})
        with pytest.raises(AlreadyFinished, match="entered before"):
            await tx.__aenter__()
        assert set(world.rows("a")) == {1}


async def test_an_empty_block_completes():
    async with World() as world:
        async with world.warehouse.begin() as tx:
            pass
        assert (tx.result.status, tx.result.step_results) == ("completed", {})


# Commits


async def test_a_failed_commit_raises():
    async with World({**STORES, "p": {**STORES["p"], **UNIQUE}}) as world:
        world.faults.before("p.write", lambda: world.foreign("p", 9, {"id": 9, "email": "x@y"}))
        with pytest.raises(TransactionCompensated) as caught:
            async with world.warehouse.begin() as tx:
                await tx.insert(*THINGS, {"id": 1})
                await tx.insert(None, "p", "things", {"id": 1, "email": "x@y"})
        assert caught.value.result is tx.result
        assert isinstance(caught.value.__cause__.__cause__, ConstraintViolated)
        assert world.rows("a") == {}


async def test_a_commit_that_leaves_something_raises_transaction_failed():
    async with World({**STORES, "q": {**STORES["q"], **UNIQUE}}) as world:
        await world.fill("p", {"id": 1, "n": 5})

        async def meddle():
            await world.foreign("p", 1, {"n": 99})
            await world.foreign("q", 9, {"id": 9, "email": "x@y"})

        world.faults.before("q.write", meddle)
        with pytest.raises(TransactionFailed, match="expected 6, found 99"):
            async with world.warehouse.begin() as tx:
                await tx.update(None, "p", "things", {"id": 1}, {"n": 6})
                await tx.insert(None, "q", "things", {"id": 1, "email": "x@y"})
        assert [item.reason for item in tx.result.residue] == ["conflict"]


async def test_a_conflict_says_run_the_block_again():
    """Held by another transaction, changed by one since it was read, or by somebody else: never replayed for you."""

    async def locked(world):
        world.faults.fail("journal.finish", JournalUnavailable("gone"))
        with pytest.raises(OutcomeUnknown):
            await world.run(update("p", 1, {"n": 7}), insert("q", {"id": 7}))

    async def outrun(world):
        await world.run(update("p", 1, {"m": 7}), insert("q", {"id": 7}))

    async def bypassed(world):
        await world.foreign("p", 1, {"n": 7})

    for meanwhile in (locked, outrun, bypassed):
        async with World() as world:
            await world.fill("p", {"id": 1, "n": 5, "m": 5})
            with pytest.raises(TransactionConflict) as caught:
                async with world.warehouse.begin() as tx:
                    await tx.insert(*THINGS, {"id": 1})
                    await tx.update(None, "p", "things", {"id": 1}, {"n": {"$increment": 1}})
                    await meanwhile(world)
            assert caught.value.hint == "run the block again"
            assert (caught.value.step, caught.value.tag) == ("step_1", "p")
            assert tx.result.status == "compensated"
            assert world.rows("a") == {}


async def test_contention_in_a_step_says_so_too():
    async with World() as world:
        world.faults.fail("a.execute", StoreContention("deadlock"))
        with pytest.raises(TransactionConflict, match="deadlock - run the block again"):
            async with world.warehouse.begin() as tx:
                await tx.insert(*THINGS, {"id": 1})
        assert tx.result.status == "compensated"
        world.faults.fail("a.execute", StoreContention("deadlock"), nth=1)
        with pytest.raises(TransactionConflict):
            async with world.warehouse.begin() as tx:
                with pytest.raises(TransactionConflict):
                    await tx.insert(*THINGS, {"id": 1})


async def test_how_it_ended_may_be_left_to_the_result():
    async with World() as world:
        await world.fill("a", {"id": 1})
        async with world.warehouse.begin(raise_on_failure=False) as tx:
            with pytest.raises(StepFailed):
                await tx.insert(*THINGS, {"id": 1})
        assert tx.result.status == "compensated"
        with pytest.raises(TransactionError):
            tx.result.raise_for_status()
        await world.fill("p", {"id": 1, "n": 1})
        world.faults.before("p.write", lambda: world.foreign("p", 1, {"n": 7}))
        async with world.warehouse.begin(raise_on_failure=False) as tx:
            await tx.update(None, "p", "things", {"id": 1}, {"n": 2})
        assert tx.result.status == "compensated"


@PATTERNS
async def test_a_journal_that_cannot_be_written(pattern):
    async with World() as world:
        world.faults.fail("journal.decide", JournalUnavailable("disk full"))
        with pytest.raises(JournalUnavailable):
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.insert(*THINGS, {"id": 1})
                await tx.insert(None, "p", "things", {"id": 1})
        assert world.everything() == EMPTY
        assert await world.leftovers() == []
        with pytest.raises(AlreadyFinished):
            await tx.insert(*THINGS, {"id": 2})


@PATTERNS
async def test_an_unknown_outcome(pattern):
    async with World() as world:
        world.faults.fail("journal.finish", JournalUnavailable("gone"), times=None)
        with pytest.raises(OutcomeUnknown):
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.insert(*THINGS, {"id": 1})
                await tx.insert(None, "p", "things", {"id": 1})
        with pytest.raises(OutcomeUnknown):
            tx.result  # noqa: B018
        assert [entry.state for entry in await world.journal.entries()] == [
            "committing" if pattern == "staged" else "running"
        ]


async def test_an_unknown_outcome_in_a_saga_is_not_undone():
    async with World() as world:
        world.faults.fail("journal.append", JournalUnavailable("gone"))
        with pytest.raises(OutcomeUnknown):
            async with world.warehouse.begin(pattern="saga") as tx:
                await tx.insert(*THINGS, {"id": 1})
                with pytest.raises(OutcomeUnknown):
                    await tx.insert(None, "p", "things", {"id": 1})
        assert world.rows("a") == {1: {}}
        assert [entry.state for entry in await world.journal.entries()] == ["running"]


# Time


@PATTERNS
async def test_a_block_that_outlives_its_timeout_is_rolled_back(pattern):
    async with World() as world:
        with pytest.raises(TransactionCompensated, match=r"timeout of 0\.05 s ran out"):
            async with world.warehouse.begin(timeout=0.05, pattern=pattern) as tx:
                await tx.insert(*THINGS, {"id": 1})
                await asyncio.sleep(0.1)
                if pattern == "staged":
                    assert await world.leftovers() == []
                with pytest.raises(TransactionExpired, match=r"timeout of 0\.05 s ran out - raise `timeout`"):
                    await tx.insert(*THINGS, {"id": 2})
        assert world.rows("a") == {}
        assert await world.leftovers() == []


@PATTERNS
async def test_a_step_that_outlives_the_timeout(pattern):
    async with World() as world:
        world.faults.delay("p.execute", 5)
        started = time.monotonic()
        with pytest.raises((TransactionExpired, StepFailed)):
            async with world.warehouse.begin(timeout=0.05, pattern=pattern) as tx:
                await tx.insert(*THINGS, {"id": 1})
                await tx.insert(None, "p", "things", {"id": 1})
        assert time.monotonic() - started < 1
        assert tx.result.status == "compensated"
        assert "timeout of 0.05 s ran out" in tx.result.error
        assert world.rows("a") == {}


async def test_what_a_saga_committed_may_be_kept_on_a_timeout():
    async with World() as world:
        with pytest.raises(TransactionFailed, match="kept"):
            async with world.warehouse.begin(timeout=0.05, pattern="saga", compensate_on_timeout=False) as tx:
                await tx.insert(*THINGS, {"id": 1})
                await asyncio.sleep(0.1)
        assert world.rows("a") == {1: {}}
        assert tx.result.step_results["step_0"].status == "completed"


async def test_the_time_runs_from_entering_the_block():
    async with World() as world:
        tx = world.warehouse.begin(timeout=0.2)
        await asyncio.sleep(0.25)
        async with tx:
            await tx.insert(*THINGS, {"id": 1})
        assert tx.result.ok


# Reading


async def test_locking_reads():
    async with World(lock_timeout=0.05) as world:
        await world.fill("a", {"id": 1, "n": 1})
        async with world.warehouse.begin() as tx:
            await tx.find(*THINGS, {"id": 1}, lock=True)
            assert not (await world.run(update("a", 1, {"n": 2}))).ok
            for where in ("p", "q"):
                with pytest.raises(InvalidOperation, match="keeps no locks"):
                    await tx.find(None, where, "things", lock=True)
        assert (await world.run(update("a", 1, {"n": 2}))).ok
        async with world.warehouse.begin(pattern="saga") as tx:
            with pytest.raises(InvalidOperation, match="a saga keeps no locks"):
                await tx.find(*THINGS, lock=True)


@pytest.mark.parametrize("write", [insert("a", {"id": 3}), update("a", 1, {"n": 9}), delete("a", 1)])
@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_a_locking_read_sees_nothing_half_committed(write, pattern):
    """The record is free in its store; only the journal knows that the transaction has not come to its end."""
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 1}, {"id": 2, "n": 2, "other": True})
        paused, go_on = pause(world, "b.commit")
        running = asyncio.ensure_future(world.run(write, insert("b", {"id": 1}), pattern=pattern))
        await paused.wait()
        await turns(50)
        assert world.rows("a") != {1: {"n": 1}, 2: {"n": 2, "other": True}}
        with pytest.raises(TransactionConflict):
            async with world.warehouse.begin() as tx:
                await tx.find(*THINGS, {"id": {"$ne": 2}}, lock=True)
        async with world.warehouse.begin() as tx:
            assert len(await tx.find(*THINGS, {"other": True}, lock=True)) == 1
        go_on.set()
        assert (await running).ok
        async with world.warehouse.begin() as tx:
            await tx.find(*THINGS, lock=True)


@pytest.mark.parametrize("writes", [False, True])
async def test_a_store_that_lets_go_of_a_lock_ends_the_block(writes):
    """Else what was read in the others meanwhile may be newer."""
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 1})
        await world.fill("b", {"id": 1, "n": 1})
        with pytest.raises(TransactionConflict, match="a has let go of what was read under lock: gone"):
            async with world.warehouse.begin() as tx:
                await tx.find(*THINGS, lock=True)
                await tx.find(None, "b", "things", lock=True)
                if writes:
                    await tx.update(None, "b", "things", {"id": 1}, {"n": 2})
                world.faults.fail("a.read", StoreUnavailable("gone"))
        assert world.rows("b") == {1: {"n": 1}}
        async with world.warehouse.begin() as tx:
            await tx.find(*THINGS, lock=True)
            await tx.find(None, "b", "things", lock=True)


async def test_find():
    async with World({**STORES, "v": {"adapter": "memory", "type": "vector"}}) as world:
        await world.fill("a", {"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 3})
        find = world.warehouse.find
        source = {"tag": "a", "entity": "things"}
        assert [row["id"] for row in await find(source, order_by=["-n", "id"])] == [3, 2, 1]
        assert await find(source, where={"n": {"$gt": 1}}, fields=["id"]) == [{"id": 2}]
        assert [row["id"] for row in await find(source, order_by=["id"], limit=1, offset=1)] == [2]
        assert await find(source, limit=0) == []
        assert await find({"tag": "a", "entity": "nothing"}) == []
        await world.run(
            {
                "operation": "insert",
                "from": {"tag": "v", "entity": "x"},
                "data": [{"id": 1, "vector": [1.0, 0.0]}, {"id": 2, "vector": [0.0, 1.0]}],
            }
        )
        nearest = {"vector": [0.9, 0.1], "limit": 1}
        near = await find({"tag": "v", "entity": "x"}, near=nearest, isolation="latest")
        assert [row["id"] for row in near] == [1]
        with pytest.raises(InvalidOperation, match="isolation='latest'"):
            await find({"tag": "v", "entity": "x"}, near=nearest)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"limit": -1}, "limit"),
        ({"limit": "3"}, "limit"),
        ({"limit": True}, "limit"),
        ({"offset": -1}, "offset"),
        ({"order_by": "n"}, "order_by"),
        ({"order_by": ["-"]}, "order_by"),
        ({"order_by": [1]}, "order_by"),
        ({"fields": "n"}, "fields"),
        ({"fields": [1]}, "fields"),
        ({"where": [1]}, None),
        ({"where": {"n": {"$in": 3}}}, "n"),
        ({"where": {"n": {"$ref": "step_0.n"}}}, None),
        ({"near": {"vector": [1.0], "limit": 1}}, "near"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"lock": True}, "lock"),
        ({"isolation": "wrong"}, "isolation"),
    ],
)
async def test_mistakes_in_a_read(options, field):
    async with World() as world:
        with pytest.raises(InvalidOperation) as caught:
            await world.warehouse.find({"tag": "a", "entity": "things"}, **options)
        assert caught.value.field == field


@pytest.mark.parametrize(
    "near",
    [{}, {"limit": 3}, {"vector": [1.0], "limit": 0}, {"vector": [1.0], "limit": 1, "lmit": 1}, [1.0]],
)
async def test_mistakes_in_a_search(near):
    async with World({"v": {"adapter": "memory", "type": "vector"}}) as world:
        with pytest.raises(InvalidOperation) as caught:
            await world.warehouse.find({"tag": "v", "entity": "x"}, near=near, isolation="latest")
        assert caught.value.field == "near"
        for more in ({"order_by": ["id"]}, {"limit": 3}, {"offset": 1}):
            with pytest.raises(InvalidOperation, match="near"):
                await world.warehouse.find(
                    {"tag": "v", "entity": "x"}, near={"vector": [1.0], "limit": 1}, **more
                )


async def test_a_read_that_takes_too_long():
    async with World() as world:
        world.faults.delay("a.find", 5)
        with pytest.raises(ReadConflict, match=r"longer than 0\.05 s"):
            await world.warehouse.find({"tag": "a", "entity": "things"}, timeout=0.05)
        world.faults.clear()
        error = StoreError("no")
        world.faults.fail("a.find", error)
        with pytest.raises(StoreError) as caught:
            await world.warehouse.find({"tag": "a", "entity": "things"})
        assert caught.value is error
        assert (error.tag, error.entity) == ("a", "things")


# Explaining


async def test_an_explanation_changes_nothing():
    async with World() as world:
        for tag in "ap":
            await world.fill(tag, {"id": 1, "n": 1})
        before = world.everything()
        operations = [
            update("a", 1, {"n": {"$increment": 1}}),
            delete("p", 1),
            insert("q", {"id": 2}),
            insert("a", {"id": 1}),
            insert("b", {"id": 1}),
        ]
        told = await world.warehouse.explain(operations)
        assert world.everything() == before
        assert await world.leftovers() == []
        assert not [call for call in world.faults.calls if call.endswith((".commit", ".write", ".decide"))]
        assert told.pattern == "staged"
        assert [(item.tag, item.holds) for item in told.participants] == [
            ("a", True),
            ("p", False),
            ("q", False),
            ("b", True),
        ]
        assert told.error == "step_3 (a, things): a record with the key {'id': 1} is there already"
        (changed,) = told.changes["step_0"]
        assert (changed.action, changed.key, changed.before, changed.after) == (
            "updated",
            {"id": 1},
            {"id": 1, "n": 1},
            {"id": 1, "n": 2},
        )
        assert told.changes["step_1"][0].after is None
        assert told.changes["step_4"] == []
        assert "error: step_3" in str(told)
        assert told.model_dump_json()


async def test_an_explanation_of_what_cannot_be():
    async with World() as world:
        with pytest.raises(InvalidOperation):
            await world.warehouse.explain([insert("q", {"id": 1})], pattern="two_phase_commit")
        world.faults.fail("p.connect", StoreUnavailable("refused"))
        with pytest.raises(StoreUnavailable):
            await world.warehouse.explain([insert("p", {"id": 1})])


async def test_participants():
    async with World() as world:
        world.faults.fail("p.connect", StoreUnavailable("refused"))
        found = await world.warehouse.participants()
        assert list(found) == list("abpq")
        assert isinstance(found["p"], StoreUnavailable)
        assert (found["a"].store, found["a"].holds, found["q"].guards) == ("memory", True, "full")


async def test_a_reference_that_cannot_be_is_a_mistake_and_no_failure():
    async with World() as world:
        async with world.warehouse.begin() as tx:
            await tx.insert(*THINGS, [{"id": 1}, {"id": 2}], name="two", returning=["id"])
            for mistake in ("two.n", "two.5.id", "none.id"):
                with pytest.raises(InvalidOperation, match="the reference"):
                    await tx.insert(None, "b", "things", {"id": 3, "ref": {"$ref": mistake}})
            await tx.insert(None, "b", "things", {"id": 3, "ref": {"$ref": "two.1.id"}})
        assert tx.result.ok
        assert world.rows("b") == {3: {"ref": 2}}
