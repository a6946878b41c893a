"""The pattern `staged` over in-process stores: what fails where, what is left, and what the result says."""

import asyncio
import time
from itertools import permutations

import pytest

from integration.memory_world import (
    STORES,
    UNIQUE,
    World,
    delete,
    insert,
    statuses,
    update,
    upsert,
)
from warehouse import (
    ConstraintViolated,
    InvalidOperation,
    JournalUnavailable,
    OutcomeUnknown,
    StepFailed,
    StoreContention,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
    TransactionCompensated,
    TransactionFailed,
    ref,
)
from warehouse.adapter import Outcome
from warehouse.errors import TransactionConflict
from warehouse.journal.base import ReplyLost
from warehouse.records import ABSENT

pytestmark = pytest.mark.anyio


def four(**more):
    """One step in each of four stores."""
    return [insert(tag, {"id": 1, "n": index}, **more) for index, tag in enumerate("abpq")]


# Success


async def test_all_take_effect():
    async with World() as world:
        result = await world.run(*four(), name="four")
        assert result.raise_for_status() is result
        assert (result.status, result.pattern, result.name, result.ok) == (
            "completed",
            "staged",
            "four",
            True,
        )
        assert statuses(result) == "cccc"
        assert result.error is None
        assert not result.residue
        assert [step.data for step in result.step_results.values()] == [[{"id": 1, "n": n}] for n in range(4)]
        assert world.everything() == {tag: {1: {"n": index}} for index, tag in enumerate("abpq")}
        assert await world.leftovers() == []


async def test_what_is_decided_is_durable_before_anything_is_visible():
    async with World() as world:
        await world.run(*four())
        calls = [
            call
            for call in world.faults.calls
            if call.partition(".")[2] in ("decide", "write", "commit", "finish")
        ]
        assert calls[:3] == ["journal.decide", "p.write", "q.write"]
        assert set(calls[3:5]) == {"a.commit", "b.commit"}
        assert calls[5:] == ["journal.finish"]


async def test_one_participant_needs_no_protocol_but_looks_at_the_locks():
    async with World() as world:
        result = await world.run(insert("a", {"id": 1}), insert("a", {"id": 2}))
        assert statuses(result) == "cc"
        await world.warehouse.transactions()  # its history is kept behind the caller's back
        assert [call for call in world.faults.calls if call.startswith("journal.")] == [
            "journal.open",
            "journal.beat",
            "journal.locked",
            "journal.note",
            "journal.recent",
        ]
        assert world.faults.calls.index("journal.locked") > world.faults.calls.index("a.execute")


