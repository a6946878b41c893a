"""Held transactions (DESIGN 6): staged now, under a name, and ended later, by whoever calls for it first."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio

from warehouse.actions import Actions
from warehouse.engine.durable import ended, record
from warehouse.engine.ending import Ending, NotYet, reach
from warehouse.engine.entries import make_entry
from warehouse.engine.lease import Lease
from warehouse.engine.options import Options, check_name
from warehouse.engine.outcome import recorded
from warehouse.engine.run import Run
from warehouse.engine.state import OpenUnit
from warehouse.engine.two_phase import vote
from warehouse.errors import (
    AlreadyFinished,
    InvalidOperation,
    OutcomeUnknown,
    StepFailed,
    StoreUnavailable,
    TransactionExpired,
    UnknownTransaction,
    WarehouseError,
)
from warehouse.journal.base import Claim, Entry, KeyTaken, ReplyLost, Superseded
from warehouse.registry import Registry
from warehouse.results import State, TransactionResult


async def hold(run: Run) -> StepFailed | None:
    """Journal a staged transaction as held, with its images and locks; the failure that kept it from that, or None.

    What can be prepared stays so; anything else is rolled back once its locks are durable, and made again, guarded,
    at the commit. Raises TransactionConflict where another transaction has a record, InvalidOperation where
    one has the name, and what `record` raises.
    """
    changed = [opened for opened in run.units.values() if opened.changed]
    prepares = [item for item in changed if item.participant.adapter.capabilities.prepares]
    with anyio.CancelScope(shield=True):
        failure = await vote(run, prepares) if prepares else None
        if failure is None:
            await _record(run, changed, prepares)
    return failure


async def _record(run: Run, changed: Sequence[OpenUnit], prepared: Sequence[OpenUnit]) -> None:
    entry = make_entry(run, "held", changed, expires=time.time() + run.options.expires_in)
    try:
        await record(run, entry)
    except KeyTaken as taken:
        raise name_taken(str(run.options.name)) from taken
    except OutcomeUnknown:
        await run.leave(prepared)
        raise
    await run.leave(prepared)


def name_taken(name: str) -> InvalidOperation:
    return InvalidOperation(
        f"a transaction is held under the name {name!r}",
        field="name",
        hint="commit(name) or rollback(name) ends it",
    )


class Held:
    """The held transactions of one journal."""

    def __init__(self, registry: Registry, lease: Lease, actions: Actions) -> None:
        self._registry = registry
        self._actions = actions
        self._lease = lease

    async def commit(self, name: str, options: Options) -> TransactionResult:
        """Make all of it take effect. Of several who end it at once, one does; the others raise AlreadyFinished.

        Raises UnknownTransaction, AlreadyFinished, TransactionExpired, and OutcomeUnknown where it is decided
        but a store is away.
        """
        return await self._end(name, options, "committing")

    async def rollback(self, name: str, options: Options) -> TransactionResult:
        """Give all of it up. Raises as `commit`."""
        return await self._end(name, options, "compensating")

    async def _end(self, name: str, options: Options, state: State) -> TransactionResult:
        check_name(name)
        entry = await self._held(name)
        await self._reach(entry)
        expired = entry.expires is not None and entry.expires <= time.time()
        detail = {"made": {}, "expired": expired} if expired or state == "compensating" else {}
        claim = await self._take(entry, "compensating" if expired else state, detail)
        try:
            result = await self._carry_out(claim, options)
        finally:
            self._lease.active.discard(claim.transaction_id)
        if expired:
            raise _expired(name)
        return result

    async def _held(self, name: str) -> Entry:
        journal = self._lease.journal
        transaction_id = await journal.held(name)
        entry = None if transaction_id is None else await journal.entry(transaction_id)
        if entry is not None and entry.state == "held":
            return entry
        if entry is not None:
            raise _finished(name, entry)
        last = await journal.latest(name)
        if last is None:
            raise UnknownTransaction(f"no transaction is held under the name {name!r}")
        raise _expired(name) if last.detail.get("expired") else _finished(name, last)

    async def _reach(self, entry: Entry) -> None:
        """Raise StoreUnavailable, with nothing changed, where a store cannot be reached now."""
        for step in entry.steps:
            if step.called is not None:
                continue
            try:
                await reach(self._registry, step)
            except NotYet as error:
                raise StoreUnavailable(error.message, step=step.name, tag=step.tag) from error

    async def _take(self, entry: Entry, state: State, detail: dict[str, object]) -> Claim:
        """Make it ours, and say how it ends, in one write: whoever comes later finds it ended."""
        active, journal = self._lease.active, self._lease.journal
        active.add(entry.transaction_id)
        claim = None
        try:
            claim = await journal.take_over(entry.claim, self._lease.owner, (state, detail))
        except ReplyLost as error:
            raise OutcomeUnknown(
                f"how transaction {entry.transaction_id} ends cannot be told: {error.message}",
                transaction_id=entry.transaction_id,
                hint="look at its status, and call again if it is still held",
            ) from error
        finally:
            if claim is None:
                active.discard(entry.transaction_id)
        if claim is None:
            raise _finished(str(entry.name), await journal.entry(entry.transaction_id) or entry)
        return claim

    async def _carry_out(self, claim: Claim, options: Options) -> TransactionResult:
        journal, transaction_id = self._lease.journal, claim.transaction_id
        try:
            entry = await journal.entry(transaction_id)
            if entry is None:
                raise UnknownTransaction(f"the journal has no transaction {transaction_id!r}")
            ending = Ending(
                self._registry,
                self._actions,
                journal,
                entry,
                grace=options.grace,
                lock_timeout=options.lock_timeout,
            )
            await ending.run(settled=True)
        except Superseded:
            pass  # somebody else brings it to its end
        except WarehouseError as error:
            raise OutcomeUnknown(
                f"transaction {transaction_id} cannot be ended yet: {error}",
                transaction_id=transaction_id,
                hint="recovery goes on with it",
            ) from error
        last = await ended(journal, transaction_id, time.monotonic() + options.grace)
        if last is None:
            raise OutcomeUnknown(
                f"transaction {transaction_id} has not ended yet", transaction_id=transaction_id
            )
        return recorded(last)


def _finished(name: str, entry: Entry) -> AlreadyFinished:
    return AlreadyFinished(
        f"the transaction {name!r} ({entry.transaction_id}) is not held any more: it is {entry.state}"
    )


def _expired(name: str) -> TransactionExpired:
    return TransactionExpired(f"the transaction {name!r} was held for too long, and has been rolled back")
