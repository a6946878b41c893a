"""Idempotency keys: what is repeated takes effect once, in one process and in several, and after a crash."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from decimal import Decimal

import pytest

from integration.memory_world import World, insert, statuses, update
from integration.test_recovery import Two, crash, pause
from warehouse import AlreadyFinished, IdempotencyConflict, JournalUnavailable, OutcomeUnknown
from warehouse.errors import StoreError
from warehouse.journal.base import ReplyLost

pytestmark = pytest.mark.anyio
ONE = (insert("a", {"id": 1}),)
SOME = (
    insert("a", {"id": 1, "n": Decimal("1.50"), "secret": "x"}, returning=["id", "n"]),
    insert("p", [{"id": 1}, {"id": 2}], name="second"),
    update("b", 99, {"n": 1}),
)


def seen(result):
    """What must be the same of a repeated call's result."""
    steps = result.model_dump(exclude={"execution_time"})
    for step in steps["step_results"].values():
        del step["duration"]
    return steps


@pytest.mark.parametrize(
    "operations", [ONE, SOME, (update("a", 99, {"n": 1}),)], ids=["alone", "several", "nothing"]
)
@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_the_same_call_again_returns_the_stored_result(operations, pattern):
    async with World() as world:
        first = await world.run(*operations, idempotency_key="k", pattern=pattern, name="orders")
        before = world.everything()
        world.faults.clear()
        again = await world.run(*operations, idempotency_key="k", pattern=pattern, name="orders")
        assert first.ok
        assert seen(again) == seen(first)
        assert world.everything() == before
        assert not any(".execute" in call for call in world.faults.calls)
        assert await world.leftovers() == []


async def test_without_a_key_it_runs_again():
    async with World() as world:
        assert (await world.run(*ONE)).ok
        assert (await world.run(*ONE)).status == "compensated"


async def test_other_operations_under_one_key_are_refused():
    async with World() as world:
        await world.run(*ONE, idempotency_key="k")
        with pytest.raises(IdempotencyConflict, match="'k' was used for other operations"):
            await world.run(insert("a", {"id": 2}), idempotency_key="k")
        assert (await world.run(insert("a", {"id": 2}), idempotency_key="other")).ok
        assert world.rows("a") == {1: {}, 2: {}}


async def test_concurrent_calls_of_one_key_run_once():
    async with World() as world:
        world.faults.delay("a.execute", 0.02)
        results = await asyncio.gather(*(world.run(*SOME, idempotency_key="k") for _ in range(8)))
        assert {result.transaction_id for result in results} == {results[0].transaction_id}
        assert all(seen(result) == seen(results[0]) for result in results)
        assert world.faults.calls.count("a.execute") == 1


async def test_a_call_waits_for_the_one_of_another_process():
    async with Two() as two:
        paused, go = pause(two.owner, "p.write")
        operations = insert("a", {"id": 1}), insert("p", {"id": 1})
        first = asyncio.ensure_future(two.owner.run(*operations, idempotency_key="k"))
        await paused.wait()
        with pytest.raises(OutcomeUnknown, match="has not ended"):
            await two.other.run(*operations, idempotency_key="k", timeout=0.1)
        again = asyncio.ensure_future(two.other.run(*operations, idempotency_key="k"))
        await asyncio.sleep(0.05)
        go.set()
        assert seen(await again) == seen(await first)


async def test_two_processes_that_stage_the_same_call_make_it_once():
    """Both find the key free; the one that is second in the journal gets the other's result."""
    async with Two("pq") as two:
        operations = insert("p", {"id": 1}), insert("q", {"id": 1})
        paused, go = pause(two.owner, "journal.decide")
        first = asyncio.ensure_future(two.owner.run(*operations, idempotency_key="k"))
        await paused.wait()
        second = await two.other.run(*operations, idempotency_key="k")
        go.set()
        assert second.ok
        assert seen(await first) == seen(second)
        assert [call for call in two.owner.faults.calls if call.endswith(".write")] == []


async def test_what_was_compensated_may_be_tried_again():
    async with World() as world:
        world.faults.fail("p.write", StoreError("no"))
        first = await world.run(*SOME, idempotency_key="k")
        assert (first.status, statuses(first)) == ("compensated", "ufu")
        assert (await world.run(*SOME, idempotency_key="k")).ok
        assert (await world.run(insert("a", {"id": 9}), idempotency_key="k2")).ok


