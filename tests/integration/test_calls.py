"""Calls: their place in the order, what is journaled around them, and when they are taken back."""

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from integration import crash_points
from integration.memory_world import World, insert, statuses, update
from integration.test_crashes import LEASE, leftovers
from integration.test_recovery import Two, pause
from warehouse import (
    InvalidOperation,
    JournalUnavailable,
    OutcomeUnknown,
    StepFailed,
    StoreContention,
    TransactionCompensated,
    Warehouse,
    ref,
)
from warehouse.errors import ConstraintViolated
from warehouse.journal.base import ReplyLost
from warehouse.testing import crash
from warehouse.testing.crash import Scenario

pytestmark = pytest.mark.anyio
PATTERNS = ["staged", "saga"]


class Bank:
    """A service outside: what it was asked for, in order."""

    def __init__(self, world, *, compensated=True):
        self.log = []
        self.world = world
        self.fails = []
        self.stuck = False
        self.called = asyncio.Event()

        async def charge(card, amount):
            self.log.append(("charge", card, amount))
            self.called.set()
            if self.fails:
                raise self.fails.pop(0)
            if self.stuck:
                await asyncio.sleep(60)
            return {"id": f"ch-{card}", "amount": amount}

        async def refund(card, amount, output):
            self.log.append(("refund", card, output and output["id"]))

        world.warehouse.action("charge", compensate=refund if compensated else None)(charge)

    @property
    def made(self):
        return [entry[0] for entry in self.log]


def call(card=7, amount=5, action="charge", **more):
    return {"operation": "call", "action": action, "args": {"card": card, "amount": amount}, **more}


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_it_is_made_at_its_place_and_others_use_its_output(pattern):
    async with World() as world:
        bank = Bank(world)
        result = await world.run(
            insert("a", {"id": 1, "card": 99}, name="order"),
            call(ref("order.card"), name="payment"),
            insert("p", {"id": 2, "charge": ref("payment.id"), "amount": ref("payment.amount")}),
            pattern=pattern,
        )
        assert (result.status, statuses(result)) == ("completed", "ccc")
        assert bank.log == [("charge", 99, 5)]
        assert result.step_results["payment"].data == [{"id": "ch-99", "amount": 5}]
        assert world.rows("p") == {2: {"charge": "ch-99", "amount": 5}}
        assert await world.leftovers() == []
        shown = await world.warehouse.show(result.transaction_id)
        (paid,) = [step for step in shown.steps if step.action == "charge"]
        assert paid.output == [{"id": "ch-99", "amount": 5}]
        assert (await world.warehouse.wait(result.transaction_id)).step_results["payment"].data[0][
            "id"
        ] == "ch-99"


