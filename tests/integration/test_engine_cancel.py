"""Cancelled at any await, by whatever means, a transaction takes effect or does not, and leaves no lock."""

import asyncio
import gc

import anyio
import pytest

from integration.memory_world import World, insert, statuses, turns, update
from warehouse import InvalidOperation, StepFailed, TransactionCompensated

pytestmark = pytest.mark.anyio
PATTERNS = pytest.mark.parametrize("pattern", ["staged", "saga"])
HOW = ["task", "twice", "timeout", "scope"]


async def world_of_two_records(**settings):
    world = World(**settings)
    for tag in "ap":
        await world.fill(tag, {"id": 1, "n": 5})
    return world


def work(fails=False):
    return [
        update("a", 1, {"n": {"$increment": 1}}),
        insert("b", {"id": 2}),
        update("p", 1, {"n": {"$increment": 1}}),
        insert("q", [{"id": 2}, {"id": 3}]),
        update("b", 9 if fails else 2, {"n": 1}, expect={"affected_rows": 1}),
    ]


async def cancelled(world, work, nth, how, *, late=False):
    """Run `work`, and cancel it at the `nth` call of a store or the journal: its result, or None if cancelled."""
    task = asyncio.current_task()
    done: list[object] = []
    plan = world.faults.after if late else world.faults.before
    scope = anyio.CancelScope()

    async def body():
        done.append(await work())

    if how == "timeout":
        try:
            async with asyncio.timeout(None) as limit:

                async def expire():
                    if not done:
                        limit.reschedule(0)
                    await turns(3)

                plan("*", expire, nth=nth)
                await body()
        except TimeoutError:
            return None
        return done[0]
    if how == "scope":

        async def cancel():
            scope.cancel()
            await turns(3)

        plan("*", cancel, nth=nth)
        with scope:
            await body()
        return done[0] if done else None

    task = asyncio.ensure_future(body())

    async def cancel_task():
        task.cancel()
        await turns(2)
        if how == "twice":
            task.cancel()
            await turns(2)

    plan("*", cancel_task, nth=nth)
    try:
        await task
    except asyncio.CancelledError:
        return None
    return done[0]


@PATTERNS
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("how", "late"), [*[(how, False) for how in HOW], ("task", True)])
async def test_at_every_call(pattern, how, fails, late):
    before = {"a": {1: {"n": 5}}, "b": {}, "p": {1: {"n": 5}}, "q": {}}
    after = {"a": {1: {"n": 6}}, "b": {2: {"n": 1}}, "p": {1: {"n": 6}}, "q": {2: {}, 3: {}}}
    seen = set()
    for nth in range(1, 80):
        async with await world_of_two_records() as world:
            world.faults.clear()  # opening the journal is no part of it
            result = await cancelled(
                world, lambda world=world: world.run(*work(fails), pattern=pattern), nth, how, late=late
            )
            calls = len(world.faults.calls)
            if how == "twice":
                await until(lambda world=world: world.leftovers())
            assert await world.leftovers() == [], nth
            assert world.everything() in ([before] if fails else [before, after]), nth
            if result is not None:
                assert result.status == ("compensated" if fails else "completed")
                assert world.everything() == (before if fails else after)
            seen.add((result is None, world.everything() == after))
            if calls < nth:
                break
    else:
        pytest.fail("it never came to an end")
    assert nth > 15
    assert (True, False) in seen  # cancelled, nothing there
    if not fails:
        assert (False, True) in seen


async def until(find, seconds=3):
    """Wait until `find()` finds nothing."""
    with anyio.move_on_after(seconds):
        while await find():  # noqa: ASYNC110 - what it waits for tells nobody
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", HOW)
async def test_a_block_at_every_call(how):
    before = {"a": {1: {"n": 5}}, "b": {}, "p": {1: {"n": 5}}, "q": {}}
    after = {"a": {1: {"n": 6}}, "b": {}, "p": {1: {"n": 6}}, "q": {2: {}}}
    seen = set()
    for pattern in ("staged", "saga"):
        for nth in range(1, 60):
            async with await world_of_two_records() as world:
                world.faults.clear()

                async def block(world=world, pattern=pattern):
                    async with world.warehouse.begin(pattern=pattern) as tx:
                        await tx.update(None, "a", "things", {"id": 1}, {"n": {"$increment": 1}})
                        await tx.update(None, "p", "things", {"id": 1}, {"n": {"$increment": 1}})
                        await tx.insert(None, "q", "things", {"id": 2})
                    return tx.result

                result = await cancelled(world, block, nth, how)
                calls = len(world.faults.calls)
                if how == "twice":
                    await until(lambda world=world: world.leftovers())
                assert await world.leftovers() == [], (pattern, nth)
                assert world.everything() in (before, after), (pattern, nth)
                if result is not None:
                    assert world.everything() == after
                seen.add((result is None, world.everything() == after))
                if calls < nth:
                    break
        else:
            pytest.fail("it never came to an end")
    assert {(True, False), (False, True)} <= seen