async def test_each_operation_and_many_records():
    async with World() as world:
        for tag in "ap":
            await world.fill(tag, {"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 3, "n": 3})
        operations = [
            step
            for tag in "ap"
            for step in (
                insert(tag, [{"id": 4, "n": 4}, {"id": 5, "n": 5}], returning=["n"]),
                update(
                    tag, {"n": {"$lte": 4}}, {"n": {"$increment": 10}}, expect={"affected_rows": {"$gte": 4}}
                ),
                upsert(tag, [{"id": 5, "n": 50}, {"id": 6, "n": 60}]),
                delete(tag, {"id": {"$in": [1, 6]}}, expect={"affected_rows": 2}),
            )
        ]
        result = (await world.run(*operations)).raise_for_status()
        for tag in "ap":
            assert world.rows(tag) == {2: {"n": 12}, 3: {"n": 13}, 4: {"n": 14}, 5: {"n": 50}}
        inserted, updated, upserted, deleted = list(result.step_results.values())[4:]
        assert (inserted.data, inserted.actions) == ([{"n": 4}, {"n": 5}], ["inserted"] * 2)
        assert (updated.affected_rows, updated.actions) == (4, ["updated"] * 4)
        assert upserted.actions == ["updated", "inserted"]
        assert (deleted.actions, deleted.affected_rows) == (["deleted"] * 2, 2)
        assert sorted(item["n"] for item in deleted.data) == [11, 60]


async def test_references_and_order():
    async with World() as world:
        result = await world.run(
            insert("q", {"n": 7}, name="made"),
            insert("a", [{"id": 1}, {"id": 2}], name="many", after=["made"]),
            insert(
                "b",
                {"id": 1, "from": ref("made.id"), "all": ref("many.id"), "raw": {"$literal": {"$ref": "x"}}},
            ),
        )
        result.raise_for_status()
        made = result.step_results["made"].data[0]["id"]
        assert world.rows("b") == {1: {"from": made, "all": [1, 2], "raw": {"$ref": "x"}}}


async def test_a_later_step_may_be_asked_to_come_first():
    async with World() as world:
        result = await world.run(insert("a", {"id": 1}, after=["step_1"]), insert("p", {"id": 1}))
        assert result.ok
        executed = [call for call in world.faults.calls if call.endswith(".execute")]
        assert executed == ["p.execute", "a.execute"]


async def test_nothing_changed_is_no_failure():
    async with World() as world:
        result = await world.run(update("a", 1, {"n": 1}), delete("p", 1))
        assert (result.status, statuses(result)) == ("completed", "cc")
        assert [step.affected_rows for step in result.step_results.values()] == [0, 0]
        assert "journal.decide" not in world.faults.calls


async def test_sequential_runs_the_steps_as_they_are_listed():
    async with World() as world:
        world.faults.delay("a.execute", 0.02)
        await world.run(*four(), concurrency="sequential")
        executed = [call[0] for call in world.faults.calls if call.endswith(".execute")]
        assert executed == list("abpq")
        world.faults.clear()
        world.faults.delay("a.execute", 0.02)
        started = time.monotonic()
        world.faults.delay("?.execute", 0.1)
        await world.run(*[delete(tag, 1) for tag in "abpq"])
        assert time.monotonic() - started < 0.35


async def test_tags_of_one_store_share_a_unit():
    shared = {"adapter": "memory", "options": {"shared": "test_tags_of_one_store"}}
    async with World({"one": shared, "two": shared, "p": STORES["p"]}) as world:
        result = await world.run(
            insert("one", {"id": 1, "n": 1}),
            update("two", 1, {"n": 2}),
            insert("p", {"id": 1}),
            upsert("two", {"id": 1, "n": 3}),
        )
        result.raise_for_status()
        assert world.rows("one") == world.rows("two") == {1: {"n": 3}}
        assert sum(call.endswith(".commit") for call in world.faults.calls) == 1
        await world.foreign("one", 1, ABSENT)


# Failures while staging


@pytest.mark.parametrize("slow", ["", "a", "b", "p", "q"])
@pytest.mark.parametrize("at", range(4))
async def test_a_failure_while_staging(at, slow):
    """Steps before it finish, later ones are skipped: whichever store is faster."""
    async with World() as world:
        tag = "abpq"[at]
        await world.fill(tag, {"id": 1, "old": True})
        before = world.everything()
        if slow:
            world.faults.delay(f"{slow}.execute", 0.02)
        result = await world.run(*four())
        assert result.status == "compensated"
        assert statuses(result) == "uuu"[:at] + "f" + "sss"[: 3 - at]
        assert result.compensated_steps == [f"step_{n}" for n in range(at)]
        assert result.error == result.step_results[f"step_{at}"].error
        assert (
            result.error == f"step_{at} ({tag}, things): a record with the key {{'id': 1}} is there already"
        )
        assert world.everything() == before
        assert await world.leftovers() == []
        assert "journal.decide" not in world.faults.calls


async def test_the_first_failure_in_the_list_is_the_one_that_counts():
    for slow in "ap":
        async with World() as world:
            await world.fill("a", {"id": 1})
            await world.fill("p", {"id": 1})
            world.faults.delay(f"{slow}.execute", 0.02)
            result = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
            assert statuses(result) == "fs"


async def test_steps_of_a_store_before_the_failure_are_named():
    async with World() as world:
        result = await world.run(
            insert("a", {"id": 1}),
            insert("a", {"id": 2}),
            insert("p", {"id": 1}),
            update("a", 1, {"n": 2}, expect={"affected_rows": 5}),
            insert("p", {"id": 2}),
        )
        assert statuses(result) == "uuufs"
        assert result.error == "step_3 (a, things.expect): expected affected_rows 5, found 1"
        assert world.everything() == {tag: {} for tag in "abpq"}


async def test_what_depends_on_a_skipped_step_is_skipped():
    async with World() as world:
        result = await world.run(
            insert("a", {"id": 1}, after=["last"]),
            update("p", 1, {"n": 1}, expect={"affected_rows": 1}, name="last"),
        )
        assert statuses(result) == "sf"


async def test_the_chain_of_causes_ends_with_the_drivers_exception():
    async with World() as world:
        driver = OSError("connection reset")
        error = StoreUnavailable("the server is gone")
        error.__cause__ = driver
        world.faults.fail("p.execute", error, times=None)
        result = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        with pytest.raises(TransactionCompensated) as caught:
            result.raise_for_status()
        assert caught.value.result is result
        failed = caught.value.__cause__
        assert isinstance(failed, StepFailed)
        assert (failed.step, failed.tag, failed.entity) == ("step_1", "p", "things")
        assert failed.__cause__ is driver
        assert failed.reason is error
        assert str(caught.value) == (
            f"transaction {result.transaction_id} compensated: step_1 (p, things): the server is gone"
        )


async def test_a_store_error_without_a_driver_is_the_cause():
    async with World({"a": {**STORES["a"], **UNIQUE}, "p": STORES["p"]}) as world:
        await world.fill("a", {"id": 1, "email": "x@y"})
        result = await world.run(insert("p", {"id": 1}), insert("a", {"id": 2, "email": "x@y"}))
        assert isinstance(result.cause.__cause__, ConstraintViolated)
        assert result.cause.__cause__.constraint == "things_email"


async def test_any_exception_of_an_adapter_fails_the_step():
    async with World() as world:
        world.faults.fail("p.execute", ZeroDivisionError("a bug"))
        result = await world.run(*four())
        assert statuses(result) == "uufs"
        assert result.error == "step_2 (p, things): ZeroDivisionError: a bug"


@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_a_store_that_cannot_be_reached_fails_its_step(pattern):
    async with World() as world:
        world.faults.fail("p.connect", StoreUnavailable("connection refused"), times=None)
        result = await world.run(*four(), pattern=pattern)
        assert (result.status, result.pattern) == ("compensated", pattern)
        assert statuses(result) == "ssfs"
        assert result.error == "step_2 (p, things): connection refused"
        assert world.rows("a") == {}
        assert isinstance(result.cause.reason, StoreUnavailable)


async def test_connecting_is_tried_again_where_that_was_asked_for():
    async with World() as world:
        world.faults.fail("p.connect", StoreUnavailable("connection refused"))
        assert (await world.run(*four(), retry_on_failure=True)).ok


async def test_connecting_counts_towards_the_timeout():
    async with World() as world:
        world.faults.delay("p.connect", 5)
        started = time.monotonic()
        result = await world.run(*four(), timeout=0.1)
        assert time.monotonic() - started < 1
        assert result.status == "compensated"
        assert "it did not answer within the transaction's timeout" in result.error
        assert await world.leftovers() == []


async def test_too_many_records_or_bytes():
    many = [{"id": n, "text": "x" * 1000} for n in range(20)]
    async with World(max_records=10) as world:
        result = await world.run(insert("p", many), insert("a", {"id": 1}))
        assert "more than 10 records" in result.error
        assert statuses(result) == "fs"
    async with World(max_image_bytes=10_000) as world:
        for operations in ([insert("a", {"id": 1}), insert("p", many)], [insert("p", many)]):
            for pattern in ("staged", "saga"):
                result = await world.run(*operations, pattern=pattern)
                assert result.status == "compensated"
                assert "max_image_bytes" in result.error
                assert world.everything() == {tag: {} for tag in "abpq"}
                assert await world.leftovers() == []


async def test_a_value_that_cannot_be_journaled_fails_its_step():
    class Odd:
        pass

    async with World() as world:
        for odd in (Odd(), [{1, 2}, Odd()], "\ud800"):
            for pattern in ("staged", "saga"):
                result = await world.run(
                    insert("a", {"id": 1}), insert("p", {"id": 1, "odd": odd}), pattern=pattern
                )
                assert result.status == "compensated"
                assert "cannot be journaled" in result.error or "surrogates not allowed" in result.error
                assert list(result.step_results.values())[-1].status == "failed"
                assert world.everything() == {tag: {} for tag in "abpq"}
                assert await world.leftovers() == []


# Failures after the decision


async def test_a_foreign_write_between_plan_and_write_stages_again():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 5})
        await world.fill("a", {"id": 1, "n": 5})
        world.faults.before("p.write", lambda: world.foreign("p", 1, {"n": 50}))
        result = await world.run(
            update("a", 1, {"n": {"$increment": 1}}), update("p", 1, {"n": {"$increment": 1}})
        )
        assert result.raise_for_status().step_results["step_1"].attempts == 2
        assert (world.rows("a"), world.rows("p")) == ({1: {"n": 6}}, {1: {"n": 51}})
        assert await world.leftovers() == []