async def test_auto_chooses_the_full_protocol():
    async with World() as world:
        Bank(world)
        result = await world.run(call())
        assert (result.status, result.pattern) == ("completed", "staged")
        told = await world.warehouse.explain([insert("a", {"id": 1}), call()])
        assert (told.pattern, told.reason) == ("staged", "a call: the full protocol")


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_later_failure_takes_it_back_with_its_output(pattern):
    async with World() as world:
        bank = Bank(world)
        await world.fill("p", {"id": 2})
        result = await world.run(insert("a", {"id": 1}), call(), insert("p", {"id": 2}), pattern=pattern)
        assert (result.status, statuses(result)) == ("compensated", "uuf")
        assert bank.log == [("charge", 7, 5), ("refund", 7, "ch-7")]
        assert world.rows("a") == {}
        assert await world.leftovers() == []


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_one_that_fails_is_not_taken_back_and_everything_else_is(pattern):
    async with World() as world:
        bank = Bank(world)
        bank.fails = [ValueError("card declined")]
        result = await world.run(insert("a", {"id": 1}), call(), insert("p", {"id": 2}), pattern=pattern)
        assert (result.status, statuses(result)) == ("compensated", "ufs")
        assert "card declined" in result.error
        assert bank.made == ["charge"]
        assert (world.rows("a"), world.rows("p")) == ({}, {})
        assert isinstance(result.cause.__cause__, ValueError)
        assert await world.leftovers() == []


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("how", ["raises", "step", "transaction"])
async def test_one_that_times_out_is_taken_back_without_an_output(pattern, how):
    async with World() as world:
        bank = Bank(world)
        options = {}
        if how == "raises":
            bank.fails = [TimeoutError("no answer")]
        else:
            bank.stuck = True
            options = {"timeout" if how == "transaction" else "step_timeout": 0.2}
        result = await world.run(insert("a", {"id": 1}), call(), pattern=pattern, **options)
        assert result.status == "compensated"
        assert bank.log == [("charge", 7, 5), ("refund", 7, None)]
        assert world.rows("a") == {}
        assert await world.leftovers() == []


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_thread_does_too_late_is_taken_back_after_it(pattern, fails):
    """A thread cannot be stopped: its late effect is waited for, and undone with what it put out."""
    async with World() as world:
        log = []

        def charge():
            time.sleep(0.4)
            if fails:
                raise ValueError("declined after all")
            log.append("charged")
            return {"id": 5}

        world.warehouse.action("charge", compensate=lambda output: log.append(("refunded", output)))(charge)
        result = await world.run(
            insert("a", {"id": 1}), {"operation": "call", "action": "charge", "timeout": 0.1}, pattern=pattern
        )
        assert (result.status, statuses(result)) == ("compensated", "uf")
        assert log == ([] if fails else ["charged", ("refunded", {"id": 5})])
        assert await world.leftovers() == []


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_cancelled_caller_takes_it_back(pattern):
    async with World() as world:
        bank = Bank(world)
        bank.stuck = True
        running = asyncio.ensure_future(world.run(insert("a", {"id": 1}), call(), pattern=pattern))
        await bank.called.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert bank.log == [("charge", 7, 5), ("refund", 7, None)]
        assert world.rows("a") == {}
        assert await world.leftovers() == []


async def test_staged_again_it_is_not_made_twice():
    async with World() as world:
        bank = Bank(world)
        world.faults.fail("p.execute", StoreContention("busy"), times=3)
        result = await world.run(insert("a", {"id": 1}), call(), insert("p", {"id": 2}), lock_timeout=5)
        assert result.ok
        assert bank.made == ["charge"]
        assert result.step_results["step_2"].attempts == 4


async def test_staged_again_with_other_arguments_it_is_taken_back_first():
    async with World() as world:
        bank = Bank(world)
        await world.fill("a", {"id": 1, "card": 1})
        paused, go_on = pause(world, "p.execute")
        world.faults.fail("p.execute", StoreContention("busy"))
        steps = [
            update("a", 1, {"n": 1}, name="order"),
            call(ref("order.card")),
            insert("p", {"id": 2}),
        ]
        running = asyncio.ensure_future(world.run(*steps, lock_timeout=5))
        await paused.wait()
        await world.foreign("a", 1, {"card": 2})
        go_on.set()
        assert (await running).ok
        assert bank.log == [("charge", 1, 5), ("refund", 1, "ch-1"), ("charge", 2, 5)]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_compensation_is_tried_again_before_it_is_residue(pattern):
    async with World(grace=0.3) as world:
        tries = []

        def refund(output, **args):
            tries.append((args, output))
            if len(tries) < 3:
                raise ConnectionError

        world.warehouse.action("charge", compensate=refund)(lambda card, amount: [card, amount])
        world.faults.fail("p.write", ConstraintViolated("no", constraint="c"))
        result = await world.run(call(), insert("p", {"id": 2}), pattern=pattern)
        assert result.status == "compensated"
        assert tries == [({"card": 7, "amount": 5}, [7, 5])] * 3


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("has", [True, False])
async def test_a_compensation_that_fails_is_residue(pattern, has):
    """A known failure of such systems: a failed compensation is counted as compensated."""
    async with World(grace=0.2) as world:

        def refund(**_):
            raise ConnectionError("away")

        world.warehouse.action("charge", compensate=refund if has else None)(lambda **_: "done")
        await world.fill("a", {"id": 2})
        result = await world.run(insert("a", {"id": 1}), call(), insert("a", {"id": 2}), pattern=pattern)
        assert result.status == "failed"
        (left,) = result.residue
        assert (left.step, left.entity, left.reason) == ("step_1", "charge", "call")
        assert left.key == {"card": 7, "amount": 5}
        assert ("away" if has else "has no compensation") in left.detail
        assert world.rows("a") == {2: {}}
        assert await world.leftovers() == []
        assert (await world.warehouse.resolve(result.transaction_id, "accept")).status == "failed"


