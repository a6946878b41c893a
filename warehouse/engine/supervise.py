"""Running work so that a cancellation of the caller reaches it only where it can be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")
# An event loop keeps no task alive on its own.
_running: set[asyncio.Task[None]] = set()


async def supervise(work: Callable[[], Awaitable[T]], grace: float) -> T:
    """The result of `work`, run in a task of its own.

    anyio's shields hold against anyio's cancellations only; `asyncio.wait_for` and `Task.cancel` go through
    them. Here either kind stops `work` where it is not shielded and waits up to `grace` seconds for its
    clean-up, before it propagates. What takes longer goes on in the background.
    """
    scope = anyio.CancelScope()
    results: list[T] = []

    async def body() -> None:
        with scope:
            results.append(await work())

    task = asyncio.ensure_future(body())
    _running.add(task)
    task.add_done_callback(_forget)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=grace)
        raise
    return results[0]


def _forget(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # seen: where nobody waits any more, nobody is to be told