async def test_a_foreign_write_to_what_where_looked_at_is_a_conflict_too():
    async with World() as world:
        await world.fill("p", {"id": 1, "stock": 5, "active": True})
        world.faults.before("p.write", lambda: world.foreign("p", 1, {"active": False}))
        result = await world.run(
            insert("a", {"id": 1}),
            update("p", {"id": 1, "active": True}, {"stock": {"$decrement": 1}}, expect={"affected_rows": 1}),
        )
        assert result.status == "compensated"
        assert result.error == "step_1 (p, things.expect): expected affected_rows 1, found 0"
        assert world.rows("p") == {1: {"stock": 5, "active": False}}
        assert world.rows("a") == {}


async def test_a_foreign_write_again_and_again_ends_with_lock_timeout():
    async with World(lock_timeout=0.2) as world:
        await world.fill("p", {"id": 1, "n": 0})
        count = iter(range(10**6))

        async def meddle():
            await world.foreign("p", 1, {"n": next(count) + 100})

        world.faults.before("p.write", meddle, times=None)
        result = await world.run(update("p", 1, {"n": 1}), insert("q", {"id": 1}))
        assert result.status == "compensated"
        assert result.error == "step_0 (p, things): somebody else changed the record meanwhile"
        assert statuses(result) == "fu"
        assert world.rows("q") == {}
        assert await world.leftovers() == []


async def test_a_write_that_the_store_refuses_undoes_what_was_applied():
    async with World({**STORES, "q": {**STORES["q"], **UNIQUE}}) as world:
        await world.fill("p", {"id": 1, "n": 5})
        world.faults.before("q.write", lambda: world.foreign("q", 9, {"id": 9, "email": "x@y"}))
        result = await world.run(
            insert("a", {"id": 1}),
            update("p", 1, {"n": {"$increment": 1}}),
            insert("q", [{"id": 1, "email": "new"}, {"id": 2, "email": "x@y"}]),
        )
        assert (result.status, statuses(result)) == ("compensated", "uuf")
        assert result.error == "step_2 (q, things): email must be unique"
        assert isinstance(result.cause.__cause__, ConstraintViolated)
        assert world.rows("p") == {1: {"n": 5}}
        assert world.rows("q") == {9: {"email": "x@y"}}
        assert world.rows("a") == {}
        assert await world.leftovers() == []
        states = [entry.state for entry in await world.journal.entries()]
        assert states == ["compensated"]


async def test_a_foreign_write_meanwhile_becomes_residue():
    async with World({**STORES, "q": {**STORES["q"], **UNIQUE}}) as world:
        await world.fill("p", {"id": 1, "n": 5, "m": 1, "other": 1})

        async def meddle():
            await world.foreign("p", 1, {"n": 99, "other": 2})
            await world.foreign("q", 9, {"id": 9, "email": "x@y"})

        world.faults.before("q.write", meddle)
        result = await world.run(
            insert("a", {"id": 1}), update("p", 1, {"n": 6, "m": 2}), insert("q", {"id": 2, "email": "x@y"})
        )
        assert (result.status, statuses(result)) == ("failed", "uff")
        assert result.compensated_steps == ["step_0"]
        assert world.rows("p") == {1: {"n": 99, "m": 1, "other": 2}}
        (left,) = result.residue
        assert (left.step, left.tag, left.entity, left.key, left.field) == (
            "step_1",
            "p",
            "things",
            {"id": 1},
            "n",
        )
        assert (left.expected, left.found, left.reason) == (6, 99, "conflict")
        with pytest.raises(TransactionFailed) as caught:
            result.raise_for_status()
        assert "things {'id': 1} field 'n' - conflict: expected 6, found 99" in str(caught.value)
        assert await world.leftovers() == []
        assert [entry.state for entry in await world.journal.entries()] == ["failed"]


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("settle", [0.0, 0.05])
async def test_a_write_without_a_reply_is_looked_up(made, settle):
    async with World() as world:
        world.faults.declare("p", settle=settle)
        await world.fill("p", {"id": 1, "n": 5})
        lost = world.faults.lose if made else world.faults.fail
        lost("p.write", StoreOutcomeUnknown("no reply"))
        result = await world.run(
            insert("a", {"id": 1}),
            update("p", 1, {"n": {"$increment": 1}}),
            insert("p", [{"id": 2}, {"id": 3}]),
        )
        assert result.raise_for_status().step_results["step_1"].attempts == (1 if made else 2)
        assert world.rows("p") == {1: {"n": 6}, 2: {}, 3: {}}
        assert await world.leftovers() == []


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_several_writes_of_a_step_without_replies(nth):
    async with World() as world:
        world.faults.lose("p.write", StoreOutcomeUnknown("no reply"), nth=nth, times=2)
        result = await world.run(insert("a", {"id": 1}), insert("p", [{"id": n} for n in range(3)]))
        assert result.ok
        assert world.rows("p") == {n: {} for n in range(3)}


