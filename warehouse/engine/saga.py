"""The pattern `saga` (DESIGN 5.2): each step is journaled and committed before the next begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio

from warehouse.engine.calls import execute, let_go
from warehouse.engine.commit import apply, commit
from warehouse.engine.compensate import kept, undo
from warehouse.engine.dependencies import in_order
from warehouse.engine.durable import append, compensating, finish, finish_undone, follow, record
from warehouse.engine.entries import entry_step, make_entry
from warehouse.engine.plan import AnyStep
from warehouse.engine.run import Run, unknown
from warehouse.engine.staged import blame, blame_lock, rollback
from warehouse.engine.state import OpenUnit, StepState, TimedOut
from warehouse.errors import (
    JournalUnavailable,
    OutcomeUnknown,
    StepFailed,
    TransactionConflict,
    TransactionExpired,
)
from warehouse.journal.base import Superseded


async def run_saga(run: Run, steps: Sequence[AnyStep]) -> None:
    """Run all steps to an end. Raises JournalUnavailable (nothing was changed) or OutcomeUnknown."""
    saga = Saga(run)
    failure: StepFailed | None = None
    try:
        for step in in_order(steps, key=lambda step: step.index):
            failure = await saga.run_step(step)
            if failure is not None:
                break
    except BaseException:
        await saga.abandon(StepFailed("the transaction was interrupted"))
        raise
    await (saga.complete() if failure is None else saga.abandon(failure))


class Saga:
    """The steps that have been committed so far, and what to do with them.

    Once a step's outcome is unknown (`_unclear`), everything is left as it is, for recovery; once another process
    has taken the transaction over (`_taken`), it is for that one to end it; but for what was made here meanwhile
    (`_late`, by index): of that it may know nothing.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._committed: list[StepState] = []
        self._torn: list[StepState] = []  # parts of a step that failed, not undone yet
        self._late: set[int] = set()
        self._journaled: set[int] = set()
        self._unclear = False
        self._taken: Superseded | None = None

    async def run_step(self, step: AnyStep) -> StepFailed | None:
        """Execute, journal and commit one step, trying again as the policy allows; its failure, or None."""
        state = self._run.states[step.index]
        try:
            return await self._run_step(state)
        except OutcomeUnknown:
            self._unclear = True
            raise
        except Superseded as taken:
            self._taken = taken
            if any(item is state for item in self._committed):  # what it made is still to be taken back
                return StepFailed(taken.message, step=step.name)
            return self._run.fail(state, taken, taken)

    async def _run_step(self, state: StepState) -> StepFailed | None:
        retries = self._run.retries()
        while True:
            failure = await self._attempt(state)
            if failure is None or self._run.residue:
                return failure
            if not await retries.again(failure):
                break
            state.status, state.error = "waiting", None
        if not self._run.let_off(failure):
            return failure
        await let_go(self._run, state)
        self._committed = [item for item in self._committed if item is not state]
        if state.step.index in self._journaled:
            await append(self._run, [entry_step(self._run, state)], {})
        return None

    async def _attempt(self, state: StepState) -> StepFailed | None:
        run, step = self._run, state.step
        try:
            run.since = await run.lease.trailing.moment()
            with anyio.move_on_after(run.remaining) as scope:
                await execute(run, step)
            if scope.cancelled_caught:
                return run.time_is_up(state)
            await self._make(state)
            return None
        except (StepFailed, TransactionConflict) as failed:
            return failed if isinstance(failed, StepFailed) else blame_lock(run, failed)
        except JournalUnavailable as away:
            if not run.journaled:
                raise  # nothing was changed
            return run.fail(state, away, away)
        finally:
            if state.calls and state not in self._committed:
                self._committed.append(state)
            await rollback(run)

    async def _make(self, state: StepState) -> None:
        """Journal the step's images, then make it visible, whatever happens to the caller. Raises StepFailed."""
        opened = self._run.units.get(state.step.store)
        if opened is None or not opened.changed:
            return
        with anyio.CancelScope(shield=True):
            await self._journal(state, opened)
            await self._run.keep()
            await (self._commit(state, opened) if opened.holds else self._apply(opened))

    async def _journal(self, state: StepState, opened: OpenUnit) -> None:
        if self._run.journaled:
            tokens = {} if opened.unit.token is None else {state.step.store: opened.unit.token}
            await append(self._run, [entry_step(self._run, state)], tokens)
        else:
            await record(self._run, make_entry(self._run, "running", [opened]))
        self._journaled.add(state.step.index)

    async def _apply(self, opened: OpenUnit) -> None:
        part: list[StepState] = []
        failure = await apply(self._run, opened, part)
        if failure is not None:
            await self._tear(part)
            raise failure
        self._committed += part
        await self._look_again(part)

    async def _tear(self, part: Sequence[StepState]) -> None:
        """Undo what was made of a step that failed; what cannot be undone now is for recovery to go on with."""
        torn = [replace(state, known=False) for state in part]
        self._torn += torn
        await self._look_again(torn)
        left = await undo(self._run.terms(), self._run.last_first(part))
        self._run.residue += left
        if not any(item.reason == "unreachable" for item in left):
            self._torn = [state for state in self._torn if all(state is not item for item in torn)]

    async def _look_again(self, states: Sequence[StepState]) -> None:
        """Remember what was made, if somebody has taken the transaction over, perhaps before. Raises Superseded."""
        if not self._run.lease.is_ours(self._run.claim):
            late = {state.step.index for state in states}
            self._late |= late
            await self._run.keep()
            self._late -= late

    async def _commit(self, state: StepState, opened: OpenUnit) -> None:
        run = self._run
        error = await commit(run, opened)
        if error is None:
            self._committed.append(state)
            await self._look_again([state])
            return
        if error.outcome_unknown:
            raise unknown(run, f"{state.step.tag} lost the reply to its commit") from error
        raise run.fail(state, error, error.__cause__ or error)

    async def complete(self) -> None:
        """End as completed."""
        with anyio.CancelScope(shield=True):
            try:
                if self._run.idempotency is not None and not self._run.journaled:
                    await record(self._run, make_entry(self._run, "running", []))  # a key without changes
                if self._run.journaled:
                    await finish(self._run, "completed")
            except Superseded as taken:
                await self._follow(taken)
                return
        self._run.end("completed")

    async def abandon(self, failure: StepFailed) -> None:
        """Undo the committed steps and end; or keep them, where the caller asked for that on a time-out.

        Does nothing where a step's outcome is unknown.
        """
        run = self._run
        if self._unclear:
            return
        with anyio.CancelScope(shield=True):
            try:
                if self._run.journaled and self._taken is None:
                    await self._undo(failure)
            except Superseded as taken:
                self._taken = taken
            if self._taken is not None:
                await self._follow(self._taken)
                return
        blame(run, failure)
        if run.residue:
            run.end("failed", run.error)

    async def _follow(self, taken: Superseded) -> None:
        made = self._committed + self._torn
        late = [state for state in made if state.calls or state.step.index in self._late]
        failure = await follow(self._run, taken, late)
        if failure is not None:
            blame(self._run, failure)

    async def _undo(self, failure: StepFailed) -> None:
        run = self._run
        too_late = isinstance(failure.reason, TimedOut | TransactionExpired)
        keep_all = too_late and not run.options.compensate_on_timeout
        stays = [state for state in self._committed if keep_all or run.keeps(state)]
        undone = [state for state in self._committed if state not in stays] + self._torn
        await compensating(run, self._committed + self._torn, stays)
        # What could not be reached is tried again now, and told anew.
        run.residue = [item for item in run.residue if item.reason != "unreachable"]
        run.residue += kept(state.made() for state in stays)
        run.residue += await undo(run.terms(), run.last_first(undone))
        await finish_undone(run)
