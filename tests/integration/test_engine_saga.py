"""The pattern `saga` over in-process stores: committed step by step, undone in reverse."""

import asyncio
import time

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
    TransactionFailed,
    ref,
)
from warehouse.journal.base import ReplyLost
from warehouse.records import ABSENT

pytestmark = pytest.mark.anyio
SAGA = {"pattern": "saga"}
EMPTY = {tag: {} for tag in "abpq"}


def four():
    return [insert(tag, {"id": 1, "n": index}) for index, tag in enumerate("abpq")]


def chosen(calls, *names):
    return [call for call in calls if call.partition(".")[2] in names]


async def test_each_step_is_journaled_then_committed_before_the_next():
    async with World() as world:
        result = await world.run(*four(), **SAGA)
        assert (result.raise_for_status().pattern, statuses(result)) == ("saga", "cccc")
        assert chosen(world.faults.calls, "execute", "decide", "append", "commit", "write", "finish") == [
            *["a.execute", "journal.decide", "a.commit"],
            *["b.execute", "journal.append", "b.commit"],
            *["p.execute", "journal.append", "p.write"],
            *["q.execute", "journal.append", "q.write"],
            "journal.finish",
        ]
        (entry,) = await world.journal.entries()
        assert (entry.state, entry.pattern, len(entry.steps)) == ("completed", "saga", 4)
        assert await world.leftovers() == []


@pytest.mark.parametrize(("option", "value"), [("availability", "high"), ("consistency", "eventual")])
async def test_it_is_chosen_where_that_was_wished_for(option, value):
    async with World() as world:
        assert (await world.run(*four(), **{option: value})).pattern == "saga"
        assert (await world.run(delete("a", 1), **{option: value})).pattern == "staged"


@pytest.mark.parametrize("at", range(5))
async def test_a_failure_undoes_what_was_committed(at):
    async with World() as world:
        tags = "abpqa"
        await world.fill(tags[at], {"id": 9, "old": True})
        operations = [insert(tag, {"id": index}) for index, tag in enumerate(tags)]
        operations[at] = insert(tags[at], {"id": 9})
        before = world.everything()
        result = await world.run(*operations, **SAGA)
        assert result.status == "compensated"
        assert statuses(result) == "u" * at + "f" + "s" * (4 - at)
        assert result.compensated_steps == [f"step_{n}" for n in range(at)]
        assert world.everything() == before
        assert await world.leftovers() == []
        assert [entry.state for entry in await world.journal.entries()] == (["compensated"] if at else [])


async def test_every_operation_is_undone():
    async with World() as world:
        for tag in "ap":
            await world.fill(tag, {"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 3, "n": 3, "deep": {"x": 1}})
        before = world.everything()
        operations = [
            step
            for tag in "ap"
            for step in (
                insert(tag, [{"id": 4, "n": 4}, {"id": 5}]),
                update(tag, {"n": {"$lte": 4}}, {"n": {"$increment": 10}, "new.deep": [1]}),
                update(tag, 3, {"deep.y": 2, "n": {"$unset": True}}),
                upsert(tag, [{"id": 5, "n": 50}, {"id": 6, "n": 60}]),
                delete(tag, {"id": {"$in": [1, 6]}}),
                update(tag, 2, {"n": {"$multiply": 3}}),
            )
        ]
        result = await world.run(*operations, update("q", 1, {"n": 1}, expect={"affected_rows": 1}), **SAGA)
        assert result.status == "compensated", result
        assert statuses(result) == "u" * 12 + "f"
        assert world.everything() == before


async def test_undone_in_reverse_and_by_priority():
    async with World() as world:
        operations = [
            insert("a", {"id": 1}),
            insert("b", {"id": 1}, compensation_priority=5),
            insert("p", {"id": 1}),
            insert("q", {"id": 1}, compensation_priority=5),
            update("a", 9, {"n": 1}, expect={"affected_rows": 1}),
        ]
        result = await world.run(*operations, **SAGA)
        assert result.status == "compensated"
        undone = world.faults.calls[world.faults.calls.index("journal.change_state") :]
        assert chosen(undone, "write") == ["q.write", "b.write", "p.write", "a.write"]


async def test_undone_in_reverse_of_the_order_of_execution():
    async with World() as world:
        operations = [
            insert("a", {"id": 1}, after=["first"]),
            insert("p", {"id": 1}, name="first"),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}, name="last"),
        ]
        await world.run(*operations, **SAGA)
        assert chosen(world.faults.calls, "write") == ["p.write", "a.write", "p.write"]


