"""What a transaction writes into the journal on its way, and how it ends where another process took it over."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import anyio

from warehouse.engine.compensate import undo
from warehouse.engine.entries import entry_step, make_entry, summary
from warehouse.engine.retry import back_off
from warehouse.engine.run import Run, unknown
from warehouse.engine.state import StepState
from warehouse.errors import JournalUnavailable, StepFailed
from warehouse.journal.base import FINAL, Entry, EntryStep, Journal, ReplyLost, Superseded
from warehouse.results import Residue, State


async def record(run: Run, entry: Entry) -> None:
    """The durable write after which the transaction goes forward, or (a saga) its first commit may follow.

    What has made calls is in the journal already, and goes on there. Raises RecordLocked, JournalUnavailable
    (nothing will be changed) or OutcomeUnknown; and Superseded, of what was there.
    """
    if run.journaled:
        await append(run, entry.steps, entry.tokens, (entry.state, entry.detail))
        return
    run.lease.active.add(run.id)
    try:
        await run.lease.trailing.decide(entry, run.since)
    except ReplyLost as error:
        try:
            recorded = await run.journal.settle(run.id)
        except JournalUnavailable:
            raise unknown(run, error.message) from error
        if not recorded:
            raise JournalUnavailable(error.message) from error
    run.journaled = True


async def append(
    run: Run,
    steps: Sequence[EntryStep],
    tokens: dict[str, str],
    change: tuple[State, dict[str, Any]] | None = None,
) -> None:
    """Journal steps of a transaction that is journaled, in place of what was journaled of them before.

    Raises RecordLocked, Superseded or OutcomeUnknown.
    """
    number, seen = run.since.number, run.since.completed
    try:
        try:
            await run.journal.append(run.claim, steps, number, tokens, change, seen=seen)
        except ReplyLost:
            await run.journal.append(run.claim, steps, number, tokens, change, seen=seen)
    except (ReplyLost, JournalUnavailable) as error:
        raise unknown(run, error.message) from error


async def journal_step(run: Run, state: StepState) -> None:
    """Journal what one step called. Raises as `record`, and StepFailed for what cannot be journaled."""
    if run.journaled:
        await append(run, [entry_step(run, state)], {})
    else:
        await record(run, make_entry(run, "running", []))


async def take_back(run: Run) -> None:
    """Take back the calls of a transaction that is not decided, and end it in the journal.

    Raises OutcomeUnknown and Superseded.
    """
    if not run.journaled:
        return
    made = [state for state in run.states.values() if state.calls]
    await compensating(run, made)
    run.residue += await undo(run.terms(), run.last_first(made))
    await finish_undone(run)


async def compensating(run: Run, states: Sequence[StepState], kept: Sequence[StepState] = ()) -> None:
    """Journal that the run goes backward, and how many changes of each step may have been made.

    `kept` are those of them that are not to be undone. Raises OutcomeUnknown where that fails.
    """
    places = run.places()
    made: dict[str, int] = {}
    for state in states:
        place = str(places[state.step.index])
        made[place] = made.get(place, 0) + len(state.changes)
    try:
        stays = [places[state.step.index] for state in kept]
        await run.journal.change_state(run.claim, "compensating", {"made": made, "kept": stays})
    except (JournalUnavailable, ReplyLost) as error:
        raise unknown(run, error.message) from error


async def finish_undone(run: Run) -> None:
    """Journal the end of what was undone. Raises OutcomeUnknown where that fails.

    While a store is away that has some of it left, it has no end: its records stay locked, and recovery goes on.
    """
    if any(item.reason == "unreachable" for item in run.residue):
        run.journaled = False
    else:
        await finish(run, "failed" if run.residue else "compensated")


async def finish(run: Run, state: State) -> None:
    """Journal the outcome and release the locks. Raises OutcomeUnknown where that fails."""
    detail: dict[str, Any] = {}
    if run.residue:
        detail["residue"] = [item.model_dump(mode="json") for item in run.residue]
    if run.pattern == "saga" or run.calls():
        detail["steps"] = summary(run)
    try:
        await run.journal.finish(run.claim, state, detail)
    except (JournalUnavailable, ReplyLost) as error:
        entry = await ended(run.journal, run.id, give_up=0) if isinstance(error, ReplyLost) else None
        if entry is None or entry.epoch != run.claim.epoch:
            raise unknown(run, error.message) from error
    run.journaled = False


def trail(run: Run) -> None:
    """Have the outcome `completed` journaled soon: everything that it consists of can be asked for until then."""
    states = run.states.values()
    run.lease.trailing.add(
        run.claim, {(state.step.store, change.entity) for state in states for change in state.changes}
    )
    run.journaled = False


async def follow(run: Run, taken: Superseded, states: Sequence[StepState]) -> StepFailed | None:
    """End as the process that took the transaction over ends it; what we wrote too late is taken back.

    That is never what a store with transactions committed: whoever took over has waited for its locks, and undone it.
    As `_backward`. Raises OutcomeUnknown where that process does not come to an end within `grace`.
    """
    await run.close()
    run.journaled = False  # it is not ours any more
    give_up = time.monotonic() + run.options.grace
    left: list[Residue] = []
    late = [replace(state, known=False) for state in states if state.calls or state.guarded]
    if late and await goes_backward(run.journal, run.id, give_up):
        left = await undo(run.terms().too_late(run.journal), run.last_first(late))
    entry = await ended(run.journal, run.id, give_up)
    if entry is None:
        raise unknown(run, taken.message)
    if entry.state == "completed":
        run.end("completed")
        return None
    run.residue += [Residue.model_validate(item) for item in entry.detail.get("residue", ())] + left
    failure = run.fail(run.first_made, taken, taken)
    if entry.state == "failed" or left:
        run.end("failed", failure)
        return None
    return failure


async def goes_backward(journal: Journal, transaction_id: str, give_up: float) -> bool:
    """Whether whoever has taken a transaction over undoes it; false, too, where that is not known by `give_up`."""
    entry = await ended(journal, transaction_id, give_up, FINAL | {"compensating"})
    return entry is not None and entry.state != "completed"


async def ended(
    journal: Journal, transaction_id: str, give_up: float, states: Collection[State] = FINAL
) -> Entry | None:
    """The entry of a transaction once it has ended, or has come to one of these states.

    None where it has not by `give_up` (monotonic seconds).
    """
    for attempt in count(1):
        with suppress(JournalUnavailable):
            entry = await journal.entry(transaction_id)
            if entry is not None and entry.state in states:
                return entry
        if time.monotonic() >= give_up:
            break
        await anyio.sleep(min(back_off(attempt), max(0.0, give_up - time.monotonic())))
    return None