async def test_a_failure_of_an_apply_takes_it_back():
    async with World() as world:
        bank = Bank(world)
        world.faults.fail("p.write", ConstraintViolated("no", constraint="c"))
        result = await world.run(insert("a", {"id": 1}), call(), insert("p", {"id": 2}))
        assert (result.status, statuses(result)) == ("compensated", "uuf")
        assert bank.made == ["charge", "refund"]
        assert world.everything() == {"a": {}, "b": {}, "p": {}, "q": {}}
        assert await world.leftovers() == []


async def test_in_two_phase_commit():
    async with World() as world:
        bank = Bank(world)
        steps = [insert("a", {"id": 1}), call(), insert("b", {"id": 1})]
        assert (await world.run(*steps, pattern="two_phase_commit")).ok
        world.faults.fail("b.prepare", ConstraintViolated("no", constraint="c"))
        steps = [insert("a", {"id": 2}), call(8), insert("b", {"id": 2})]
        assert (await world.run(*steps, pattern="two_phase_commit")).status == "compensated"
        assert bank.made == ["charge", "charge", "refund"]
        assert world.rows("a") == world.rows("b") == {1: {}}
        assert await world.leftovers() == []


async def test_a_step_that_may_fail():
    async with World() as world:
        bank = Bank(world)
        bank.fails = [ValueError("no")]
        result = await world.run(insert("a", {"id": 1}), call(allow_fail=True), insert("p", {"id": 2}))
        assert (result.status, statuses(result)) == ("completed", "cfc")


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_what_a_call_may_have_done_that_was_let_off_is_taken_back(pattern):
    async with World() as world:
        bank = Bank(world)
        bank.fails = [TimeoutError("no answer")]
        steps = [insert("a", {"id": 1}), call(allow_fail=True), insert("p", {"id": 2})]
        result = await world.run(*steps, pattern=pattern)
        assert (result.status, statuses(result)) == ("completed", "cfc")
        assert bank.log == [("charge", 7, 5), ("refund", 7, None)]
        assert (world.rows("a"), world.rows("p")) == ({1: {}}, {2: {}})
        assert await world.leftovers() == []


async def test_a_call_that_was_let_off_is_kept_by_nobody():
    """What it may have done was taken back at once: where the rest is kept, it is not among it."""
    async with World() as world:
        bank = Bank(world)
        bank.fails = [TimeoutError("no answer")]
        await world.fill("p", {"id": 2})
        steps = [insert("a", {"id": 1}), call(allow_fail=True), insert("p", {"id": 2})]
        result = await world.run(*steps, pattern="saga", rollback="none")
        assert bank.log == [("charge", 7, 5), ("refund", 7, None)]
        assert [(left.step, left.reason) for left in result.residue] == [("step_0", "kept")]
        assert await world.leftovers() == []