@pytest.mark.parametrize("taken", [1, 2, 3, 5])
async def test_a_store_that_sends_all_at_once_has_made_what_stands_behind_a_conflict(taken):
    """Whoever took one record of several: all others that were sent with it are undone."""
    async with World(lock_timeout=0.1) as world:
        world.faults.send_together("p")
        await world.fill("p", *({"id": n, "n": n} for n in range(1, 6)))

        async def meddle():
            await world.foreign("p", taken, {"n": 99})

        world.faults.before("p.write", meddle)
        result = await world.run(insert("a", {"id": 1}), update("p", {}, {"n": {"$multiply": 2}}, all=True))
        assert result.ok
        assert result.step_results["step_1"].attempts == 2
        expected = {n: {"n": 198 if n == taken else 2 * n} for n in range(1, 6)}
        assert world.rows("p") == expected
        assert await world.leftovers() == []


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(("nth", "times"), [(1, 5), (2, 1), (2, 3), (5, 1)])
async def test_a_store_that_sends_all_at_once_and_loses_replies(made, nth, times):
    async with World() as world:
        world.faults.send_together("p")
        lost = world.faults.lose if made else world.faults.fail
        lost("p.write", StoreOutcomeUnknown("no reply"), nth=nth, times=times)
        result = await world.run(insert("a", {"id": 1}), insert("p", [{"id": n} for n in range(1, 6)]))
        assert result.ok
        assert world.rows("p") == {n: {} for n in range(1, 6)}
        assert await world.leftovers() == []


async def test_a_store_that_sends_all_at_once_where_one_is_lost_and_another_refused():
    async with World({**STORES, "p": {**STORES["p"], **UNIQUE}}) as world:
        world.faults.send_together("p")
        await world.fill("p", {"id": 9, "email": "x@y"})
        world.faults.lose("p.write", StoreOutcomeUnknown("no reply"))

        async def meddle():
            await world.foreign("p", 8, {"id": 8, "email": "b@y"})

        world.faults.before("p.write", meddle)
        records = [{"id": 1, "email": "a@y"}, {"id": 2, "email": "b@y"}, {"id": 3, "email": "c@y"}]
        result = await world.run(insert("a", {"id": 1}), insert("p", records))
        assert (result.status, statuses(result)) == ("compensated", "uf")
        assert result.error == "step_1 (p, things): email must be unique"
        assert world.rows("p") == {9: {"email": "x@y"}, 8: {"email": "b@y"}}
        assert await world.leftovers() == []


@pytest.mark.parametrize("lost", [False, True])
async def test_undo_in_a_store_that_sends_all_at_once(lost):
    """One record has changed since: that one is merged again, and nothing is undone twice."""
    async with World() as world:
        await world.fill("p", *({"id": n, "n": n, "m": 0} for n in range(1, 4)))
        world.faults.fail("q.write", StoreError("no"))
        world.faults.send_together("p")

        async def meddle():
            await world.foreign("p", 2, {"m": 7})

        world.faults.before("p.write", meddle, nth=5)
        if lost:
            world.faults.lose("p.write", StoreOutcomeUnknown("no reply"), nth=4)
        steps = update("p", {}, {"n": {"$increment": 5}}, all=True), insert("q", {"id": 1})
        result = await world.run(*steps)
        assert result.status == "compensated"
        assert world.rows("p") == {1: {"n": 1, "m": 0}, 2: {"n": 2, "m": 7}, 3: {"n": 3, "m": 0}}
        assert await world.leftovers() == []


async def test_a_write_without_a_reply_that_somebody_overwrote_in_part():
    """Neither as before nor as after: our part of it goes again, the rest is named."""
    async with World(lock_timeout=0.1) as world:
        await world.fill("p", {"id": 1, "n": 5, "m": 1})

        async def lost():
            await world.foreign("p", 1, {"n": 99})
            raise StoreOutcomeUnknown("no reply")

        world.faults.after("p.write", lost)
        result = await world.run(insert("a", {"id": 1}), update("p", 1, {"n": 6, "m": 2}))
        assert result.status == "failed"
        assert world.rows("p") == {1: {"n": 99, "m": 1}}
        assert [(item.field, item.expected, item.found) for item in result.residue] == [("n", 6, 99)]
        assert world.rows("a") == {}


async def test_a_write_that_cannot_even_be_looked_up_is_an_unknown_outcome():
    async with World(grace=0.2) as world:
        await world.fill("p", {"id": 1, "n": 5})
        world.faults.lose("p.write", StoreOutcomeUnknown("no reply"))
        world.faults.fail("p.read", StoreUnavailable("gone"), times=None)
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(insert("a", {"id": 1}), update("p", 1, {"n": 6}))
        (entry,) = await world.journal.entries()
        assert (entry.state, entry.transaction_id) == ("committing", caught.value.transaction_id)
        assert await world.journal.locked(entry.locks()) is not None


async def test_a_store_that_raises_instead_of_answering_a_write():
    for error in (StoreUnavailable("gone"), StoreError("odd"), RuntimeError("a bug")):
        async with World(lock_timeout=0.1) as world:
            world.faults.fail("p.write", error, nth=2)
            result = await world.run(
                insert("a", {"id": 1}), insert("p", {"id": 1}), insert("p", [{"id": 2}, {"id": 3}])
            )
            assert result.status == "compensated"
            assert statuses(result) == "uuf"
            assert world.everything() == {tag: {} for tag in "abpq"}
            assert await world.leftovers() == []


# Commits


@pytest.mark.parametrize("victim", ["a", "b"])
async def test_a_commit_that_fails_is_driven_forward(victim):
    async with World() as world:
        await world.fill("a", {"id": 2, "n": 1}, {"id": 3})
        world.faults.fail(f"{victim}.commit", StoreError("disk full"))
        result = await world.run(
            insert("a", {"id": 1}),
            update("a", 2, {"n": {"$increment": 1}}),
            update("a", 2, {"n": {"$increment": 1}}),
            delete("a", 3),
            insert("b", {"id": 1}),
            insert("p", {"id": 1}),
        )
        result.raise_for_status()
        assert world.rows("a") == {1: {}, 2: {"n": 3}}
        assert world.rows("b") == world.rows("p") == {1: {}}
        assert await world.leftovers() == []


