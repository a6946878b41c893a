"""The pattern `staged` (DESIGN 5.1): stage everywhere, decide once, apply, commit, finish.

Two-phase commit (5.3) stages alike; what differs between the vote and the end is in `two_phase`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import anyio

from warehouse.engine.calls import let_go
from warehouse.engine.choose import acts_alone
from warehouse.engine.commit import apply, commit
from warehouse.engine.compensate import redo, undo
from warehouse.engine.durable import compensating, finish, finish_undone, follow, record, take_back, trail
from warehouse.engine.entries import make_entry
from warehouse.engine.plan import AnyStep
from warehouse.engine.run import Run, unknown
from warehouse.engine.stage import stage
from warehouse.engine.state import OpenUnit, StepState, locks
from warehouse.engine.two_phase import carry_through, vote
from warehouse.errors import (
    JournalUnavailable,
    OutcomeUnknown,
    StepFailed,
    StoreError,
    TransactionConflict,
)
from warehouse.journal.base import RecordLocked, Superseded

# Two transactions that stage several stores side by side may each hold what the other waits for, and no store
# can see that. So the first attempt waits only so many seconds for a lock; the next ones go store by store.
_PATIENCE: Final = 0.1


async def run_staged(run: Run, steps: Sequence[AnyStep]) -> None:
    """Run all steps to an end, staging again as `Retries` allows.

    Raises JournalUnavailable (nothing was changed) or OutcomeUnknown.
    """
    try:
        failure = await _run_until_settled(run, steps)
    except OutcomeUnknown:
        raise
    except JournalUnavailable as error:
        if run.journaled:  # it has made calls
            raise unknown(run, error.message) from error
        raise
    except BaseException:
        await give_up(run, StepFailed("the transaction was interrupted"))
        raise
    if failure is not None:
        await give_up(run, failure)


async def _run_until_settled(run: Run, steps: Sequence[AnyStep]) -> StepFailed | TransactionConflict | None:
    """Stage and conclude until it took effect (or ended otherwise: None), or will not: why."""
    retries = run.retries()
    while True:
        try:
            failure = await _attempt(run, steps, ordered_by_tag=retries.count > 0)
        finally:
            await rollback(run)
        if failure is None:
            return None
        if not await retries.again(failure):
            if not run.let_off(failure):
                return failure
            for state in run.calls():
                if state.let_off:
                    await let_go(run, state)
        run.reset()


async def give_up(run: Run, failure: StepFailed | TransactionConflict) -> None:
    """End the run because of `failure`, with nothing held: once its calls are taken back, if it made any.

    Raises OutcomeUnknown. Does nothing where it has ended.
    """
    if run.status is not None:
        return
    with anyio.CancelScope(shield=True):
        try:
            await take_back(run)
        except Superseded as taken:
            failure = await follow(run, taken, []) or failure
    if run.status is None:
        blame(run, failure)
        if run.residue:
            run.end("failed", run.error)


async def _attempt(
    run: Run, steps: Sequence[AnyStep], *, ordered_by_tag: bool
) -> StepFailed | TransactionConflict | None:
    """Stage and conclude once; what kept it from taking effect, or None where the run has ended."""
    alone = acts_alone(steps)
    run.lone = alone and len(steps) == 1
    if not alone or run.idempotency is not None or run.pattern == "two_phase_commit":  # it is journaled
        run.since = await run.lease.trailing.moment()
    if not alone:
        run.patience = (
            run.options.lock_timeout if ordered_by_tag else min(_PATIENCE, run.options.lock_timeout)
        )
    try:
        failure = await stage(run, steps, ordered_by_tag=ordered_by_tag)
    except Superseded as taken:
        return await follow(run, taken, [])
    if failure is not None:
        return failure
    try:
        return await conclude(run)
    except (StepFailed, TransactionConflict) as refused:
        return refused


def blame(run: Run, failure: StepFailed | TransactionConflict) -> None:
    """End the run as compensated because of `failure`; nothing of it is left anywhere."""
    if not isinstance(failure, StepFailed):
        failure = blame_lock(run, failure)
    run.end("compensated", failure)


def blame_lock(run: Run, conflict: TransactionConflict) -> StepFailed:
    """Mark the step whose record another transaction has as the one that failed."""
    conflict.hint = "it did not become free within lock_timeout: try again, or raise that"
    taken = locks(run.states.values())
    if isinstance(conflict, RecordLocked) and conflict.lock in taken:
        state, entity, key = taken[conflict.lock]
        conflict.message = f"{entity} {key} is locked by {conflict.message}"
    else:
        state = run.first_made
    return run.fail(state, conflict, conflict)


async def rollback(run: Run) -> None:
    """Roll back everything that is open, even while the caller is being cancelled."""
    if run.units:
        with anyio.CancelScope(shield=True):
            await run.close()


async def conclude(run: Run) -> StepFailed | None:
    """Bring a fully staged transaction to its end, or return the failure that let nothing take effect.

    Raises TransactionConflict where another transaction has a record: stage again.
    """
    changed = [opened for opened in run.units.values() if opened.changed]
    failure: StepFailed | None = None
    with anyio.CancelScope(shield=True):
        alone = not changed or (len(changed) == 1 and changed[0].holds)
        try:
            if changed and run.pattern == "two_phase_commit":
                failure = await _conclude_prepared(run, changed)
            elif alone and run.idempotency is None and not run.journaled:
                failure = await _commit_alone(run, changed)
            else:
                await record(run, make_entry(run, "committing", changed))
                failure = await _carry_out(run, changed)
        except Superseded as taken:  # before anything was made
            failure = await follow(run, taken, [])
    return failure


async def _conclude_prepared(run: Run, changed: Sequence[OpenUnit]) -> StepFailed | None:
    failure = await vote(run, changed)
    if failure is None:
        await carry_through(run, changed)
    return failure


async def _commit_alone(run: Run, changed: Sequence[OpenUnit]) -> StepFailed | None:
    """Commit the only participant: no protocol, but a look at the locks after staging (DESIGN 7)."""
    for opened in changed:
        conflict = await run.lease.trailing.locked(list(locks(opened.steps)))
        if conflict is not None:
            raise conflict
        error = await commit(run, opened)
        if error is not None and error.outcome_unknown:
            text = f"{opened.participant.tag} lost the reply to its commit"
            raise unknown(run, text, journaled=False) from error
        if error is not None:
            return run.fail(opened.steps[-1], error, error.__cause__ or error)
        run.alone.append(opened)
    run.end("completed")
    return None


async def _carry_out(run: Run, changed: Sequence[OpenUnit]) -> StepFailed | None:
    """Apply what was planned, commit what is held: all of it, or back to nothing."""
    made: list[StepState] = []
    try:
        return await _drive(run, changed, made)
    except Superseded as taken:
        return await follow(run, taken, made)


async def _drive(run: Run, changed: Sequence[OpenUnit], made: list[StepState]) -> StepFailed | None:
    """As `_carry_out`, while the transaction is ours; `made` is what took effect, or may have."""
    for opened in changed:
        if not opened.holds:
            failure = await apply(run, opened, made)
            if failure is not None:
                return await _backward(run, failure, made)
    held = [opened for opened in changed if opened.holds]
    await run.keep()
    failures = await _commit_all(run, held)
    first_try = not failures
    stuck = await _forward(run, held, failures)
    made += _committed(held, failures)
    if stuck is not None:
        opened, error = stuck
        failure = run.fail(opened.steps[-1], error, error.__cause__ or error)
        return await _backward(run, failure, made)
    if first_try and _can_be_asked(run, held):
        trail(run)
    else:
        await finish(run, "completed")
    run.end("completed")
    return None


def _can_be_asked(run: Run, held: Sequence[OpenUnit]) -> bool:
    """Whether nothing is lost if the end is journaled later: whoever recovers can ask all who committed.

    What has a key or made calls is read from the journal, with its end, by who comes next.
    """
    if not held or run.idempotency is not None or run.calls():
        return False
    return all(opened.participant.adapter.capabilities.asks and opened.unit.token for opened in held)


async def _commit_all(run: Run, held: Sequence[OpenUnit]) -> dict[str, StoreError]:
    """Commit all held participants at once; the errors, by store."""
    failures: dict[str, StoreError] = {}

    async def commit_one(opened: OpenUnit) -> None:
        error = await commit(run, opened)
        if error is not None:
            failures[opened.participant.identity] = error

    if len(held) == 1:
        await commit_one(held[0])
    else:
        async with anyio.create_task_group() as tasks:
            for opened in held:
                tasks.start_soon(commit_one, opened)
    return failures


async def _forward(
    run: Run, held: Sequence[OpenUnit], failures: dict[str, StoreError]
) -> tuple[OpenUnit, StoreError] | None:
    """Drive on what did not commit, from the after images; what is done leaves `failures`.

    Returns the first unit for which that is impossible, and why. Raises OutcomeUnknown.
    """
    for opened in held:
        error = failures.get(opened.participant.identity)
        if error is None:
            continue
        await run.close([opened])
        try:
            problem = await redo(
                run.terms(), opened.participant, [state.done_in_store() for state in opened.steps]
            )
        except Superseded:
            raise
        except Exception as broken:  # noqa: BLE001 - away for too long, or a mistake of the adapter
            raise unknown(run, f"{opened.participant.tag} did not commit: {broken}") from error
        if problem is None:
            del failures[opened.participant.identity]
        else:
            if problem.outcome_unknown:
                failures[opened.participant.identity] = problem
            return opened, error
    return None


def _committed(held: Sequence[OpenUnit], failures: dict[str, StoreError]) -> list[StepState]:
    """The steps of the units that committed, and (as not `known`) of those that may have."""
    out: list[StepState] = []
    for opened in held:
        error = failures.get(opened.participant.identity)
        if error is None or error.outcome_unknown:
            out += [replace(state, known=error is None) for state in opened.steps]
    return out


async def _backward(run: Run, failure: StepFailed, states: Sequence[StepState]) -> StepFailed | None:
    """Undo what took effect. The failure, where nothing is left of it; None where the run ended as failed."""
    await run.close()
    undone = [*states, *(state for state in run.calls() if state.calls)]
    await compensating(run, undone)
    run.residue += await undo(run.terms(), run.last_first(undone))
    await finish_undone(run)
    if run.residue:
        run.end("failed", failure)
        return None
    return failure