# The journal


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_nothing_is_called_before_its_intent_is_durable(pattern):
    async with World() as world:
        bank = Bank(world)
        world.faults.fail("journal.decide", JournalUnavailable("full"))
        with pytest.raises(JournalUnavailable):
            await world.run(call(), insert("a", {"id": 1}), pattern=pattern)
        assert bank.log == []
        assert world.rows("a") == {}


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_an_output_that_cannot_be_journaled_leaves_it_to_recovery(pattern):
    async with World() as world:
        bank = Bank(world)
        world.faults.fail("journal.append", JournalUnavailable("away"))
        with pytest.raises(OutcomeUnknown):
            await world.run(call(), insert("a", {"id": 1}), pattern=pattern)
        assert bank.made == ["charge"]
        (found,) = await world.warehouse.recover()
        assert found.status == "compensated"
        assert bank.log == [("charge", 7, 5), ("refund", 7, None)]
        assert await world.leftovers() == []


async def test_a_journal_that_goes_away_between_two_attempts_is_no_nothing_changed():
    async with World() as world:
        bank = Bank(world)
        world.faults.fail("p.execute", StoreContention("busy"))
        world.faults.fail("journal.sequence", JournalUnavailable("away"), nth=2)
        with pytest.raises(OutcomeUnknown):
            await world.run(call(), insert("p", {"id": 1}))
        (found,) = await world.warehouse.recover()
        assert (found.status, bank.made) == ("compensated", ["charge", "refund"])
        assert await world.leftovers() == []


async def test_a_lost_reply_to_the_decision_is_made_again():
    async with World() as world:
        bank = Bank(world)
        world.faults.lose("journal.append", ReplyLost("no reply"), nth=2)
        assert (await world.run(call(), insert("a", {"id": 1}))).ok
        assert bank.made == ["charge"]
        assert world.rows("a") == {1: {}}


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_what_was_never_called_is_not_taken_back(pattern):
    """Its arguments cannot be journaled, so it was not made; the one before it was."""
    async with World() as world:
        bank = Bank(world)
        result = await world.run(call(1), call(threading.Lock()), pattern=pattern)
        assert result.status == "compensated"
        assert bank.log == [("charge", 1, 5), ("refund", 1, "ch-1")]
        assert await world.leftovers() == []


async def test_a_value_of_no_known_type_is_taken_back():
    async with World() as world:
        taken = []
        world.warehouse.action("charge", compensate=lambda output, **_: taken.append(output))(
            lambda **_: {"odd": threading.Lock()}
        )
        result = await world.run(call(), insert("a", {"id": 1}))
        assert result.status == "compensated"
        assert "odd" in taken[0]
        assert await world.leftovers() == []


async def test_a_dead_owners_call_is_taken_back_by_who_has_the_action():
    async with Two("ap") as two:
        bank = Bank(two.owner)
        paused, _ = pause(two.owner, "p.execute")
        running = asyncio.ensure_future(two.owner.run(call(), insert("p", {"id": 1})))
        await paused.wait()
        await two.die()
        ((status, error),) = await two.recover()
        assert (status, error) == (None, "step_0: no action is registered as 'charge' in this process")
        other = Bank(two.other)
        assert await two.recover() == [("compensated", None)]
        assert (bank.made, other.log) == (["charge"], [("refund", 7, "ch-7")])
        running.cancel()


async def test_a_paused_owner_ends_as_its_heir_ended_it():
    async with Two("ap") as two:
        Bank(two.owner)
        other = Bank(two.other)
        paused, go_on = pause(two.owner, "p.execute")
        running = asyncio.ensure_future(two.owner.run(call(), insert("p", {"id": 1})))
        await paused.wait()
        await two.die()
        assert await two.recover() == [("compensated", None)]
        go_on.set()
        result = await running
        assert result.status == "compensated"
        assert other.made == ["refund"]
        assert two.owner.rows("p") == {}


