"""What the journal tells of transactions: lists, one of them, a record's history; and how they are undone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

import anyio
import anyio.to_thread

from warehouse import conversions
from warehouse.engine.ending import reach
from warehouse.engine.entries import make_entry
from warehouse.engine.lease import Lease
from warehouse.engine.options import Options
from warehouse.engine.outcome import recorded, result
from warehouse.engine.reversal import OnConflict, Reversal
from warehouse.engine.run import Run
from warehouse.errors import (
    AlreadyFinished,
    InvalidOperation,
    StepFailed,
    TransactionConflict,
    UnknownTransaction,
    WarehouseError,
    did_you_mean,
)
from warehouse.journal.base import FINAL, Entry, lock
from warehouse.operations import Source
from warehouse.records import ABSENT, Change, Record
from warehouse.registry import Participant, Registry
from warehouse.results import ChangeInfo, HistoryItem, State, StepInfo, TransactionInfo, TransactionResult

How = Literal["retry", "force", "accept"]
_STATES: Final = get_args(State)
_log = logging.getLogger("warehouse")
# History is written after so many seconds, or so many transactions: the more in one write, the less each costs.
_GATHER: Final = 0.2
_MANY: Final = 500


class Archive:
    """The transactions in the journal of one Warehouse."""

    def __init__(self, registry: Registry, lease: Lease) -> None:
        self._registry = registry
        self._lease = lease
        self._notes: list[tuple[Run, float]] = []
        self._noting: asyncio.Task[None] | None = None
        self._hurry = anyio.Event()

    # Of transactions that needed no journal

    def remember(self, run: Run) -> None:
        """Have the history of a transaction kept that completed without the journal; several go in one write."""
        if run.status != "completed" or not run.alone:
            return
        self._notes.append((run, time.time()))
        if self._noting is None or self._noting.done():
            self._hurry = anyio.Event()
            self._noting = asyncio.ensure_future(self._write_notes())
        if len(self._notes) >= _MANY:
            self._hurry.set()

    async def _write_notes(self) -> None:
        while self._notes:
            with anyio.move_on_after(_GATHER):
                await self._hurry.wait()
            notes, self._notes = self._notes, []
            entries = await anyio.to_thread.run_sync(_entries, notes)
            try:
                if entries:
                    await self._lease.journal.note(entries)
            except WarehouseError as error:
                _log.warning("the history of %d transactions could not be kept: %s", len(notes), error)

    async def flush(self) -> None:
        """Wait until everything noted so far is recorded."""
        if self._noting is not None:
            self._hurry.set()
            await asyncio.wait({self._noting})

    # Looking

    async def _settle(self) -> None:
        """Have everything in the journal that has ended so far. Raises what the journal raises."""
        await self.flush()
        await self._lease.trailing.flush()

    async def transactions(self, status: State | Sequence[State] | None, limit: int) -> list[TransactionInfo]:
        """The last transactions, newest first."""
        states = _states(status)
        await self._settle()
        return [_info(entry) for entry in await self._lease.journal.recent(states, limit)]

    async def show(self, transaction_id: str) -> TransactionInfo:
        """One transaction with all it changed. Raises UnknownTransaction."""
        return _info(await self._entry(transaction_id))

    async def _entry(self, transaction_id: str) -> Entry:
        await self._settle()
        entry = await self._lease.journal.entry(transaction_id)
        if entry is None:
            raise UnknownTransaction(f"the journal has no transaction {transaction_id!r}")
        return entry

    async def history(self, source: Source, key: Mapping[str, Any], limit: int) -> list[HistoryItem]:
        """What was changed of a record, newest first."""
        participant, wanted_key = await self._record(source, key)
        store = participant.identity
        entries = await self._lease.journal.of_record(lock(store, source.target, wanted_key), limit)
        out: list[HistoryItem] = []
        for entry in entries:
            for step in reversed(entry.steps):
                if step.store == store:
                    out += [
                        _item(entry, step.name, participant.tag, change)
                        for change in reversed(step.changes)
                        if change.entity == source.target and change.key == wanted_key
                    ]
        return out

    async def forget(self, source: Source, key: Mapping[str, Any]) -> int:
        """Erase what the journal keeps of a record; see `AsyncWarehouse.forget`."""
        participant, wanted = await self._record(source, key)
        count, kept = await self._lease.journal.forget(lock(participant.identity, source.target, wanted))
        if kept:
            raise TransactionConflict(
                f"{len(kept)} transactions need their images of {source.target} {wanted} still: {', '.join(kept)}",
                tag=source.tag,
                hint="forget it again once they have ended; a failed one is settled with resolve()",
            )
        return count

    async def _record(self, source: Source, key: Mapping[str, Any]) -> tuple[Participant, Record]:
        """Who has the record of this key, once all is written that is known of it. Raises InvalidOperation."""
        participant = await self._registry.connected(source.tag)
        info = await participant.adapter.describe(source.target)
        if set(key) != set(info.key):
            wanted = ", ".join(info.key) or "nothing that could be looked up"
            raise InvalidOperation(
                f"the key of {source.target} is {wanted}, not {', '.join(key)}", tag=source.tag, field="key"
            )
        await self._settle()
        return participant, conversions.convert_record(dict(key), info.config.convert)

    # Undoing

    async def undo(self, transaction_id: str, on_conflict: OnConflict, options: Options) -> TransactionResult:
        """Undo a completed transaction; see `AsyncWarehouse.undo`."""
        _check_choice("on_conflict", on_conflict, get_args(OnConflict))
        entry = await self._entry(transaction_id)
        if entry.state not in FINAL:
            raise AlreadyFinished(
                f"transaction {transaction_id} has not ended: it is {entry.state}", hint="wait for it first"
            )
        if entry.state != "completed":
            raise AlreadyFinished(
                f"transaction {transaction_id} is {entry.state}: there is nothing of it to undo",
                hint="settle a failed one with resolve()" if entry.state == "failed" else None,
            )
        return await self._reverse(entry, on_conflict, options)

    async def is_being_undone(self, transaction_id: str) -> bool:
        """Whether it has no end yet, and goes backward. Raises UnknownTransaction."""
        return (await self._entry(transaction_id)).state == "compensating"

    async def undone(self, transaction_id: str) -> TransactionResult | None:
        """What the journal tells of a transaction that was undone whole; None of any other."""
        entry = await self._entry(transaction_id)
        return recorded(entry) if entry.state == "compensated" else None

    async def resolve(self, transaction_id: str, how: How, options: Options) -> TransactionResult:
        """Settle a failed transaction; see `AsyncWarehouse.resolve`."""
        _check_choice("how", how, get_args(How))
        entry = await self._entry(transaction_id)
        if entry.state == "compensating":
            raise AlreadyFinished(
                f"transaction {transaction_id} is still being undone",
                hint="recovery goes on with it: wait for it",
            )
        if entry.state != "failed":
            raise AlreadyFinished(f"transaction {transaction_id} is not failed, but {entry.state}")
        if how == "accept":
            ended = recorded(entry)
        else:
            ended = await self._reverse(entry, "force" if how == "force" else "skip", options)
        if how == "accept" or (ended.ok and not (ended.conflicts and how == "retry")):
            state: State = "completed" if how == "accept" else "compensated"
            await self._lease.journal.resolve(transaction_id, state, {"resolved": how})
        return ended

    async def _reverse(self, entry: Entry, on_conflict: OnConflict, options: Options) -> TransactionResult:
        """Undo what an ended transaction made, as a transaction of its own."""
        calls = [step for step in entry.steps if step.called is not None and step.called.counts]
        if calls:
            raise InvalidOperation(
                f"transaction {entry.transaction_id} made a call, which undo does not take back",
                step=calls[0].name,
                hint="take back what it did by a transaction of your own"
                + (", then resolve(id, 'accept')" if entry.state == "failed" else ""),
            )
        if entry.detail.get("forgotten"):
            raise UnknownTransaction(
                f"images of transaction {entry.transaction_id} were erased by forget(): it cannot be undone whole"
            )
        made = [(step, changes) for step, changes in entry.made() if changes]
        if not entry.steps and entry.detail.get("steps"):
            raise UnknownTransaction(
                f"the images of transaction {entry.transaction_id} are no longer kept",
                hint="[journal] image_retention says for how long they are",
            )
        named = replace(options, name=f"undo {entry.transaction_id}")
        run = Run(named, self._lease, "staged", time.monotonic())
        # The last step is undone first, and takes the first place in the order of this transaction.
        steps = [(step.moved(place), changes) for place, (step, changes) in enumerate(reversed(made))]
        reached = [(step, await reach(self._registry, step), changes) for step, changes in steps]
        reversal = Reversal(run, reached, on_conflict)
        try:
            await reversal.execute()
        finally:
            run.release()
        self.remember(run)
        ended = result(run)
        ended.conflicts = reversal.conflicts
        return ended


def _entries(notes: Sequence[tuple[Run, float]]) -> list[Entry]:
    """What the journal is to keep of these transactions; made in a thread, while the loop waits for stores."""
    out: list[Entry] = []
    for run, finished in notes:
        try:
            out.append(replace(make_entry(run, "completed", run.alone), finished=finished))
        except StepFailed as error:
            _log.warning("the history of a transaction could not be kept: %s", error)
    return out


def _check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise InvalidOperation(f"{name} is {value!r}", field=name, hint=did_you_mean(str(value), choices))


def _states(status: State | Sequence[State] | None) -> list[State] | None:
    if status is None:
        return None
    wanted = [status] if isinstance(status, str) else list(status)
    for state in wanted:
        _check_choice("status", state, _STATES)
    return wanted


def _info(entry: Entry) -> TransactionInfo:
    return TransactionInfo(
        transaction_id=entry.transaction_id,
        name=entry.name,
        status=entry.state,
        pattern=entry.pattern,
        started=_time(entry.started),
        finished=None if entry.finished is None else _time(entry.finished),
        steps=[
            StepInfo(
                name=step.name,
                tag=step.tag,
                changes=[_change(change) for change in step.changes],
                action=None if step.called is None else step.called.action,
                output=None if step.called is None else list(step.called.output or ()),
            )
            for step in entry.steps
        ],
        residue=entry.detail.get("residue", ()),
        resolved=entry.detail.get("resolved"),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _change(change: Change) -> ChangeInfo:
    return ChangeInfo(
        entity=change.entity.name,
        key=change.key,
        action=change.action,
        before=None if change.before is ABSENT else change.before,
        after=None if change.after is ABSENT else change.after,
    )


def _item(entry: Entry, step: str, tag: str, change: Change) -> HistoryItem:
    return HistoryItem(
        transaction_id=entry.transaction_id,
        name=entry.name,
        status=entry.state,
        step=step,
        tag=tag,
        at=_time(entry.started),
        **_change(change).model_dump(exclude={"entity"}),
        entity=change.entity.name,
    )