async def test_wait_for():
    async with await world_of_two_records() as world:
        world.faults.delay("p.execute", 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.run(*work()), 0.05)
        assert world.rows("b") == {}
        assert await world.leftovers() == []


async def test_after_the_decision_a_cancelled_transaction_goes_forward():
    async with await world_of_two_records() as world:
        task = asyncio.ensure_future(world.run(*work()))

        async def cancel():
            task.cancel()
            await asyncio.sleep(0.01)

        world.faults.before("a.commit", cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.rows("a") == {1: {"n": 6}}
        assert world.rows("q") == {2: {}, 3: {}}
        assert await world.leftovers() == []


async def test_clean_up_that_takes_longer_than_grace_goes_on_without_the_caller():
    async with await world_of_two_records(grace=0.05) as world:
        task = asyncio.ensure_future(world.run(*work()))

        async def cancel():
            task.cancel()
            await asyncio.sleep(0.2)

        world.faults.before("a.commit", cancel)
        started = asyncio.get_running_loop().time()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() - started < 0.18
        assert world.rows("a") == {1: {"n": 5}}
        gc.collect()
        await until(world.leftovers)
        assert world.rows("a") == {1: {"n": 6}}


async def test_an_error_of_what_goes_on_without_the_caller_is_not_reported_to_nobody():
    messages = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(context["message"]))
    async with await world_of_two_records(grace=0.01) as world:
        task = asyncio.ensure_future(world.run(*work()))

        async def cancel(task=task):
            task.cancel()
            await asyncio.sleep(0.05)
            raise ZeroDivisionError

        world.faults.before("journal.finish", cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        world.faults.clear()
        del task, cancel
        gc.collect()
        await turns()
    assert messages == []


async def test_a_cancelled_call_of_a_block_ends_the_block():
    """What the store has done of it is not known: the block can only roll back."""
    async with await world_of_two_records() as world:
        world.faults.delay("a.execute", 5, nth=2)
        with pytest.raises(TransactionCompensated) as caught:
            async with world.warehouse.begin() as tx:
                await tx.insert(None, "a", "things", {"id": 7})
                with anyio.move_on_after(0.02):
                    await tx.insert(None, "a", "things", {"id": 8})
                with pytest.raises(StepFailed, match="can only roll back"):
                    await tx.insert(None, "a", "things", {"id": 9})
        assert "cancelled" in str(caught.value)
        assert world.rows("a") == {1: {"n": 5}}
        assert await world.leftovers() == []


async def test_a_cancellation_while_leaving_a_block_is_not_lost():
    async with await world_of_two_records() as world:
        entered = asyncio.Event()

        async def block():
            async with world.warehouse.begin() as tx:
                await tx.insert(None, "a", "things", {"id": 7})
                entered.set()
            await asyncio.sleep(5)

        task = asyncio.ensure_future(block())
        await entered.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(world.leftovers)
        assert await world.leftovers() == []


@PATTERNS
async def test_a_block_that_is_cancelled_from_inside(pattern):
    async with await world_of_two_records() as world:
        with anyio.move_on_after(0.05) as scope:
            async with world.warehouse.begin(pattern=pattern) as tx:
                await tx.insert(None, "a", "things", {"id": 7})
                await anyio.sleep(5)
        assert scope.cancelled_caught
        assert tx.result.status == "compensated"
        assert "CancelledError" in tx.result.error
        assert world.rows("a") == {1: {"n": 5}}
        assert await world.leftovers() == []


async def test_cancelled_reads_and_explanations_hold_nothing():
    async with await world_of_two_records() as world:
        world.faults.delay("?.find", 5)
        with anyio.move_on_after(0.02):
            await world.warehouse.find({"tag": "a", "entity": "things"})
        world.faults.clear()
        world.faults.delay("b.execute", 5)
        with anyio.move_on_after(0.02):
            await world.warehouse.explain(work())
        assert await world.leftovers() == []
        with pytest.raises(InvalidOperation):
            await world.run()
        assert statuses(await world.run(insert("q", {"id": 1}))) == "c"