# A block, and the synchronous face


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_block(pattern):
    async with World() as world:
        bank = Bank(world)
        async with world.warehouse.begin(pattern=pattern) as tx:
            paid = (await tx.call("charge", {"card": 1, "amount": 2})).one()
            await tx.insert(None, "a", "things", {"id": 1, "charge": paid["id"]})
        assert tx.result.ok
        assert world.rows("a") == {1: {"charge": "ch-1"}}
        with pytest.raises(RuntimeError):
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.insert(None, "a", "things", {"id": 2})
                await tx.call("charge", {"card": 3, "amount": 2})
                raise RuntimeError
        assert tx.result.status == "compensated"
        assert bank.made == ["charge", "charge", "refund"]
        bank.fails = [ValueError("declined")]
        with pytest.raises(StepFailed, match="declined"):
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.call("charge", {"card": 4, "amount": 2})
        assert bank.made == ["charge", "charge", "refund", "charge"]
        assert list(world.rows("a")) == [1]
        assert await world.leftovers() == []


async def test_a_block_whose_commit_fails_or_that_times_out():
    async with World() as world:
        bank = Bank(world)
        world.faults.fail("p.write", ConstraintViolated("no", constraint="c"))
        with pytest.raises(TransactionCompensated):
            async with world.warehouse.begin() as tx:
                await tx.call("charge", {"card": 1, "amount": 2})
                await tx.insert(None, "p", "things", {"id": 1})
        assert bank.made == ["charge", "refund"]
        async with world.warehouse.begin(timeout=0.2, raise_on_failure=False) as tx:
            await tx.call("charge", {"card": 1, "amount": 2})
            await asyncio.sleep(0.4)
        assert tx.result.status == "compensated"
        assert bank.made == ["charge", "refund"] * 2
        assert await world.leftovers() == []


def test_the_synchronous_face_runs_functions_in_threads():
    threads = []
    with Warehouse(adapters={"a": {"adapter": "memory"}}, journal={"url": "memory://"}) as warehouse:

        @warehouse.action("note", compensate=lambda output, text: None)
        def note(text):
            threads.append(threading.current_thread())
            time.sleep(0.01)
            return text.upper()

        result = warehouse.transaction(
            [
                {"operation": "call", "action": "note", "args": {"text": "hi"}, "name": "n"},
                {
                    "operation": "insert",
                    "from": {"tag": "a", "entity": "t"},
                    "data": {"id": 1, "x": ref("n.value")},
                },
            ]
        )
        assert result.raise_for_status().step_results["n"].data == [{"value": "HI"}]
        assert warehouse.find({"tag": "a", "entity": "t"}) == [{"id": 1, "x": "HI"}]
        with warehouse.begin() as tx:
            assert tx.call("note", {"text": "again"}).one() == {"value": "AGAIN"}
    assert threading.main_thread() not in threads


async def test_an_explanation_calls_nothing():
    async with World() as world:
        bank = Bank(world)
        told = await world.warehouse.explain(
            [
                insert("a", {"id": 1}),
                call(name="c"),
                insert("p", {"id": 2, "x": ref("c.id")}),
                insert("q", {"id": 3}),
            ]
        )
        assert bank.log == []
        assert {step: len(changes) for step, changes in told.changes.items()} == {
            "step_0": 1,
            "c": 0,
            "step_2": 0,
            "step_3": 1,
        }


MISTAKES = [
    (call(action="chrage"), "no action is registered as 'chrage' - did you mean 'charge'?"),
    ({"operation": "call", "action": "charge", "args": {"card": 1}}, "missing a required argument: 'amount'"),
    (
        {"operation": "call", "action": "charge", "args": {"card": 1, "amount": 1, "x": 1}},
        "unexpected keyword",
    ),
    (
        {"operation": "call", "action": "charge", "args": {"card": 1, "output": 1}},
        "what the compensation gets",
    ),
    (call(ref("later.id")), "is not there"),
]


@pytest.mark.parametrize(("step", "message"), MISTAKES)
async def test_mistakes_are_told_before_anything_is_done(step, message):
    async with World() as world:
        bank = Bank(world)
        with pytest.raises(InvalidOperation, match=message):
            await world.run(insert("a", {"id": 1}), step)
        assert bank.log == []
        assert world.rows("a") == {}
        assert "a.execute" not in world.faults.calls