@pytest.mark.parametrize("victim", ["a", "b"])
async def test_a_commit_that_cannot_be_driven_forward_goes_backward(victim):
    stores = {**STORES, "a": {**STORES["a"], **UNIQUE}, "b": {**STORES["b"], **UNIQUE}}
    async with World(stores) as world:

        async def refuse():
            await world.foreign(victim, 9, {"id": 9, "email": "x@y"})
            raise ConstraintViolated("deferred constraint")

        world.faults.before(f"{victim}.commit", refuse)
        result = await world.run(*[insert(tag, {"id": 1, "email": "x@y"}) for tag in "abp"])
        assert result.status == "compensated"
        assert statuses(result) == {"a": "fuu", "b": "ufu"}[victim]
        assert world.rows("p") == {}
        assert world.rows(victim) == {9: {"email": "x@y"}}
        assert world.rows({"a": "b", "b": "a"}[victim]) == {}
        assert await world.leftovers() == []


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_commit_without_a_reply_is_looked_up(committed, alone):
    async with World() as world:
        await world.fill("a", {"id": 2, "n": 1})
        lost = world.faults.lose if committed else world.faults.fail
        lost("a.commit", StoreOutcomeUnknown("no reply"))
        operations = [insert("a", {"id": 1}), update("a", 2, {"n": 2}), update("a", 2, {"m": 2})]
        result = await world.run(*operations, *([] if alone else [insert("p", {"id": 1})]))
        if alone and not committed:
            assert result.status == "compensated"
            assert world.rows("a") == {2: {"n": 1}}
            assert "not committed: no reply" in result.error
        else:
            result.raise_for_status()
            assert world.rows("a") == {1: {}, 2: {"n": 2, "m": 2}}
            assert world.rows("p") == ({} if alone else {1: {}})
        assert await world.leftovers() == []


@pytest.mark.parametrize(
    ("answer", "status"), [(Outcome.COMMITTED, "completed"), (Outcome.ROLLED_BACK, "compensated")]
)
async def test_a_store_that_can_be_asked_is_believed(answer, status):
    async with World() as world:
        world.faults.declare("a", asks=True)

        async def outcome(_):
            return answer

        world.stores["a"].outcome = outcome
        world.faults.fail("a.commit", StoreOutcomeUnknown("no reply"))
        result = await world.run(insert("a", {"id": 1}))
        assert result.status == status
        assert "a.outcome" in world.faults.calls
        assert "a.read" not in world.faults.calls


async def test_a_commit_that_changed_nothing_visible_and_lost_its_reply_counts_as_made():
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 1})
        world.faults.lose("a.commit", StoreOutcomeUnknown("no reply"))
        assert (await world.run(update("a", 1, {"n": 1}))).ok


async def test_a_lost_commit_is_looked_up_again_while_the_store_is_away():
    for alone in (True, False):
        async with World() as world:
            world.faults.lose("a.commit", StoreOutcomeUnknown("no reply"))
            world.faults.fail("a.unit", StoreUnavailable("restarting"), nth=2, times=3)
            result = await world.run(insert("a", {"id": 1}), *([] if alone else [insert("p", {"id": 1})]))
            assert result.ok
            assert world.rows("a") == {1: {}}


async def test_a_lost_commit_that_nobody_can_look_up():
    async with World(grace=0.1) as world:
        world.faults.lose("a.commit", StoreOutcomeUnknown("no reply"))
        world.faults.fail("a.unit", StoreUnavailable("gone"), nth=2, times=None)
        with pytest.raises(OutcomeUnknown) as alone:
            await world.run(insert("a", {"id": 1}))
        assert "lost the reply to its commit" in str(alone.value)
        assert "locked" not in str(alone.value)  # nothing is in the journal
    async with World(grace=0.1) as world:
        world.faults.lose("a.commit", StoreOutcomeUnknown("no reply"))
        world.faults.fail("a.unit", StoreUnavailable("gone"), nth=2, times=None)
        with pytest.raises(OutcomeUnknown) as several:
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        assert several.value.transaction_id in str(several.value)
        assert [entry.state for entry in await world.journal.entries()] == ["committing"]


async def test_one_commit_is_refused_while_anothers_reply_is_lost():
    """Going backward, the one in doubt is looked up and undone too."""
    for lost_first in (True, False):
        async with World({**STORES, "a": {**STORES["a"], **UNIQUE}, "b": {**STORES["b"], **UNIQUE}}) as world:
            refused, lost = ("b", "a") if lost_first else ("a", "b")
            await world.fill(lost, {"id": 5, "n": 1})

            async def refuse(victim=refused, world=world):
                await world.foreign(victim, 9, {"id": 9, "email": "x@y"})
                raise ConstraintViolated("deferred constraint")

            world.faults.before(f"{refused}.commit", refuse)
            world.faults.lose(f"{lost}.commit", StoreOutcomeUnknown("no reply"))
            world.faults.fail(f"{lost}.unit", StoreUnavailable("away"), nth=2, times=6)
            world.faults.delay(f"{lost}.unit", 0.001, nth=2)
            result = await world.run(
                insert(refused, {"id": 1, "email": "x@y"}),
                update(lost, 5, {"n": {"$increment": 1}}),
                update(lost, 5, {"n": {"$increment": 1}}),
            )
            assert result.status == "compensated"
            assert world.rows(lost) == {5: {"n": 1}}
            assert world.rows(refused) == {9: {"email": "x@y"}}
            assert await world.leftovers() == []


async def test_a_bug_in_one_commit_does_not_stop_the_others():
    async with World() as world:
        world.faults.fail("a.commit", RuntimeError("a bug"))
        world.faults.delay("b.commit", 0.02)
        result = await world.run(insert("a", {"id": 1}), insert("b", {"id": 1}))
        assert result.ok
        assert world.rows("a") == world.rows("b") == {1: {}}


async def test_undo_while_the_store_is_away_tries_until_grace_is_over():
    async with World({**STORES, "q": {**STORES["q"], **UNIQUE}}, grace=0.3) as world:
        await world.fill("p", {"id": 1, "n": 5})

        async def prepare():
            await world.foreign("q", 9, {"id": 9, "email": "x@y"})
            world.faults.fail("p.unit", StoreUnavailable("gone"), times=None)

        world.faults.before("q.write", prepare)
        result = await world.run(
            insert("p", {"id": 2}), update("p", 1, {"n": 6}), insert("q", {"id": 1, "email": "x@y"})
        )
        assert (result.status, statuses(result)) == ("failed", "fff")
        assert [(item.step, item.reason) for item in result.residue] == [
            ("step_1", "unreachable"),
            ("step_0", "unreachable"),
        ]
        assert "gone" in result.residue[0].detail
        world.faults.clear()
        assert [item.status for item in await world.warehouse.recover()] == ["compensated"]
        assert (await world.warehouse.wait(result.transaction_id)).status == "compensated"
        assert world.rows("p") == {1: {"n": 5}}


