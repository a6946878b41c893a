"""`Warehouse`, the synchronous face: threads, forks, Ctrl-C; and the asynchronous one under many tasks."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.memory_world import World, insert, update
from warehouse import (
    AlreadyFinished,
    AsyncTransaction,
    AsyncWarehouse,
    InvalidOperation,
    StepFailed,
    Transaction,
    TransactionCompensated,
    Warehouse,
)

SOURCE = {"tag": "a", "entity": "things"}
STORES = {"a": {"adapter": "memory"}, "p": {"adapter": "memory", "transactions": False}}


@pytest.fixture
def journal(tmp_path):
    return {"url": f"sqlite:///{tmp_path}/journal.db"}


@pytest.fixture
def warehouse(journal):
    with Warehouse(adapters=STORES, journal=journal, transactions={"lock_timeout": 20}) as made:
        yield made


def both(key, **data):
    return [insert("a", {"id": key, **data}), insert("p", {"id": key, **data})]


def test_everything_it_can_do(warehouse):
    assert warehouse.transaction(both(1, n=1), name="first").raise_for_status().name == "first"
    assert not warehouse.transaction(both(1)).ok
    assert warehouse.find(SOURCE, where={"n": 1}, fields=["id"]) == [{"id": 1}]
    assert warehouse.explain(both(2)).pattern == "staged"
    assert set(warehouse.participants()) == {"a", "p"}
    assert warehouse.journal.endswith("/journal.db")
    with warehouse.begin() as tx:
        assert tx.insert(None, "a", "things", {"id": 2}).one() == {"id": 2}
        tx.update(None, "a", "things", {"id": 2}, {"n": 2})
        tx.upsert(None, "p", "things", {"id": 2})
        tx.delete(None, "p", "things", {"id": 1})
        assert tx.find(None, "p", "things", order_by=["id"]) == [{"id": 2}]
    assert tx.result.ok
    with pytest.raises(AlreadyFinished):
        tx.find(None, "p", "things")
    with pytest.raises(ZeroDivisionError), warehouse.begin() as tx:
        tx.insert(None, "a", "things", {"id": 3})
        1 / 0  # noqa: B018
    assert tx.result.status == "compensated"
    with pytest.raises(TransactionCompensated), warehouse.begin() as tx, pytest.raises(StepFailed):
        tx.insert(None, "a", "things", {"id": 2})
    assert [row["id"] for row in warehouse.find(SOURCE, order_by=["id"])] == [1, 2]


def test_two_threads_at_once(warehouse):
    """Both are in the middle of their transactions at the same time."""
    meet = threading.Barrier(2, timeout=10)

    def work(number):
        with warehouse.begin() as tx:
            tx.insert(None, "a", "things", {"id": number})
            meet.wait()
            tx.insert(None, "p", "things", {"id": number})
            meet.wait()
        return tx.result.status

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [1, 2])) == ["completed", "completed"]
    assert len(warehouse.find(SOURCE)) == 2


def test_twenty_threads_on_the_same_records(warehouse):
    warehouse.transaction(both(1, n=0)).raise_for_status()
    steps = [update(tag, 1, {"n": {"$increment": 1}}) for tag in "ap"]

    def work(number):
        order = steps if number % 2 else steps[::-1]
        return [warehouse.transaction(order).status for _ in range(3)]

    with ThreadPoolExecutor(20) as pool:
        ends = [end for ends in pool.map(work, range(20)) for end in ends]
    assert ends == ["completed"] * 60
    assert warehouse.find(SOURCE) == [{"id": 1, "n": 60}]


@pytest.mark.anyio
async def test_fifty_tasks(journal):
    async with AsyncWarehouse(
        adapters=STORES, journal=journal, transactions={"lock_timeout": 20}
    ) as warehouse:

        async def work(number):
            made = await warehouse.transaction([*both(number), insert("a", {"id": 100 + number})])
            if number % 5 == 0:
                assert not (await warehouse.transaction(both(number))).ok
            return made.status

        assert await asyncio.gather(*(work(number) for number in range(50))) == ["completed"] * 50
        assert len(await warehouse.find(SOURCE)) == 100


@pytest.mark.anyio
async def test_many_tasks_open_and_connect_once():
    world = World()
    world.faults.delay("*.connect", 0.02)
    world.faults.delay("journal.open", 0.02)
    await asyncio.gather(*(world.run(insert("a", {"id": n}), insert("p", {"id": n})) for n in range(10)))
    assert [call for call in world.faults.calls if call.endswith((".open", ".connect"))] == [
        "journal.open",
        "a.connect",
        "p.connect",
    ]
    await world.warehouse.close()
    await world.warehouse.close()
    assert [call for call in world.faults.calls if call.endswith(".close")] == [
        "a.close",
        "p.close",
        "journal.close",
    ]
    assert (await world.run(insert("a", {"id": 99}))).ok
    await world.warehouse.close()


@pytest.mark.anyio
async def test_it_refuses_to_block_an_event_loop(journal):
    warehouse = Warehouse(adapters=STORES, journal=journal)
    for call in (
        warehouse.open,
        warehouse.begin,
        warehouse.participants,
        lambda: warehouse.transaction(both(1)),
        lambda: warehouse.find(SOURCE),
    ):
        with pytest.raises(InvalidOperation, match=r"inside a running event loop.*use AsyncWarehouse"):
            call()
    assert (await asyncio.to_thread(warehouse.transaction, both(1))).ok
    await asyncio.to_thread(warehouse.close)


def test_close_and_open_again(journal):
    warehouse = Warehouse(adapters=STORES, journal=journal)
    for key in range(3):
        assert warehouse.transaction(both(key)).ok
        warehouse.close()
        warehouse.close()
    with warehouse as again:
        assert again is warehouse
        assert len(warehouse.find(SOURCE)) == 3
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_close_while_others_work(journal):
    """They get the journal's answer, or open it again: never a hang, never half a transaction."""
    warehouse = Warehouse(adapters=STORES, journal=journal)
    stop = time.monotonic() + 0.5
    odd = []

    def work(number):
        key = number * 1000
        while time.monotonic() < stop:
            key += 1
            try:
                warehouse.transaction(both(key))
            except Exception as error:  # noqa: BLE001
                odd.append(error)

    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(work, number) for number in range(3)]
        while time.monotonic() < stop:
            warehouse.close()
            time.sleep(0.01)
        for end in ends:
            end.result(timeout=10)
    assert {type(error).__name__ for error in odd} <= {"JournalUnavailable", "OutcomeUnknown"}
    warehouse.close()


