"""The pattern `saga` (DESIGN 5.2): each step is journaled and committed before the next begins."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from warehouse.engine.commit import apply, commit, unknown
from warehouse.engine.compensate import kept, undo
from warehouse.engine.plan import Step, in_order
from warehouse.engine.retry import Retries
from warehouse.engine.run import OpenUnit, Run, StepState
from warehouse.engine.staged import blame, blame_lock, change_state, finish, rollback
from warehouse.errors import JournalUnavailable, StepFailed, StoreError, TransactionConflict
from warehouse.journal.base import Entry, ReplyLost


async def run_saga(run: Run, steps: Sequence[Step]) -> None:
    """Run all steps to an end. Raises JournalUnavailable (nothing was changed) or OutcomeUnknown."""
    saga = Saga(run)
    try:
        for step in in_order(steps, key=lambda step: step.index):
            failure = await saga.run_step(step)
            if failure is not None:
                await saga.abandon(failure)
                return
    except BaseException:
        await saga.interrupted()
        raise
    await saga.complete()


class Saga:
    """The steps that have been committed so far, and what to do with them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._committed: list[StepState] = []
        self._journaled = False
        self._unclear = False

    async def run_step(self, step: Step) -> StepFailed | None:
        """Execute, journal and commit one step, trying again as the policy allows; its failure, or None."""
        retries = Retries(self._run)
        state = self._run.states[step.index]
        while True:
            failure = await self._attempt(state)
            if failure is None or self._run.residue:
                return failure
            if step.operation.allow_fail:
                state.status = "tolerated"
                return None
            if not await retries.again(failure):
                return failure
            state.status, state.error = "waiting", None

    async def _attempt(self, state: StepState) -> StepFailed | None:
        run, step = self._run, state.step
        run.since = await run.journal.sequence()
        try:
            with anyio.move_on_after(run.remaining) as scope:
                await run.execute(step)
            if scope.cancelled_caught:
                error = StoreError(f"the transaction's timeout of {run.options.timeout} s ran out")
                return run.fail(state, error, TimeoutError(error.message))
            await self._make(state)
            return None
        except (StepFailed, TransactionConflict) as failed:
            return failed if isinstance(failed, StepFailed) else blame_lock(run, failed)
        finally:
            await rollback(run)

    async def _make(self, state: StepState) -> None:
        """Journal the step's images, then make it visible, whatever happens to the caller. Raises StepFailed."""
        opened = self._run.units[state.step.store]
        if not opened.changed:
            return
        with anyio.CancelScope(shield=True):
            await self._journal(state, opened)
            await (self._commit(state, opened) if opened.holds else self._apply(opened))

    async def _journal(self, state: StepState, opened: OpenUnit) -> None:
        run = self._run
        tokens = {} if opened.unit.token is None else {state.step.store: opened.unit.token}
        try:
            if self._journaled:
                await run.journal.append(run.id, run.entry_step(state), run.since, tokens)
            else:
                entry: Entry = run.entry("running", [opened])
                await run.journal.decide(entry, run.since)
                self._journaled = True
        except ReplyLost as error:
            self._unclear = True
            raise unknown(run, error.message) from error
        except JournalUnavailable as error:
            if not self._committed:
                raise
            self._unclear = True
            raise unknown(run, error.message) from error

    async def _apply(self, opened: OpenUnit) -> None:
        part: list[StepState] = []
        failure = await apply(self._run, opened, part)
        if failure is not None:
            self._run.residue += await undo(self._run, part)
            raise failure
        self._committed += part

    async def _commit(self, state: StepState, opened: OpenUnit) -> None:
        run = self._run
        error = await commit(run, opened)
        if error is None:
            self._committed.append(state)
            return
        if error.outcome_unknown:
            self._unclear = True
            raise unknown(run, f"{state.step.tag} lost the reply to its commit") from error
        raise run.fail(state, error, error.__cause__ or error)

    async def complete(self) -> None:
        """End as completed."""
        with anyio.CancelScope(shield=True):
            if self._journaled:
                await finish(self._run, "completed")
        self._run.end("completed")

    async def abandon(self, failure: StepFailed) -> None:
        """Undo the committed steps and end; or keep them, where the caller asked for that on a time-out."""
        run = self._run
        with anyio.CancelScope(shield=True):
            if self._journaled:
                await self._undo(failure)
        blame(run, failure)
        if run.residue:
            run.end("failed", run.error)

    async def _undo(self, failure: StepFailed) -> None:
        run = self._run
        await change_state(run, "compensating")
        timed_out = isinstance(failure.__cause__, TimeoutError)
        if timed_out and not run.options.compensate_on_timeout:
            run.residue += kept(self._committed)
        else:
            run.residue += await undo(run, self._committed)
        await finish(run, "failed" if run.residue else "compensated")

    async def interrupted(self) -> None:
        """Undo after a cancellation or an error of ours; nothing where the outcome is unclear."""
        if self._unclear or not self._journaled:
            return
        await self.abandon(StepFailed("the transaction was interrupted"))