async def test_a_bug_in_an_undo_does_not_keep_the_others_from_being_undone():
    async with World({**STORES, "b": {**STORES["b"], **UNIQUE}}, grace=0.3) as world:

        async def refuse():
            await world.foreign("b", 9, {"id": 9, "email": "x@y"})
            raise ConstraintViolated("deferred constraint")

        world.faults.before("b.commit", refuse)
        world.faults.fail("q.read", ZeroDivisionError("a bug"), times=None)
        result = await world.run(
            insert("p", {"id": 1}), insert("q", {"id": 1}), insert("b", {"id": 1, "email": "x@y"})
        )
        assert result.status == "failed"
        assert [(item.tag, item.reason) for item in result.residue] == [("q", "unreachable")]
        assert world.rows("p") == {}


# The journal


async def test_a_journal_that_cannot_be_written_leaves_nothing():
    for call in ("sequence", "decide"):
        async with World() as world:
            world.faults.fail(f"journal.{call}", JournalUnavailable("disk full"))
            with pytest.raises(JournalUnavailable):
                await world.run(*four())
            assert world.everything() == {tag: {} for tag in "abpq"}
            assert await world.leftovers() == []
            assert (await world.run(*four())).ok
    async with World() as world:
        world.faults.fail("journal.locked", JournalUnavailable("gone"))
        with pytest.raises(JournalUnavailable):
            await world.run(insert("a", {"id": 1}))
        assert world.rows("a") == {}
        assert await world.leftovers() == []


async def test_a_decide_whose_reply_is_lost_is_settled():
    async with World() as world:
        world.faults.lose("journal.decide", ReplyLost("no reply"))
        assert (await world.run(*four())).ok
        assert world.rows("p") == {1: {"n": 2}}
        assert await world.leftovers() == []
    async with World() as world:
        world.faults.fail("journal.decide", ReplyLost("no reply"))
        with pytest.raises(JournalUnavailable):
            await world.run(*four())
        assert world.everything() == {tag: {} for tag in "abpq"}
        assert await world.leftovers() == []


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_decide_that_cannot_be_settled_is_an_unknown_outcome(arrived):
    async with World() as world:
        lost = world.faults.lose if arrived else world.faults.fail
        lost("journal.decide", ReplyLost("no reply"))
        world.faults.fail("journal.settle", JournalUnavailable("gone"))
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(*four())
        assert world.everything() == {tag: {} for tag in "abpq"}
        entries = await world.journal.entries()
        assert [entry.transaction_id for entry in entries] == [caught.value.transaction_id] * arrived


@pytest.mark.parametrize("error", [JournalUnavailable("gone"), ReplyLost("no reply")])
async def test_an_outcome_that_cannot_be_journaled_is_unknown(error):
    async with World() as world:
        world.faults.fail("journal.finish", error, times=None)
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(*four())
        assert caught.value.transaction_id
        assert world.rows("a") == {1: {"n": 0}}
        (entry,) = await world.journal.entries()
        assert entry.state == "committing"
        again = await world.run(update("a", 1, {"n": 1}))
        assert again.status == "compensated"
        assert "is locked by transaction" in again.error


# Retries


async def test_transient_errors_are_tried_again_as_often_as_asked_for():
    for tag in "ap":
        async with World() as world:
            world.faults.fail(f"{tag}.execute", StoreUnavailable("gone"), times=2)
            assert not (await world.run(*four())).ok
            world.faults.clear()
            world.faults.fail(f"{tag}.execute", StoreUnavailable("gone"), times=3)
            result = await world.run(*four(), retry_on_failure=True, max_retries=3)
            assert result.ok
            assert max(step.attempts for step in result.step_results.values()) == 4
            world.faults.clear()
            world.faults.fail(f"{tag}.execute", StoreUnavailable("gone"), times=4)
            result = await world.run(
                *[delete(tag, 1) for tag in "abpq"], retry_on_failure=True, max_retries=3
            )
            assert not result.ok


async def test_a_steps_own_max_retries():
    async with World() as world:
        world.faults.fail("p.execute", StoreUnavailable("gone"), times=2)
        result = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}, max_retries=2))
        assert result.ok
        world.faults.clear()
        world.faults.fail("p.execute", StoreUnavailable("gone"))
        result = await world.run(delete("a", 1), delete("p", 1, max_retries=0), retry_on_failure=True)
        assert not result.ok


async def test_other_errors_are_not_tried_again():
    async with World() as world:
        world.faults.fail("p.execute", StoreError("no"))
        result = await world.run(*four(), retry_on_failure=True)
        assert (result.status, result.step_results["step_2"].attempts) == ("compensated", 1)


async def test_contention_is_tried_again_one_store_after_the_other():
    async with World() as world:
        world.faults.fail("a.execute", StoreContention("deadlock"))
        result = await world.run(insert("p", {"id": 1}), insert("b", {"id": 1}), insert("a", {"id": 1}))
        assert result.ok
        calls = [call for call in world.faults.calls if call.endswith(".execute")]
        assert calls[-3:] == ["a.execute", "b.execute", "p.execute"]


async def test_contention_ends_with_lock_timeout():
    async with World(lock_timeout=0.15) as world:
        world.faults.fail("a.execute", StoreContention("deadlock"), times=None)
        started = time.monotonic()
        result = await world.run(*four())
        assert 0.02 < time.monotonic() - started < 1.0
        assert result.error == "step_0 (a, things): deadlock"


# Contention between transactions


async def test_two_transactions_on_the_same_records_lose_no_update():
    async with World(lock_timeout=5) as world:
        for tag in "abpq":
            await world.fill(tag, {"id": 1, "n": 0})

        async def count(order):
            operations = [update(tag, 1, {"n": {"$increment": 1}}) for tag in order]
            return await world.run(*operations)

        orders = list(permutations("abpq"))[:8]
        results = await asyncio.gather(*(count(order) for order in orders))
        assert [result.status for result in results] == ["completed"] * 8
        assert world.everything() == {tag: {1: {"n": 8}} for tag in "abpq"}
        assert await world.leftovers() == []