async def test_a_name_stands_for_one_action():
    async with World() as world:
        Bank(world)
        with pytest.raises(InvalidOperation, match="registered already"):
            world.warehouse.action("charge")(lambda: None)
        with pytest.raises(InvalidOperation, match="makes no calls"):
            async with world.warehouse.begin("held", hold=True) as tx:
                await tx.call("charge", {"card": 1, "amount": 1})


async def test_undo_does_not_take_calls_back_and_says_so():
    async with World() as world:
        Bank(world)
        result = await world.run(insert("a", {"id": 1}), call())
        with pytest.raises(InvalidOperation, match="made a call"):
            await world.warehouse.undo(result.transaction_id)


# Killed anywhere


def register(warehouse, config):
    """A bank whose books are a file: it charges a card once, and refunds it once."""
    path = Path(config["adapters"]["s"]["url"].partition("///")[2]).parent / "bank.db"

    def write(text, card):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(text, (card,))

    def charge(card):
        write("INSERT INTO charges VALUES (?)", card)
        return {"id": card}

    def refund(card, output):
        write("DELETE FROM charges WHERE card = ?", card)

    warehouse.action("charge", compensate=refund)(charge)


class Place:
    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        with closing(sqlite3.connect(folder / "bank.db")) as connection, connection:
            connection.execute("CREATE TABLE charges (card INTEGER)")
        for name in ("s", "t"):
            with closing(sqlite3.connect(folder / f"{name}.db")) as connection, connection:
                connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")

    def scenario(self, pattern, path):
        source = {"entity": "things"}
        refused = ConstraintViolated("no", constraint="test")
        return Scenario(
            config={
                "journal": {"url": f"sqlite:///{self.folder}/journal.db", "lease": LEASE},
                "adapters": {
                    tag: {"adapter": "sql", "url": f"sqlite+aiosqlite:///{self.folder}/{tag}.db"}
                    for tag in "st"
                },
                "transactions": {"grace": 2, "lock_timeout": 2},
            },
            operations=(
                {"operation": "insert", "from": {"tag": "s", **source}, "data": {"id": 1}},
                {"operation": "call", "action": "charge", "args": {"card": 7}},
                {"operation": "insert", "from": {"tag": "t", **source}, "data": {"id": 1}},
            ),
            options={"pattern": pattern},
            failing=() if path == "forth" else (("t.execute", 1, refused),),
            setup=register,
        )

    def contents(self):
        out = []
        for name, table in (("s", "things"), ("bank", "charges"), ("t", "things")):
            with closing(sqlite3.connect(self.folder / f"{name}.db")) as connection:
                out.append(len(connection.execute(f"SELECT * FROM {table}").fetchall()))
        return out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("path", ["forth", "back"])
async def test_killed_anywhere(tmp_path, pattern, path):
    dry = Place(tmp_path / "dry")
    ended = await crash.run(dry.scenario(pattern, path))
    assert dry.contents() == ([1, 1, 1] if path == "forth" else [0, 0, 0]), ended
    problems = []
    limit = anyio.CapacityLimiter(6)

    async def killed(number, point):
        async with limit:
            place = Place(tmp_path / f"at{number}")
            case = place.scenario(pattern, path)
            assert (await crash.run(case, point)).killed
            crash_points.note(__name__, point)
            recovery = await crash.recover(case)
            wanted = [[0, 0, 0]] if path == "back" else [[0, 0, 0], [1, 1, 1]]
            left = leftovers(place.folder / "journal.db")
            if recovery.error or place.contents() not in wanted or left != ([], 0):
                problems.append(f"{point}: {recovery} {place.contents()} {left}")

    async with anyio.create_task_group() as tasks:
        for number, point in enumerate(crash.points(ended, dry.scenario(pattern, path).failing)):
            tasks.start_soon(killed, number, point)
    assert problems == []
