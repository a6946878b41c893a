"""Running work so that a cancellation of the caller reaches it only where it can be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")
_abandoned: set[asyncio.Task[None]] = set()


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
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=grace)
        if not task.done():
            _abandoned.add(task)
            task.add_done_callback(_abandoned.discard)
        elif not task.cancelled():
            task.exception()
        raise
    return results[0]
