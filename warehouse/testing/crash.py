"""A crash harness: a transaction runs in a child process that is killed at a named point; then it is recovered.

    for point in points(await run(case)):               # every boundary between two effects that it passed
        await reset()
        assert (await run(case, point)).killed
        await recover(case)                             # in another child, which may be killed as well

A point is a call of a store or the journal, as `warehouse.testing.faults` names it, and which time it is made:
the child is killed by SIGKILL right before or right after it. Children are forked by a server process that has
imported everything before, which makes them cheap; `config` has to be of one's own, and its `lease` short.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

import anyio.to_thread

from warehouse.client import AsyncWarehouse
from warehouse.errors import WarehouseError
from warehouse.results import TransactionResult
from warehouse.testing.faults import Faults, inject

# What is called all the time, or before anything has been done, is no boundary between two effects.
_UNEVENTFUL: Final = frozenset(
    {"beat", "open", "close", "connect", "describe", "unit", "retire", "entries", "claims"}
)
_context = get_context("forkserver")
_context.set_forkserver_preload(
    ["warehouse.testing.crash", "warehouse_adapters.sql", "warehouse_adapters.qdrant"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A transaction, and what goes wrong in it: call, which time it is made, the error raised in its place.

    `held`: it is held first, to expire after so many seconds, and then committed. `setup` (which can be pickled)
    is called with every Warehouse, before it is opened, and the configuration: it registers actions, say.
    """

    config: Mapping[str, Any]
    operations: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    failing: tuple[tuple[str, int, WarehouseError], ...] = ()
    held: float | None = None
    setup: Callable[[AsyncWarehouse, Mapping[str, Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Right before, or right after, the `nth` time that `call` is made."""

    when: Literal["before", "after"]
    call: str
    nth: int

    def __str__(self) -> str:
        return f"{self.when} {self.call}" + (f" #{self.nth}" if self.nth > 1 else "")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: killed; or else with which outcome, or traceback, after which calls."""

    killed: bool = False
    calls: tuple[str, ...] = ()
    outcome: Any = None
    error: str | None = None


async def run(scenario: Scenario, kill_at: Point | None = None) -> Ended:
    """Run the transaction in a child. Its `outcome` is the status, or the name of the error."""
    return await _child(_transact, scenario, kill_at)


async def recover(scenario: Scenario, kill_at: Point | None = None) -> Ended:
    """Recover in a child. Its `outcome` are the statuses, by transaction."""
    return await _child(_recover, scenario, kill_at)


def points(ended: Ended, failing: Iterable[tuple[str, int, WarehouseError]] = ()) -> list[Point]:
    """The boundaries between two effects that a child passed; after a call that was made to fail there is none."""
    never = {Point("after", call, nth) for call, nth, _ in failing}
    made: dict[str, int] = {}
    out: list[Point] = []
    for call in ended.calls:
        made[call] = made.get(call, 0) + 1
        if call.rpartition(".")[2] not in _UNEVENTFUL:
            out += [Point("before", call, made[call]), Point("after", call, made[call])]
    return [point for point in out if point not in never]


async def _child(work: Callable[..., Any], scenario: Scenario, kill_at: Point | None) -> Ended:
    return await anyio.to_thread.run_sync(partial(_wait, work, scenario, kill_at))


def _wait(work: Callable[..., Any], scenario: Scenario, kill_at: Point | None) -> Ended:
    mine, its = _context.Pipe(duplex=False)
    child = _context.Process(target=_main, args=(work, scenario, kill_at, its))
    child.start()
    its.close()
    try:
        ended = mine.recv()
    except EOFError:  # it could not even say that something went wrong
        ended = Ended(killed=True)
    child.join()
    mine.close()
    child.close()
    assert isinstance(ended, Ended)
    return ended


# In the child


def _main(
    work: Callable[[Scenario, Point | None], Coroutine[Any, Any, Ended]],
    scenario: Scenario,
    kill_at: Point | None,
    pipe: Connection[Any, Any],
) -> None:
    try:
        ended = asyncio.run(work(scenario, kill_at))
    except Exception:  # noqa: BLE001 - told to the parent
        ended = Ended(error=traceback.format_exc())
    pipe.send(ended)
    pipe.close()


async def _transact(scenario: Scenario, kill_at: Point | None) -> Ended:
    warehouse, faults = _warehouse(scenario, kill_at)
    for call, nth, error in scenario.failing:
        faults.fail(call, error, nth=nth)
    async with warehouse:
        try:
            outcome: str = (await _result(warehouse, scenario)).status
        except WarehouseError as error:
            outcome = type(error).__name__
    return Ended(calls=tuple(faults.calls), outcome=outcome)


async def _result(warehouse: AsyncWarehouse, scenario: Scenario) -> TransactionResult:
    if scenario.held is None:
        return await warehouse.transaction(list(scenario.operations), **scenario.options)
    async with warehouse.begin("held", hold=True, expires_in=scenario.held) as tx:
        for operation in scenario.operations:
            content = dict(operation)
            execute, source = getattr(tx, content.pop("operation")), content.pop("from")
            await execute(None, source["tag"], source["entity"], **content)
    return await warehouse.commit("held")


async def _recover(scenario: Scenario, kill_at: Point | None) -> Ended:
    warehouse, faults = _warehouse(scenario, kill_at)
    async with warehouse:
        found = await warehouse.recover()
        outcome = {item.transaction_id: item.status or item.error for item in found}
        return Ended(calls=tuple(faults.calls), outcome=outcome)


def _warehouse(scenario: Scenario, kill_at: Point | None) -> tuple[AsyncWarehouse, Faults]:
    journal = {"recover": "manual", **scenario.config["journal"]}
    warehouse = AsyncWarehouse(**{**scenario.config, "journal": journal})
    faults = inject(warehouse)
    if scenario.setup is not None:
        scenario.setup(warehouse, scenario.config)
    if kill_at is not None:
        (faults.before if kill_at.when == "before" else faults.after)(kill_at.call, _die, nth=kill_at.nth)
    return warehouse, faults


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