async def test_an_ordered_relationship_is_undone_before_its_node():
    """In a graph the order matters: a node goes only when nothing is connected to it."""
    async with World({"g": {"adapter": "memory", "type": "graph"}, "a": STORES["a"]}) as world:
        user = {"tag": "g", "entity": "User"}
        ends = {
            "start": {"entity": "User", "where": {"id": 1}},
            "end": {"entity": "User", "where": {"id": 2}},
        }
        result = await world.run(
            {
                "operation": "insert",
                "from": {"tag": "g", "relationship": "KNOWS"},
                "data": ends,
                "after": ["users"],
            },
            {"operation": "insert", "from": user, "data": [{"id": 1}, {"id": 2}], "name": "users"},
            update("a", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert result.status == "compensated", result.residue
        assert world.rows("g", "User") == {}


async def test_a_foreign_write_to_another_field_survives():
    async with World() as world:
        for tag in "ap":
            await world.fill(tag, {"id": 1, "n": 5, "other": 1})

        async def meddle():
            for tag in "ap":
                await world.foreign(tag, 1, {"other": 2})

        world.faults.before("q.execute", meddle)
        result = await world.run(
            update("a", 1, {"n": 6}),
            update("p", 1, {"n": 6}),
            update("q", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert result.status == "compensated"
        assert world.rows("a") == world.rows("p") == {1: {"n": 5, "other": 2}}


async def test_a_foreign_increment_survives():
    async with World() as world:
        for tag in "ap":
            await world.fill(tag, {"id": 1, "n": 5})

        async def meddle():
            for tag in "ap":
                await world.foreign(tag, 1, {"n": world.rows(tag)[1]["n"] + 100})

        world.faults.before("q.execute", meddle)
        step = {"n": {"$increment": 1}}
        result = await world.run(
            *[update(tag, 1, step) for tag in "aapp"],
            update("q", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert result.status == "compensated"
        assert world.rows("a") == world.rows("p") == {1: {"n": 105}}


@pytest.mark.parametrize("tag", ["a", "p"])
async def test_a_clash_names_everything_and_the_rest_is_undone(tag):
    async with World() as world:
        await world.fill(tag, {"id": 1, "n": 5, "m": 5}, {"id": 2, "n": 5})

        async def meddle():
            await world.foreign(tag, 1, {"n": 99})
            await world.foreign(tag, 3, ABSENT)
            await world.foreign(tag, 4, {"n": 99})

        world.faults.before("b.execute", meddle)
        result = await world.run(
            insert("q", {"id": 1}),
            update(tag, {"id": {"$in": [1, 2]}}, {"n": 6, "m": 6}, name="change"),
            insert(tag, [{"id": 3, "n": 1}, {"id": 4, "n": 1}], name="create"),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert (result.status, statuses(result)) == ("failed", "uff" + "f")
        assert result.compensated_steps == ["step_0"]
        found = [
            (item.step, item.key["id"], item.field, item.expected, item.found, item.reason)
            for item in result.residue
        ]
        assert found == [("create", 4, "n", 1, 99, "conflict"), ("change", 1, "n", 6, 99, "conflict")]
        assert world.rows(tag) == {1: {"n": 99, "m": 5}, 2: {"n": 5}, 4: {"n": 99}}
        assert result.error == "step_3 (b, things.expect): expected affected_rows 1, found 0"
        with pytest.raises(
            TransactionFailed, match=r"change .* things {'id': 1} field 'n' - conflict: expected 6, found 99"
        ):
            result.raise_for_status()
        assert await world.leftovers() == []
        (entry,) = await world.journal.entries()
        assert entry.state == "failed"
        assert [item["step"] for item in entry.detail["residue"]] == ["create", "change"]


@pytest.mark.parametrize("tag", ["a", "p"])
async def test_what_the_store_refuses_while_undoing_names_the_constraint(tag):
    async with World({**STORES, tag: {**STORES[tag], **UNIQUE}}) as world:
        await world.fill(tag, {"id": 1, "email": "x@y"}, {"id": 2, "email": "z@y"})
        world.faults.before("b.execute", lambda: world.foreign(tag, 9, {"id": 9, "email": "x@y"}))
        result = await world.run(
            delete(tag, {"id": {"$in": [1, 2]}}),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert (result.status, statuses(result)) == ("failed", "ff")
        (left,) = result.residue
        assert (left.key, left.reason, left.field) == ({"id": 1}, "constraint", None)
        assert "must be unique" in left.detail
        assert world.rows(tag) == {2: {"email": "z@y"}, 9: {"email": "x@y"}}


async def test_a_store_that_is_away_while_undoing():
    async with World(grace=0.2) as world:
        await world.fill("p", {"id": 1, "n": 5, "m": 5}, {"id": 2, "n": 5})

        async def meddle():
            await world.foreign("p", 1, {"n": 99})
            world.faults.fail("p.write", StoreUnavailable("gone"), times=None)

        world.faults.before("b.execute", meddle)
        result = await world.run(
            insert("q", {"id": 1}),
            update("p", {"id": {"$in": [1, 2]}}, {"n": 6, "m": 6}),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert (result.status, statuses(result)) == ("failed", "uff")
        assert {(item.key["id"], item.reason) for item in result.residue} == {
            (1, "unreachable"),
            (2, "unreachable"),
        }
        assert world.rows("q") == {}
        # What cannot be undone yet stays locked, so that nobody builds on it; and recovery goes on.
        assert not (await world.run(update("p", 2, {"n": 7}), insert("a", {"id": 1}), lock_timeout=0.05)).ok
        world.faults.clear()
        ended = await world.warehouse.recover()
        assert [(item.transaction_id, item.status) for item in ended] == [(result.transaction_id, "failed")]
        assert [(item.key["id"], item.field, item.reason) for item in ended[0].residue] == [
            (1, "n", "conflict")
        ]
        assert world.rows("p") == {1: {"n": 99, "m": 5}, 2: {"n": 5}}


async def test_a_part_of_a_step_that_cannot_be_undone_yet_is_undone_later():
    async with World(grace=0.2) as world:
        await world.fill("p", {"id": 1, "n": 5}, {"id": 2, "n": 5})

        async def refuse():
            world.faults.fail("p.write", StoreUnavailable("gone"), times=None)
            raise ConstraintViolated("no")

        world.faults.before("p.write", refuse, nth=2)
        result = await world.run(update("p", {"id": {"$in": [1, 2]}}, {"n": {"$increment": 1}}), **SAGA)
        assert result.status == "failed"
        assert [(item.key["id"], item.reason) for item in result.residue] == [(1, "unreachable")]
        assert world.rows("p") == {1: {"n": 6}, 2: {"n": 5}}
        world.faults.clear()
        assert [item.status for item in await world.warehouse.recover()] == ["compensated"]
        assert world.rows("p") == {1: {"n": 5}, 2: {"n": 5}}


async def test_a_clash_is_told_even_if_the_store_goes_away_after_it():
    async with World(grace=0.2) as world:
        await world.fill("p", {"id": 1, "n": 5, "m": 5}, {"id": 2, "n": 5})

        async def meddle():
            await world.foreign("p", 2, {"n": 99})
            world.faults.fail("p.write", StoreUnavailable("gone"), nth=2, times=None)

        world.faults.before("b.execute", meddle)
        result = await world.run(
            update("p", {"id": {"$in": [1, 2]}}, {"n": 6, "m": 6}),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        told = {(item.key["id"], item.field, item.reason) for item in result.residue}
        assert told == {(2, "n", "conflict"), (1, None, "unreachable")}
        assert world.rows("p") == {1: {"n": 6, "m": 6}, 2: {"n": 99}}


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("tag", ["a", "p"])
async def test_c12_a_lost_reply_while_undoing_is_tried_again_without_the_delta(tag, made):
    """Counterexample C12: what may have been made once is not subtracted twice."""
    async with World() as world:
        await world.fill(tag, {"id": 1, "n": 5})

        async def meddle():
            await world.foreign(tag, 1, {"n": 106})
            call = f"{tag}.commit" if tag == "a" else f"{tag}.write"
            (world.faults.lose if made else world.faults.fail)(call, StoreOutcomeUnknown("no reply"))

        world.faults.before("b.execute", meddle)
        result = await world.run(
            update(tag, 1, {"n": {"$increment": 1}}),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert world.rows(tag) == {1: {"n": 105 if made else 106}}
        assert [item.found for item in result.residue] == [105 if made else 106]


async def test_foreign_writes_while_undoing_are_met_with_another_try():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 5, "m": 1})

        async def again():
            world.faults.before(
                "p.write", lambda: world.foreign("p", 1, {"n": world.rows("p")[1]["n"] + 10}), times=2
            )

        world.faults.before("b.execute", again)
        result = await world.run(
            update("p", 1, {"n": {"$increment": 1}}),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert result.status == "compensated"
        assert world.rows("p") == {1: {"n": 25, "m": 1}}


# Steps that may fail, references


async def test_a_step_that_may_fail_is_left_out():
    async with World() as world:
        result = await world.run(
            insert("a", {"id": 1}),
            update("p", 9, {"n": 1}, expect={"affected_rows": 1}, allow_fail=True),
            insert("q", {"id": 1}, after=["step_1"]),
            insert("b", {"id": 1, "from": ref("step_0.id")}),
            **SAGA,
        )
        assert (result.status, statuses(result)) == ("completed", "cfcc")
        assert (
            result.step_results["step_1"].error
            == "step_1 (p, things.expect): expected affected_rows 1, found 0"
        )
        assert world.rows("b") == {1: {"from": 1}}


async def test_a_step_that_may_fail_is_tried_again_first():
    async with World() as world:
        world.faults.fail("p.execute", StoreContention("deadlock"))
        result = await world.run(insert("p", {"id": 1}, allow_fail=True), **SAGA)
        assert (statuses(result), result.step_results["step_0"].attempts) == ("c", 2)


async def test_an_undone_step_that_may_fail_leaves_nothing_in_the_journal():
    """Its changes were journaled before its commit failed: they must not count as made."""
    async with World() as world:
        world.faults.fail("b.commit", StoreError("no"))
        result = await world.run(insert("a", {"id": 1}), insert("b", {"id": 1}, allow_fail=True), **SAGA)
        assert statuses(result) == "cf"
        (entry,) = await world.journal.entries()
        assert [step.name for step in entry.steps if step.changes] == ["step_0"]


# Retries and conflicts


@pytest.mark.parametrize("call", ["execute", "commit"])
async def test_a_step_is_tried_again_alone(call):
    async with World() as world:
        world.faults.fail(f"b.{call}", StoreContention("deadlock"), times=2)
        result = await world.run(*four(), **SAGA)
        assert [step.attempts for step in result.step_results.values()] == [1, 3, 1, 1]
        assert world.rows("b") == {1: {"n": 1}}
        assert await world.leftovers() == []


async def test_a_guard_that_fails_is_tried_again():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 5}, {"id": 2, "n": 5})
        world.faults.before("p.write", lambda: world.foreign("p", 2, {"n": 50}), nth=2)
        result = await world.run(
            insert("a", {"id": 1}), update("p", {"n": {"$gte": 5}}, {"n": {"$increment": 1}}), **SAGA
        )
        assert result.ok
        assert world.rows("p") == {1: {"n": 6}, 2: {"n": 51}}


async def test_two_sagas_on_the_same_records():
    async with World(lock_timeout=5) as world:
        for tag in "abpq":
            await world.fill(tag, {"id": 1, "n": 0})

        async def count(order):
            return await world.run(*[update(tag, 1, {"n": {"$increment": 1}}) for tag in order], **SAGA)

        results = await asyncio.gather(*(count(order) for order in ("abpq", "abpq", "abpq", "abpq")))
        assert {result.status for result in results} == {"completed"}
        assert world.everything() == {tag: {1: {"n": 4}} for tag in "abpq"}
        assert await world.leftovers() == []


async def test_two_sagas_that_wait_for_each_other_end():
    async with World(lock_timeout=0.3) as world:
        for tag in "ab":
            await world.fill(tag, {"id": 1, "n": 0})
        world.faults.delay("journal.append", 0.02)

        async def count(order):
            return await world.run(*[update(tag, 1, {"n": {"$increment": 1}}) for tag in order], **SAGA)

        results = await asyncio.gather(count("ab"), count("ba"))
        completed = sum(result.ok for result in results)
        assert {result.status for result in results} <= {"completed", "compensated"}
        assert world.rows("a") == world.rows("b") == {1: {"n": completed}}
        assert await world.leftovers() == []


# Time


async def test_the_timeout_compensates():
    async with World() as world:
        world.faults.delay("p.execute", 5)
        result = await world.run(*four(), timeout=0.1, **SAGA)
        assert statuses(result) == "uufs"
        assert (
            result.error == "step_2 (p, things): the transaction's timeout of 0.1 s ran out - raise `timeout`"
        )
        assert world.everything() == EMPTY
        assert await world.leftovers() == []


@pytest.mark.parametrize("options", [{"timeout": 0.1}, {"step_timeout": 0.05}])
async def test_what_was_committed_is_kept_where_that_was_asked_for(options):
    async with World() as world:
        world.faults.delay("p.execute", 5)
        result = await world.run(*four(), compensate_on_timeout=False, **options, **SAGA)
        assert (result.status, statuses(result)) == ("failed", "ccfs")
        assert [(item.step, item.key, item.reason) for item in result.residue] == [
            ("step_0", {"id": 1}, "kept"),
            ("step_1", {"id": 1}, "kept"),
        ]
        assert result.compensated_steps == []
        assert world.rows("a") == {1: {"n": 0}}
        assert await world.leftovers() == []


async def test_only_a_timeout_of_ours_keeps():
    """A driver's time-out is a failure like any other."""
    async with World() as world:
        error = StoreUnavailable("connection timed out")
        error.__cause__ = TimeoutError("the driver's")
        world.faults.fail("p.execute", error)
        result = await world.run(*four(), compensate_on_timeout=False, **SAGA)
        assert result.status == "compensated"
        assert world.everything() == EMPTY


async def test_a_timeout_before_anything_was_committed_keeps_nothing():
    async with World() as world:
        world.faults.delay("a.execute", 5)
        result = await world.run(*four(), timeout=0.05, compensate_on_timeout=False, **SAGA)
        assert (result.status, statuses(result)) == ("compensated", "fsss")


# The journal


async def test_a_journal_that_cannot_be_written_at_first_leaves_nothing():
    for call in ("sequence", "decide"):
        async with World() as world:
            world.faults.fail(f"journal.{call}", JournalUnavailable("disk full"))
            with pytest.raises(JournalUnavailable):
                await world.run(*four(), **SAGA)
            assert world.everything() == EMPTY
            assert await world.leftovers() == []


@pytest.mark.parametrize("taken", [False, True])
async def test_a_journal_that_is_away_between_two_steps_ends_the_saga_as_a_failed_step_does(taken):
    """What cannot be undone of the steps before is told, and not hidden by the journal's error."""
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 5})

        async def meddle():
            if taken:
                await world.foreign("p", 1, {"n": "else"})
            raise JournalUnavailable("disk full")

        world.faults.before("journal.sequence", meddle, nth=2)
        result = await world.run(update("p", 1, {"n": 6}), insert("a", {"id": 1}), **SAGA)
        assert (result.status, statuses(result)) == (("failed", "ff") if taken else ("compensated", "uf"))
        assert "disk full" in str(result.error)
        assert [item.reason for item in result.residue] == (["conflict"] if taken else [])
        (entry,) = await world.journal.entries()
        assert entry.state == result.status
        assert await world.leftovers() == []


async def test_a_journal_that_was_away_between_two_steps_is_tried_again():
    async with World() as world:
        world.faults.fail("journal.sequence", JournalUnavailable("restarting"), nth=2)
        assert (await world.run(*four(), retry_on_failure=True, max_retries=1, **SAGA)).ok


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_first_write_whose_reply_is_lost_is_settled(arrived):
    async with World() as world:
        (world.faults.lose if arrived else world.faults.fail)("journal.decide", ReplyLost("no reply"))
        if arrived:
            assert (await world.run(*four(), **SAGA)).ok
        else:
            with pytest.raises(JournalUnavailable):
                await world.run(*four(), **SAGA)
            assert world.everything() == EMPTY
        assert await world.leftovers() == []


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_later_write_whose_reply_is_lost_is_made_again(arrived):
    async with World() as world:
        (world.faults.lose if arrived else world.faults.fail)("journal.append", ReplyLost("no reply"), nth=2)
        assert (await world.run(*four(), **SAGA)).ok
        (entry,) = await world.journal.entries()
        assert [step.name for step in entry.steps] == [f"step_{n}" for n in range(4)]
        assert await world.leftovers() == []


@pytest.mark.parametrize("error", [JournalUnavailable("gone"), ReplyLost("no reply")])
@pytest.mark.parametrize("call", ["append", "finish", "change_state"])
async def test_a_journal_that_goes_away_later_makes_the_outcome_unknown(call, error):
    """What was committed stays for recovery: nothing is undone twice, nothing is unlocked."""
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 5})
        world.faults.fail(f"journal.{call}", error, times=None)
        last = update("q", 9, {"n": 1}, expect={"affected_rows": int(call == "change_state")})
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(update("a", 1, {"n": {"$increment": 1}}), insert("p", {"id": 1}), last, **SAGA)
        (entry,) = await world.journal.entries()
        assert (entry.state, entry.transaction_id) == ("running", caught.value.transaction_id)
        assert world.rows("a") == {1: {"n": 6}}
        assert sum(item == f"journal.{call}" for item in world.faults.calls) <= 2
        assert await world.journal.locked(entry.locks()) is not None


async def test_a_lost_finish_after_undoing_does_not_undo_again():
    async with World() as world:
        await world.fill("a", {"id": 1, "n": 5})

        async def meddle():
            await world.foreign("a", 1, {"n": 106})

        world.faults.before("q.execute", meddle)
        world.faults.fail("journal.finish", ReplyLost("no reply"), times=None)
        with pytest.raises(OutcomeUnknown):
            await world.run(
                update("a", 1, {"n": {"$increment": 1}}),
                update("q", 9, {"n": 1}, expect={"affected_rows": 1}),
                **SAGA,
            )
        assert world.rows("a") == {1: {"n": 105}}


# Commits


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_without_a_reply_is_looked_up(committed):
    async with World() as world:
        (world.faults.lose if committed else world.faults.fail)("b.commit", StoreOutcomeUnknown("no reply"))
        result = await world.run(*four(), **SAGA)
        assert statuses(result) == ("cccc" if committed else "ufss")
        assert await world.leftovers() == []
    async with World() as world:
        world.faults.fail("b.commit", StoreOutcomeUnknown("no reply"))
        assert (await world.run(*four(), retry_on_failure=True, **SAGA)).ok


async def test_a_commit_that_nobody_can_look_up():
    async with World(grace=0.1) as world:
        world.faults.lose("b.commit", StoreOutcomeUnknown("no reply"))
        world.faults.fail("b.unit", StoreUnavailable("gone"), nth=2, times=None)
        with pytest.raises(OutcomeUnknown):
            await world.run(*four(), **SAGA)
        assert world.rows("a") == {1: {"n": 0}}
        (entry,) = await world.journal.entries()
        assert entry.state == "running"


async def test_a_write_that_nobody_can_look_up():
    async with World(grace=0.1) as world:
        world.faults.lose("p.write", StoreOutcomeUnknown("no reply"))
        world.faults.fail("p.read", StoreUnavailable("gone"), times=None)
        with pytest.raises(OutcomeUnknown):
            await world.run(*four(), **SAGA)
        (entry,) = await world.journal.entries()
        assert entry.state == "running"
        assert world.rows("a") == {1: {"n": 0}}


async def test_a_refused_write_in_the_middle_of_a_step():
    async with World({**STORES, "p": {**STORES["p"], **UNIQUE}}) as world:
        await world.fill("p", {"id": 9, "email": "x@y"})
        records = [{"id": 1, "email": "new"}, {"id": 2, "email": "x@y"}, {"id": 3}]
        result = await world.run(insert("a", {"id": 1}), insert("p", records), **SAGA)
        assert (result.status, statuses(result)) == ("compensated", "uf")
        assert isinstance(result.cause.__cause__, ConstraintViolated)
        assert set(world.rows("p")) == {9}
        assert world.rows("a") == {}


async def test_a_failed_commit_fails_the_step():
    async with World() as world:
        driver = OSError("disk full")
        error = StoreError("disk full")
        error.__cause__ = driver
        world.faults.fail("b.commit", error)
        result = await world.run(*four(), **SAGA)
        assert statuses(result) == "ufss"
        assert isinstance(result.cause, StepFailed)
        assert result.cause.__cause__ is driver
        assert world.everything() == EMPTY


async def test_undoing_takes_no_longer_than_it_must():
    async with World(grace=5) as world:
        started = time.monotonic()
        await world.run(*four(), update("a", 9, {"n": 1}, expect={"affected_rows": 1}), **SAGA)
        assert time.monotonic() - started < 1


async def test_a_store_that_raises_in_the_middle_of_undoing_is_not_undone_twice():
    async with World() as world:
        await world.fill("p", {"id": 1, "n": 5}, {"id": 2, "n": 5})

        async def meddle():
            for key in (1, 2):
                await world.foreign("p", key, {"n": 106})
            world.faults.fail("p.write", StoreUnavailable("gone"), nth=2)

        world.faults.before("b.execute", meddle)
        result = await world.run(
            update("p", {"id": {"$in": [1, 2]}}, {"n": {"$increment": 1}}),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert world.rows("p")[2] == {"n": 105}
        assert world.rows("p")[1]["n"] in (105, 106)
        assert result.status == "failed"


@pytest.mark.parametrize("tag", ["a", "p"])
async def test_several_changes_of_one_record_in_one_step_are_undone_as_one(tag):
    async with World() as world:
        await world.fill(tag, {"id": 1, "n": 5})
        call = "commit" if tag == "a" else "write"

        async def lose():
            world.faults.lose(f"{tag}.{call}", StoreOutcomeUnknown("no reply"))

        world.faults.before("b.execute", lose)
        result = await world.run(
            upsert(tag, [{"id": 1, "n": 6}, {"id": 1, "n": 7}, {"id": 2, "n": 1}, {"id": 2, "n": 2}]),
            update("b", 9, {"n": 1}, expect={"affected_rows": 1}),
            **SAGA,
        )
        assert result.status == "compensated", result.residue
        assert world.rows(tag) == {1: {"n": 5}}


# What a failure undoes


MODES = [
    ("all", "compensated", [], "uuuf"),
    ("critical_only", "failed", ["step_0", "step_2"], "cucf"),
    ("none", "failed", ["step_0", "step_1", "step_2"], "cccf"),
]


def of_modes():
    return [
        insert("a", {"id": 1}),
        insert("b", {"id": 1}, critical=True),
        insert("p", {"id": 1}),
        insert("q", {"id": 2}),
    ]


@pytest.mark.parametrize(("rollback", "status", "stays", "steps"), MODES)
async def test_what_a_failure_undoes_is_for_the_caller_to_say(rollback, status, stays, steps):
    async with World() as world:
        await world.fill("q", {"id": 2})
        result = await world.run(*of_modes(), pattern="saga", rollback=rollback)
        assert (result.status, statuses(result)) == (status, steps)
        assert {(left.step, left.reason) for left in result.residue} == {(step, "kept") for step in stays}
        there = [step for step, tag in (("step_0", "a"), ("step_1", "b"), ("step_2", "p")) if world.rows(tag)]
        assert there == stays
        assert await world.leftovers() == []


@pytest.mark.parametrize(("rollback", "status", "stays", "steps"), MODES)
async def test_recovery_undoes_what_the_caller_said(rollback, status, stays, steps):
    """It dies at the commit of the third step: that may be there, or not."""
    async with World() as world:
        world.faults.fail("p.write", StoreOutcomeUnknown("no reply"), times=None)
        world.faults.fail("p.read", StoreUnavailable("away"), times=None)
        with pytest.raises(OutcomeUnknown):
            await world.run(*of_modes(), pattern="saga", rollback=rollback)
        world.faults._plans.clear()
        (found,) = await world.warehouse.recover()
        made = [step for step in stays if step != "step_2"]
        assert found.status == ("failed" if made else "compensated")
        assert {left.step for left in found.residue} == set(made)
        assert await world.leftovers() == []


async def test_only_a_saga_keeps_what_it_did():
    async with World() as world:
        with pytest.raises(InvalidOperation, match="only a saga can keep"):
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}), rollback="none")
