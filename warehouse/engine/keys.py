"""Idempotency keys (DESIGN 6): a call that is repeated takes effect once, and gets the same result."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakValueDictionary

import anyio

from warehouse.engine.durable import ended
from warehouse.engine.options import Options
from warehouse.engine.outcome import recorded
from warehouse.errors import IdempotencyConflict, InvalidOperation, OutcomeUnknown
from warehouse.journal.base import Idempotency, Journal, KeyTaken
from warehouse.journal.codec import encode
from warehouse.operations import Operation
from warehouse.results import TransactionResult


def fingerprint(operations: Mapping[str, Operation]) -> bytes:
    """What tells these operations from any others. InvalidOperation where a value cannot be journaled."""
    try:
        content = encode([[name, item.model_dump(by_alias=True)] for name, item in operations.items()])
    except TypeError as error:
        raise InvalidOperation(str(error), field="idempotency_key") from None
    return hashlib.blake2b(content, digest_size=32).digest()


def make_idempotency(options: Options, operations: Mapping[str, Operation]) -> Idempotency | None:
    """The key that the caller gave, with what it stands for."""
    if options.idempotency_key is None:
        return None
    expires = time.time() + options.idempotency_ttl
    return Idempotency(options.idempotency_key, fingerprint(operations), expires)


class Keys:
    """Calls with idempotency keys, of one process. Those of the same key go one after another here."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def once(
        self,
        journal: Journal,
        idempotency: Idempotency,
        give_up: float,
        attempt: Callable[[], Awaitable[TransactionResult]],
    ) -> TransactionResult:
        """The result of `attempt`, or of the call that had the key before.

        Raises IdempotencyConflict where that one was to do something else; OutcomeUnknown where it has not ended
        by `give_up` (monotonic seconds).
        """
        lock = self._locks.setdefault(idempotency.key, anyio.Lock())
        async with lock:
            while True:
                before = await _before(journal, idempotency, give_up)
                if before is not None:
                    return before
                try:
                    result = await attempt()
                except KeyTaken:
                    continue
                keyed = None if result.ok else await journal.keyed(idempotency.key)
                if keyed is None:
                    return result


async def _before(journal: Journal, idempotency: Idempotency, give_up: float) -> TransactionResult | None:
    """How the call ended that had the key before; None where there was none that took effect."""
    keyed = await journal.keyed(idempotency.key)
    if keyed is None:
        return None
    if keyed.fingerprint != idempotency.fingerprint:
        raise IdempotencyConflict(
            f"the idempotency key {idempotency.key!r} was used for other operations,"
            f" by transaction {keyed.transaction_id}",
            hint="a key stands for one call: use another for another",
        )
    entry = await ended(journal, keyed.transaction_id, give_up)
    if entry is None:
        raise OutcomeUnknown(
            f"transaction {keyed.transaction_id} has the idempotency key {idempotency.key!r}, and has not ended",
            transaction_id=keyed.transaction_id,
            hint="call again later",
        )
    return recorded(entry) if entry.state == "completed" else None
