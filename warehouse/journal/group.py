"""Group commit: writes that wait for their turn share the next durable one. Each member stands or falls alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

T = TypeVar("T")
# So many share one at most: nobody is to wait for a crowd.
_MOST: Final = 100


class Member(Generic[T]):
    """One write: what it returned, or raised."""

    def __init__(self, function: Callable[..., T], arguments: Sequence[Any]) -> None:
        self._function = function
        self._arguments = arguments
        self._value: Any = None
        self._error: Exception | None = None
        self.over = False

    def run(self, connection: Any) -> None:
        """Make it, within whatever transaction the connection has open."""
        self._value = self._function(connection, *self._arguments)

    def fail(self, error: Exception) -> None:
        """Note why it was not made, unless that is known already."""
        self._error = self._error or error

    def result(self) -> T:
        """What it returned; or raise what it raised."""
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value


class Group:
    """Makes writes, one group after the other, in a thread."""

    def __init__(self, make: Callable[[Sequence[Member[Any]]], None]) -> None:
        """`make` makes them, durably, before it returns, or fails them."""
        self._make = make
        self._limiter = CapacityLimiter(1)
        self._turn = anyio.Lock()
        self._waiting: list[Member[Any]] = []

    async def write(self, function: Callable[..., T], arguments: Sequence[Any]) -> T:
        """What `function` returns, once that is durable. Raises what it raises."""
        member = Member(function, arguments)
        self._waiting.append(member)
        with anyio.CancelScope(shield=True):
            async with self._turn:
                while not member.over:
                    members, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                    await to_thread.run_sync(self._run, members, limiter=self._limiter)
        return member.result()

    def _run(self, members: Sequence[Member[Any]]) -> None:
        try:
            self._make(members)
        except Exception as error:  # noqa: BLE001 - each of them raises it, with a traceback of its own
            for member in members:
                member.fail(error if len(members) == 1 else copy.copy(error))
        for member in members:
            member.over = True
