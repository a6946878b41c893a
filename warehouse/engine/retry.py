"""Whether and when to try again: back-off with jitter, never past the deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio

from warehouse.engine.options import Options
from warehouse.errors import (
    JournalUnavailable,
    StepFailed,
    StoreContention,
    TransactionConflict,
    TransientError,
    WarehouseError,
)
from warehouse.journal.base import ReplyLost
from warehouse.operations import Operation

_FIRST = 0.01
_LONGEST = 1.0
_PASSING = TransientError | JournalUnavailable
T = TypeVar("T")


def back_off(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt`: exponential, with full jitter (Brooker, AWS, 2015)."""
    return random.uniform(_FIRST / 2, min(_LONGEST, _FIRST * 2.0**attempt))  # noqa: S311 - no secret


async def insist(ask: Callable[[], Awaitable[T]], seconds: float) -> T:
    """What the journal answers; for so many seconds it is asked again where it is away, or its reply was lost."""
    give_up = time.monotonic() + seconds
    attempt = 0
    while True:
        try:
            return await ask()
        except (JournalUnavailable, ReplyLost):
            if time.monotonic() >= give_up:
                raise
        attempt += 1
        await anyio.sleep(back_off(attempt))


def is_contention(error: WarehouseError | None) -> bool:
    """Whether somebody else was in the way: a lock, a deadlock, a write conflict."""
    return isinstance(error, StoreContention | TransactionConflict)


class Retries:
    """The retry policy of one transaction (DESIGN 5.6).

    Contention is always tried again until `lock_timeout` after it was first met. Other transient errors are
    tried again as often as the step's `max_retries`, or the transaction's where `retry_on_failure` is set.
    """

    def __init__(self, options: Options, deadline: float, operations: Mapping[str, Operation]) -> None:
        """For the steps `operations`, by name; `deadline` is when the transaction's time is over (monotonic)."""
        self._options = options
        self._deadline = deadline
        self._operations = operations
        self._contended_since: float | None = None
        self._retries = 0
        self.count = 0

    async def again(self, failure: WarehouseError) -> bool:
        """Wait and say true, if what failed should be tried again after `failure`."""
        reason = failure.reason if isinstance(failure, StepFailed) else failure
        remaining = self._deadline - time.monotonic()
        if is_contention(reason):
            self._contended_since = self._contended_since or time.monotonic()
            left = self._contended_since + self._options.lock_timeout - time.monotonic()
        elif isinstance(reason, _PASSING) and self._retries < self._allowed(failure):
            self._retries += 1
            left = remaining
        else:
            return False
        self.count += 1
        pause = back_off(self.count)
        if pause >= min(left, remaining):
            return False
        await anyio.sleep(pause)
        return True

    def _allowed(self, failure: WarehouseError) -> int:
        operation = self._operations.get(failure.step or "")
        if operation is not None and operation.max_retries is not None:
            return operation.max_retries
        return self._options.max_retries if self._options.retry_on_failure else 0
