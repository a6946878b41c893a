"""A virtual clock: an event loop that jumps to its next timer in place of waiting, and one seed for all chance."""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Final, TypeVar
from unittest import mock

import anyio.to_thread

T = TypeVar("T")
# When every simulation begins, as `time.time`: any moment, but always the same.
_EPOCH: Final = 1_700_000_000.0


# How far ahead (seconds) the wall clock is of whoever runs now; behind, where it is negative.
ahead: ContextVar[Callable[[], float]] = ContextVar("ahead", default=lambda: 0.0)


class Stuck(AssertionError):
    """Everybody waits, and nothing is ever going to happen."""


class _Selector(selectors.SelectSelector):
    """Waits by turning the clock on. Only what wakes the loop itself is ever ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck("everybody waits for somebody else")
            self.now += max(timeout, 0.0)
        return ready


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory."""

    numbers: count[int]

    def __init__(self, *args: Any, **more: Any) -> None:
        self._number = next(self.numbers)
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock; its time starts at 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        numbers = count()
        kind = type("_Task", (_Task,), {"numbers": numbers})
        super().__init__(self._virtual)
        self.set_task_factory(lambda loop, work, **more: kind(work, loop=loop, **more))

    def time(self) -> float:
        return self._virtual.now


def run(work: Callable[[], Coroutine[Any, Any, T]], seed: int) -> T:
    """The result of `work` on a virtual clock, where time, ids and chance all come from `seed`.

    Nothing else may run in this process meanwhile: its clocks are replaced. Raises Stuck.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        with _replaced(loop, seed):
            return runner.run(work())


@contextmanager
def _replaced(loop: asyncio.AbstractEventLoop, seed: int) -> Iterator[None]:
    """Have all clocks, ids, chance and threads of the process come from the loop and the seed."""
    ids = random.Random(f"ids {seed}")  # noqa: S311 - to be repeated, not secret
    state = random.getstate()
    random.seed(f"chance {seed}")
    try:
        with (
            mock.patch.object(time, "time", _wall_clock(loop)),
            mock.patch.object(time, "monotonic", loop.time),
            mock.patch.object(os, "urandom", ids.randbytes),
            mock.patch.object(anyio.to_thread, "run_sync", _in_line),
        ):
            yield
    finally:
        random.setstate(state)


def _wall_clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    return lambda: _EPOCH + loop.time() + ahead.get()()


async def end_others() -> None:
    """Cancel all other tasks, and those that they begin meanwhile, until there are none."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=1)


async def _in_line(function: Callable[..., T], *args: Any, **_: Any) -> T:
    """What a thread would do, as a turn of its own."""
    await asyncio.sleep(0)
    return function(*args)