async def test_a_lone_store_waits_for_a_transaction_that_has_its_record():
    """A transaction without protocol looks at the locks after staging (DESIGN 7)."""
    async with World(lock_timeout=5) as world:
        await world.fill("a", {"id": 1, "n": 0})
        seen = []

        async def meanwhile():
            task = asyncio.create_task(world.run(update("a", 1, {"n": {"$increment": 10}})))
            seen.append(task)
            await asyncio.sleep(0.05)

        world.faults.before("journal.finish", meanwhile)
        assert (await world.run(update("a", 1, {"n": {"$increment": 1}}), insert("p", {"id": 1}))).ok
        later = await seen[0]
        assert later.ok
        assert later.step_results["step_0"].attempts > 1
        assert world.rows("a") == {1: {"n": 11}}


async def test_a_locked_record_names_itself_and_its_holder():
    async with World(lock_timeout=0.1) as world:
        world.faults.fail("journal.finish", JournalUnavailable("gone"))
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        holder = caught.value.transaction_id
        for operations in ([update("a", 1, {"n": 1})], [insert("q", {"id": 1}), update("a", 1, {"n": 1})]):
            result = await world.run(*operations)
            step = list(result.step_results)[-1]
            assert result.status == "compensated"
            assert result.step_results[step].status == "failed"
            assert result.error == (
                f"{step} (a, things): things {{'id': 1}} is locked by transaction {holder} - "
                "it did not become free within lock_timeout: try again, or raise that"
            )
            assert isinstance(result.cause.__cause__, TransactionConflict)
        assert world.rows("q") == {}


async def test_a_unique_value_is_locked_like_a_record():
    async with World({**STORES, "a": {**STORES["a"], **UNIQUE}}, lock_timeout=0.1) as world:
        world.faults.fail("journal.finish", JournalUnavailable("gone"))
        with pytest.raises(OutcomeUnknown):
            await world.run(insert("a", {"id": 1, "email": "x@y"}), insert("p", {"id": 1}))
        await world.foreign("a", 1, ABSENT)
        result = await world.run(insert("a", {"id": 2, "email": "x@y"}), insert("p", {"id": 2}))
        assert "{'email': 'x@y'} is locked by" in result.error


async def test_c08_a_plan_that_another_transaction_outran_is_made_again():
    """Counterexample C8: the record is free again, but not as it was read."""
    async with World(lock_timeout=5) as world:
        await world.fill("p", {"id": 1, "n": 0, "m": 0})
        other = []

        async def outrun():
            if not other:
                other.append(await world.run(update("p", 1, {"m": 1}), insert("q", {"id": 7})))

        world.faults.before("journal.decide", outrun)
        result = await world.run(update("p", 1, {"n": 1}), insert("q", {"id": 1}))
        assert result.ok
        assert result.step_results["step_0"].attempts == 2
        assert result.step_results["step_0"].data == [{"id": 1, "n": 1, "m": 1}]


# Time


async def test_the_timeout_ends_a_slow_step_in_the_middle():
    for slow in "abpq":
        async with World() as world:
            world.faults.delay(f"{slow}.execute", 5)
            started = time.monotonic()
            result = await world.run(*four(), timeout=0.1)
            assert time.monotonic() - started < 1
            at = "abpq".index(slow)
            assert statuses(result) == "uuu"[:at] + "f" + "sss"[: 3 - at]
            assert result.error == (
                f"step_{at} ({slow}, things): the transaction's timeout of 0.1 s ran out - raise `timeout`"
            )
            assert isinstance(result.cause.__cause__, TimeoutError)
            assert world.everything() == {tag: {} for tag in "abpq"}
            assert await world.leftovers() == []


async def test_a_step_has_its_own_time():
    async with World() as world:
        world.faults.delay("p.execute", 5)
        result = await world.run(*four(), step_timeout=0.05)
        assert statuses(result) == "uufs"
        assert result.error == "step_2 (p, things): it took longer than 0.05 s"
        result = await world.run(
            insert("a", {"id": 1}), insert("p", {"id": 1}, timeout=0.02), step_timeout=60
        )
        assert result.error == "step_1 (p, things): it took longer than 0.02 s"
        world.faults.clear()
        world.faults.fail("p.execute", TimeoutError("the driver's own"))
        result = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        assert result.error == "step_1 (p, things): TimeoutError: the driver's own"


async def test_after_the_decision_it_goes_forward_whatever_the_time():
    async with World() as world:
        world.faults.delay("p.write", 0.2)
        world.faults.delay("a.commit", 0.2)
        assert (await world.run(*four(), timeout=0.15)).ok


async def test_waiting_for_a_record_ends_with_the_timeout():
    async with World(lock_timeout=60) as world:
        await world.fill("a", {"id": 1})
        blocker = await world.held("a", 1)
        result = await world.run(insert("p", {"id": 1}), update("a", 1, {"n": 1}), timeout=0.1)
        await blocker.rollback()
        assert statuses(result) == "uf"
        assert "timeout of 0.1 s" in result.error


# allow_fail


async def test_a_step_that_may_fail():
    async with World({**STORES, "a": {**STORES["a"], **UNIQUE}}) as world:
        await world.fill("a", {"id": 9, "email": "x@y"})
        result = await world.run(
            insert("a", {"id": 1}),
            insert("a", [{"id": 2}, {"id": 3, "email": "x@y"}], allow_fail=True),
            insert("p", {"id": 1}),
            insert("a", {"id": 4}, after=["step_1"]),
        )
        assert (result.status, statuses(result)) == ("completed", "cfcc")
        assert result.step_results["step_1"].error == "step_1 (a, things): email must be unique"
        assert result.error is None
        assert set(world.rows("a")) == {1, 4, 9}
        assert await world.leftovers() == []