def test_a_fork_uses_it_and_so_does_the_parent(warehouse, tmp_path):
    """With connections, a thread and an event loop of its own. (What is in memory stays with the parent.)"""
    warehouse.transaction(both(1)).raise_for_status()
    out = tmp_path / "child"
    begun = warehouse.begin()
    pid = os.fork()
    if pid == 0:
        try:
            lines = [warehouse.transaction(both(7)).status]
            lines.append(str(len(warehouse.find(SOURCE))))
            try:
                begun.__enter__()
            except InvalidOperation as error:
                lines.append(str(error))
            warehouse.close()
            out.write_text("\n".join(lines))
        finally:
            os._exit(0)
    wait_for(pid)
    assert out.read_text().splitlines() == [
        "completed",
        "1",
        "the transaction was begun before a fork, by another process - begin() another",
    ]
    assert warehouse.transaction(both(2)).ok
    assert len(warehouse.find(SOURCE)) == 2


def wait_for(pid, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def run_child(code, *arguments, interrupt_at=None):
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(20, child.kill)
    watchdog.start()
    try:
        if interrupt_at is not None:
            assert child.stdout.readline().strip() == interrupt_at
            time.sleep(0.1)
            child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
    return child.returncode, out.splitlines(), err


SLOW = """
import sys, time
import anyio
from warehouse import Warehouse
from warehouse.testing.faults import inject

stores = {"a": {"adapter": "memory"}, "p": {"adapter": "memory", "transactions": False}}
warehouse = Warehouse(adapters=stores, journal={"url": "memory://"}, transactions={"grace": 5})
faults = inject(warehouse._inner)
there = {"tag": "a", "entity": "e"}

async def slow():
    print("now", flush=True)
    await anyio.sleep(30)

steps = [
    {"operation": "insert", "from": {"tag": "a", "entity": "e"}, "data": {"id": 1}},
    {"operation": "insert", "from": {"tag": "p", "entity": "e"}, "data": {"id": 1}},
]
"""


@pytest.mark.parametrize("pattern", ["staged", "saga"])
def test_ctrl_c_compensates_before_it_propagates(pattern):
    code = SLOW + textwrap.dedent(
        f"""
        faults.before("p.execute", slow)
        try:
            warehouse.transaction(steps, pattern={pattern!r})
        except KeyboardInterrupt:
            print("interrupted", warehouse.find(there), "a.rollback" in faults.calls)
            faults.clear()
            print(warehouse.transaction(steps).status)
        warehouse.close()
        """
    )
    code, out, err = run_child(code, interrupt_at="now")
    assert (code, out, err) == (0, ["interrupted [] True", "completed"], "")


def test_ctrl_c_in_a_block():
    code = SLOW + textwrap.dedent(
        """
        try:
            with warehouse.begin() as tx:
                tx.insert(None, "a", "e", {"id": 1})
                print("now", flush=True)
                time.sleep(30)
        except KeyboardInterrupt:
            print(tx.result.status, warehouse.find(there))
        warehouse.close()
        """
    )
    code, out, err = run_child(code, interrupt_at="now")
    assert (code, out, err) == (0, ["compensated []"], "")


def test_ctrl_c_after_the_decision_goes_forward():
    code = SLOW.replace("sleep(30)", "sleep(0.5)") + textwrap.dedent(
        """
        faults.before("a.commit", slow)
        try:
            warehouse.transaction(steps)
        except KeyboardInterrupt:
            print(warehouse.find(there))
        warehouse.close()
        """
    )
    code, out, err = run_child(code, interrupt_at="now")
    assert (code, out, err) == (0, ["[{'id': 1}]"], "")


def test_ctrl_c_on_the_asynchronous_one():
    code = SLOW + textwrap.dedent(
        """
        import asyncio
        inner = warehouse._inner

        async def main():
            faults.before("p.execute", slow)
            try:
                await inner.transaction(steps)
            finally:
                print(await inner.find(there))
                await inner.close()

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    code, out, err = run_child(code, interrupt_at="now")
    assert (code, out, err) == (0, ["[]", "interrupted"], "")


def test_a_program_that_never_closes_it_ends(tmp_path):
    code = """
    import sys
    from warehouse import Warehouse
    warehouse = Warehouse(
        adapters={"a": {"adapter": "memory"}, "b": {"adapter": "memory"}}, journal={"url": "sqlite:///" + sys.argv[1]}
    )
    steps = [{"operation": "insert", "from": {"tag": t, "entity": "e"}, "data": {"id": 1}} for t in ("a", "b")]
    print(warehouse.transaction(steps).status)
    """
    started = time.monotonic()
    code, out, err = run_child(code, str(tmp_path / "journal.db"))
    assert (code, out, err) == (0, ["completed"], "")
    assert time.monotonic() - started < 10


# One interface


def methods(kind):
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith("_") and name != "result" and callable(getattr(member, "__func__", member))
    }


@pytest.mark.parametrize(
    ("sync", "asynchronous"), [(Warehouse, AsyncWarehouse), (Transaction, AsyncTransaction)]
)
def test_both_faces_have_the_same_methods(sync, asynchronous):
    assert methods(sync).keys() == methods(asynchronous).keys()
    names = {"AsyncWarehouse": "Warehouse", "AsyncTransaction": "Transaction"}
    for name, member in methods(asynchronous).items():
        other = methods(sync)[name]
        mine, theirs = (inspect.signature(getattr(item, "__func__", item)) for item in (member, other))
        assert mine.parameters == theirs.parameters, name
        expected = names.get(str(mine.return_annotation), mine.return_annotation)
        assert theirs.return_annotation == expected, name
        assert not inspect.iscoroutinefunction(other)
        assert member.__doc__, name
        assert other.__doc__, name
    properties = {name for name, member in vars(asynchronous).items() if isinstance(member, property)}
    assert properties == {name for name, member in vars(sync).items() if isinstance(member, property)}
    init = [inspect.signature(kind.__init__).parameters for kind in (Warehouse, AsyncWarehouse)]
    assert init[0] == init[1]