async def test_a_key_outlives_a_crash():
    async with Two() as two:
        operations = insert("a", {"id": 1}), insert("p", {"id": 1})
        await crash(two, *operations, at="journal.decide", idempotency_key="k")
        two.owner.stores["a"]._store.space.locks._owners.clear()  # they go with the process
        waiting = asyncio.ensure_future(two.other.run(*operations, idempotency_key="k"))
        assert await two.recover() == [("completed", None)]
        result = await waiting
        assert (result.ok, statuses(result)) == (True, "cc")
        assert two.owner.everything() == {"a": {1: {}}, "p": {1: {}}}


async def test_c19_the_only_participant_is_journaled_before_its_commit():
    """A crash right after the commit must not let the repeated call run again (C19)."""
    async with Two("a") as two:
        await crash(two, *ONE, at="a.commit", idempotency_key="k")
        two.owner.stores["a"]._store.space.locks._owners.clear()
        assert await two.recover() == [("completed", None)]
        assert (await two.other.run(*ONE, idempotency_key="k")).ok
        assert two.owner.rows("a") == {1: {}}


async def test_a_decide_without_a_reply_does_not_use_the_key_up():
    async with World() as world:
        world.faults.fail("journal.decide", ReplyLost("no reply"))
        with pytest.raises(JournalUnavailable):
            await world.run(*SOME, idempotency_key="k")
        assert (await world.run(*SOME, idempotency_key="k")).ok


async def test_a_key_expires(monkeypatch):
    async with World() as world:
        assert (await world.run(*ONE, idempotency_key="k", idempotency_ttl=0.05)).ok
        assert (await world.run(*ONE, idempotency_key="k", idempotency_ttl=0.05)).ok
        await asyncio.sleep(0.06)
        assert (await world.run(*ONE, idempotency_key="k")).status == "compensated"  # it ran again


async def test_a_block_has_its_key_once():
    async with World() as world:
        async with world.warehouse.begin(idempotency_key="k") as tx:
            await tx.insert("database", "a", "things", {"id": 1})
        with pytest.raises(AlreadyFinished, match=tx.result.transaction_id):
            async with world.warehouse.begin(idempotency_key="k"):
                pass
        async with world.warehouse.begin(idempotency_key="l", raise_on_failure=False) as one:
            await one.insert("database", "a", "things", {"id": 2})
            async with world.warehouse.begin(idempotency_key="l") as other:
                await other.insert("database", "b", "things", {"id": 2})
        assert (other.result.status, one.result.status) == ("completed", "compensated")
        assert "idempotency key" in one.result.error


async def test_keys_survive_pruning_until_they_expire():
    async with World() as world:
        first = await world.run(*ONE, idempotency_key="k", idempotency_ttl=0.2)
        soon = 4e9
        await world.journal.prune(finished=soon, images=soon)
        assert seen(await world.run(*ONE, idempotency_key="k")) == seen(first)
        await asyncio.sleep(0.21)
        await world.journal.prune(finished=soon, images=soon)
        assert await world.journal.entries() == []


CHILD = """
    import asyncio, sys
    from warehouse import AsyncWarehouse

    async def main():
        place = {{"tag": "s", "entity": "things"}}
        async with AsyncWarehouse.from_config({config!r}) as warehouse:
            ids = [
                (await warehouse.transaction(
                    [{{"operation": "insert", "from": place, "data": {{"id": n}}}}], idempotency_key=f"key-{{n}}"
                )).raise_for_status().transaction_id
                for n in range(20)
            ]
        print(*ids)

    asyncio.run(main())
"""


async def test_several_processes_make_each_call_once(tmp_path):
    config = {
        "journal": {"url": f"sqlite:///{tmp_path}/journal.db"},
        "adapters": {"s": {"adapter": "sql", "url": f"sqlite+aiosqlite:///{tmp_path}/s.db"}},
    }
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    code = textwrap.dedent(CHILD).format(config=config)
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    said = [(await child.communicate())[0].decode().split() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert len(said[0]) == 20
    assert all(ids == said[0] for ids in said)


@pytest.mark.parametrize("stores", ["a", "p", "ap"])
async def test_one_record_under_one_key_after_the_other(stores):
    """Whoever finished with it before this one began is no reason to refuse it, in one store either."""
    async with World() as world:
        for tag in stores:
            await world.fill(tag, {"id": 1, "n": 0})
        for key in "xyz":
            steps = [update(tag, 1, {"n": {"$increment": 1}}) for tag in stores]
            assert (await world.run(*steps, idempotency_key=key)).ok
            if stores == "a":  # which is journaled too, with one store
                assert (await world.run(*steps, pattern="two_phase_commit")).ok
        assert {world.rows(tag)[1]["n"] for tag in stores} == {6 if stores == "a" else 3}