@pytest.mark.parametrize("error", [StoreContention("deadlock"), StoreUnavailable("connection lost")])
async def test_a_step_that_may_fail_never_takes_its_unit_with_it(error):
    """A deadlock or a lost connection ends the store's whole transaction: nothing may be built on what is left."""

    async with World(lock_timeout=0.2) as world:
        world.faults.fail("a.execute", error, nth=2, times=1)
        result = await world.run(
            insert("a", {"id": 1}),
            insert("a", {"id": 2}, allow_fail=True),
            insert("a", {"id": 3}),
            insert("p", {"id": 1}),
        )
        assert result.status == "completed"
        assert set(world.rows("a")) >= {1, 3}
        rollbacks = [call for call in world.faults.calls if call in ("a.unit", "a.commit")]
        assert rollbacks == ["a.unit", "a.unit", "a.commit"]


async def test_a_step_that_may_fail_and_always_does_is_left_out():
    async with World(lock_timeout=0.1) as world:
        world.faults.delay("q.execute", 5)
        result = await world.run(
            insert("a", {"id": 1}),
            insert("q", {"id": 2}, allow_fail=True, timeout=0.05),
            insert("q", {"id": 1}, timeout=0.05, allow_fail=True),
        )
        assert (result.status, statuses(result)) == ("completed", "cff")
        assert world.rows("a") == {1: {}}
        assert "took longer" in result.step_results["step_1"].error
        assert await world.leftovers() == []


async def test_a_reference_to_a_step_that_was_let_off():
    async with World() as world:
        await world.fill("a", {"id": 1})
        result = await world.run(
            insert("a", {"id": 1}, allow_fail=True, name="maybe"),
            insert("p", {"id": 1, "x": ref("maybe.id")}),
        )
        assert (result.status, statuses(result)) == ("compensated", "ff")
        assert "'maybe.id' names a step that failed" in result.error


async def test_expect_and_allow_fail_are_refused_together():
    async with World() as world:
        with pytest.raises(InvalidOperation) as caught:
            await world.run(
                update("a", 1, {"n": 1}, expect={"affected_rows": 1}, allow_fail=True), insert("p", {"id": 1})
            )
        assert caught.value.field == "allow_fail"
        world.faults.declare("a", savepoints=False)
        with pytest.raises(InvalidOperation):
            await world.run(update("a", 1, {"n": 1}, allow_fail=True), insert("p", {"id": 1}))


# Steps that go together


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreError("no"), RuntimeError("a bug")])
@pytest.mark.parametrize("call", ["unit", "execute_together"])
async def test_steps_that_cannot_go_together_go_one_by_one(call, error):
    async with World() as world:
        world.faults.declare("a", together=True)
        operations = [insert("a", {"id": 1}), insert("a", {"id": 2})]
        assert (await world.run(*operations)).ok
        assert "a.execute" not in world.faults.calls
        world.faults.fail(f"a.{call}", error)
        again = await world.run(insert("a", {"id": 3}), insert("a", {"id": 4}))
        assert again.ok
        assert [step.attempts for step in again.step_results.values()] == [1, 1]
        failed = await world.run(insert("a", {"id": 5}), insert("a", {"id": 4}))
        assert statuses(failed) == "uf"
        assert set(world.rows("a")) == {1, 2, 3, 4}
        world.faults.fail("a.unit", error, times=None)
        failed = await world.run(insert("a", {"id": 5}), insert("a", {"id": 6}))
        assert statuses(failed) == "fs"
        assert await world.leftovers() == []


async def test_steps_that_go_together_end_with_the_timeout():
    async with World() as world:
        world.faults.declare("a", together=True)
        world.faults.delay("a.execute_together", 5)
        result = await world.run(insert("a", {"id": 1}), insert("a", {"id": 2}), timeout=0.05)
        assert statuses(result) == "fs"
        assert await world.leftovers() == []


async def test_a_commit_in_doubt_is_undone_when_another_cannot_be_made():
    """Nobody can tell while it is asked; going backward, its records are looked at again."""
    async with World({**STORES, "a": {**STORES["a"], **UNIQUE}}, grace=0.05) as world:
        await world.fill("b", {"id": 5, "n": 1})

        async def refuse():
            await world.foreign("a", 9, {"id": 9, "email": "x@y"})
            raise ConstraintViolated("deferred constraint")

        async def away():
            if "journal.change_state" not in world.faults.calls:
                raise StoreUnavailable("away")

        world.faults.before("a.commit", refuse)
        world.faults.lose("b.commit", StoreOutcomeUnknown("no reply"))
        world.faults.before("b.unit", away, nth=2, times=None)
        result = await world.run(
            insert("a", {"id": 1, "email": "x@y"}), update("b", 5, {"n": {"$increment": 1}})
        )
        assert (result.status, statuses(result)) == ("compensated", "fu")
        assert world.rows("b") == {5: {"n": 1}}
        assert await world.leftovers() == []


async def test_driving_forward_loses_its_reply_too():
    """Two changes of one record: it is as the second left it, and not as the first did."""
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 5})
        world.faults.fail("a.commit", StoreOutcomeUnknown("the request was lost"))
        world.faults.lose("a.commit", StoreOutcomeUnknown("the reply was lost"), nth=2)
        add = {"n": {"$increment": 1}}
        result = await world.run(update("a", 1, add), update("a", 1, add), insert("p", {"id": 1}))
        assert result.ok
        assert result.step_results["step_0"].attempts == 1
        assert world.rows("a") == {1: {"n": 7}}


async def test_driving_forward_loses_its_reply_and_somebody_writes():
    """Going backward, what may have been made forward is undone; what cannot be is named."""
    async with World(lock_timeout=0.1) as world:
        await world.fill("a", {"id": 1, "n": 5, "m": 5})
        world.faults.fail("a.commit", StoreError("no"))

        async def lost():
            await world.foreign("a", 1, {"n": 99})
            raise StoreOutcomeUnknown("the reply was lost")

        world.faults.after("a.commit", lost, nth=2)
        result = await world.run(update("a", 1, {"n": 6, "m": 6}), insert("p", {"id": 1}))
        assert result.status == "failed"
        assert [(item.field, item.expected, item.found) for item in result.residue] == [("n", 6, 99)]
        assert world.rows("a") == {1: {"n": 99, "m": 5}}
        assert world.rows("p") == {}
