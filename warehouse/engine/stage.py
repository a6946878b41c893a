"""Staging: execute the steps in their stores' units, and settle which step failed.

Steps of one store run in order; stores run concurrently. After a failure, the steps before it finish, and the
later ones are skipped: so the outcome does not depend on which store was faster. The order is that of the list,
but that a step comes after those it names by `after`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from warehouse.engine.calls import execute
from warehouse.engine.dependencies import in_order
from warehouse.engine.plan import AnyStep, CallStep
from warehouse.engine.run import Run
from warehouse.engine.state import StepState, TimedOut
from warehouse.errors import StepFailed, TransientError


async def stage(run: Run, steps: Sequence[AnyStep], *, ordered_by_tag: bool = False) -> StepFailed | None:
    """Execute `steps`; the failure of the first one that failed, or None. Cancels nothing outside."""
    groups: dict[str, list[AnyStep]] = {}
    for step in in_order(steps, _listed):
        groups.setdefault(step.store, []).append(step)
    calls = any(isinstance(step, CallStep) for step in steps)  # each has its place in the order
    if calls or ordered_by_tag or run.options.concurrency == "sequential" or len(groups) == 1:
        by_tag = ordered_by_tag and not calls
        order = in_order(steps, key=lambda step: (step.tag, step.index) if by_tag else step.index)
        groups = {"": order}
    stage = _Stage(run, [step for group in groups.values() for step in group])
    return await stage.run_all(list(groups.values()))


class _Stage:
    def __init__(self, run: Run, steps: Sequence[AnyStep]) -> None:
        self._run = run
        self._position = {step.index: place for place, step in enumerate(in_order(steps, _listed))}
        awaited = {index for step in steps for index in step.depends}
        self._done = {index: anyio.Event() for index in awaited}
        self._running: dict[int, anyio.CancelScope] = {}
        self._failed_at: int | None = None

    async def run_all(self, groups: list[list[AnyStep]]) -> StepFailed | None:
        with anyio.move_on_after(self._run.remaining) as scope:
            if len(groups) == 1:
                if not await self._run.execute_together(groups[0]):
                    await self._work(groups[0], self._try)
            else:
                async with anyio.create_task_group() as tasks:
                    for group in groups:
                        tasks.start_soon(self._work, group, self._try_until_obsolete)
        if scope.cancelled_caught:
            self._note_timeout()
        return self._verdict()

    async def _work(self, steps: list[AnyStep], execute: Callable[[AnyStep], Awaitable[None]]) -> None:
        for step in steps:
            for index in step.depends:
                await self._done[index].wait()
            if self._is_obsolete(step):
                self._run.states[step.index].status = "skipped"
            elif not self._run.states[step.index].let_off:
                await execute(step)
            if step.index in self._done:
                self._done[step.index].set()

    def _is_obsolete(self, step: AnyStep) -> bool:
        """Whether an earlier step failed, or one that this step needs did not take effect."""
        if self._failed_at is not None and self._failed_at < self._position[step.index]:
            return True
        return any(self._run.states[index].status in {"failed", "skipped"} for index in step.depends)

    async def _try(self, step: AnyStep) -> None:
        try:
            await execute(self._run, step)
        except StepFailed:
            self._note_failure(step)

    async def _try_until_obsolete(self, step: AnyStep) -> None:
        """As `_try`, stopped where a step before it fails meanwhile."""
        with anyio.CancelScope() as scope:
            self._running[step.index] = scope
            try:
                await self._try(step)
            finally:
                self._running.pop(step.index, None)
        if scope.cancelled_caught:
            self._run.states[step.index].status = "skipped"

    def _note_failure(self, step: AnyStep) -> None:
        state = self._run.states[step.index]
        if step.operation.allow_fail and leaves_unit_whole(state.error):
            state.status = "tolerated"
            return
        place = self._position[step.index]
        self._failed_at = place if self._failed_at is None else min(place, self._failed_at)
        for index, scope in self._running.items():
            if self._position[index] > self._failed_at:
                scope.cancel()

    def _note_timeout(self) -> None:
        """Blame the first step that the time-out interrupted or kept from running."""
        for state in self._in_order():
            if state.status == "waiting":
                self._run.time_is_up(state)
                break

    def _verdict(self) -> StepFailed | None:
        """The first failure in order; what comes after it counts as skipped."""
        failure: StepFailed | None = None
        for state in self._in_order():
            if failure is not None:
                state.status, state.done = "skipped", None
            elif state.status == "failed":
                failure = state.error
        return failure

    def _in_order(self) -> list[StepState]:
        return [self._run.states[index] for index in self._position]


def leaves_unit_whole(failure: StepFailed | None) -> bool:
    """Whether a unit can go on after this failure of a step with a savepoint.

    Not after a call was cut off, nor after a deadlock or a lost connection, which end the store's transaction.
    """
    return failure is not None and not isinstance(failure.reason, TransientError | TimedOut)


def _listed(step: AnyStep) -> int:
    return step.index
