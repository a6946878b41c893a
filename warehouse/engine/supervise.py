"""Running work so that a cancellation of the caller reaches it only where it can be stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias, TypeVar

import anyio

T = TypeVar("T")
Tasks: TypeAlias = set[asyncio.Task[None]]


async def supervise(work: Callable[[], Awaitable[T]], grace: float, running: Tasks) -> T:
    """The result of `work`, run in a task of its own, which is in `running` until it ends.

    anyio's shields hold against anyio's cancellations only; `asyncio.wait_for` and `Task.cancel` go through
    them. Here either kind stops `work` where it is not shielded and waits up to `grace` seconds for its
    clean-up, before it propagates, however often it comes. What takes longer goes on in the background.
    """
    scope = anyio.CancelScope()
    results: list[T] = []

    async def body() -> None:
        with scope:
            results.append(await work())

    task = asyncio.ensure_future(body())
    running.add(task)
    task.add_done_callback(running.discard)
    task.add_done_callback(_forget)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        scope.cancel()
        await _ended(task, time.monotonic() + grace)
        raise
    return results[0]


async def _ended(task: asyncio.Task[None], deadline: float) -> None:
    while not task.done() and time.monotonic() < deadline:
        with anyio.CancelScope(shield=True), suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=deadline - time.monotonic())


def _forget(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # seen: where nobody waits any more, nobody is to be told
