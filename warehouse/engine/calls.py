"""Calls (DESIGN 5.4): the intent is journaled, the function called, its output journaled; and what takes it back."""

from __future__ import annotations

from dataclasses import replace

import anyio

from warehouse.actions import Called, Invocation, records_of
from warehouse.engine.compensate import undo
from warehouse.engine.durable import journal_step
from warehouse.engine.plan import AnyStep, CallStep
from warehouse.engine.run import Run
from warehouse.engine.state import StepState, TimedOut
from warehouse.errors import StepFailed, StoreError


async def execute(run: Run, step: AnyStep) -> None:
    """Execute a step of either kind. Raises as `Run.execute`."""
    if isinstance(step, CallStep):
        await run.execute(step, lambda state: _call(run, state, step))
    else:
        await run.execute(step)


async def _call(run: Run, state: StepState, step: CallStep) -> None:
    """Make the call, unless it was made before the transaction had to be staged again.

    An exception says that the call had no effect; but a TimeoutError, and a cancellation, that nobody knows.
    """
    arguments = step.arguments(run.lookup)
    step.action.check(arguments)
    before = state.called
    if before is not None and before.status == "made" and before.args == arguments:
        state.status = "executed"
        return
    with anyio.CancelScope(shield=True):
        if state.calls:
            await _take_back(run, state)
        called = state.called = Called(step.action.name, arguments)
        try:
            await journal_step(run, state)
        except StepFailed:  # its arguments are none that the journal takes: it is not made
            state.called = None
            raise
    await run.keep()
    state.invocation = Invocation(step.action.function, arguments)
    try:
        output = await state.invocation.result()
    except TimeoutError as error:
        text = f"{step.action.name} timed out: what it did is not known" + (
            f" ({error})" if str(error) else ""
        )
        raise TimedOut(text) from error
    except Exception as error:
        state.called = replace(called, status="failed")
        with anyio.CancelScope(shield=True):
            await journal_step(run, state)
        raise StoreError(f"{step.action.name}: {type(error).__name__}: {error}") from error
    state.called = replace(called, output=records_of(output), status="made")
    with anyio.CancelScope(shield=True):
        await journal_step(run, state)
    state.status = "executed"


async def let_go(run: Run, state: StepState) -> None:
    """Take back what a call may have done that was let off, and journal that it counts no more.

    Raises as `journal_step`.
    """
    if state.called is None or not state.calls:
        return
    with anyio.CancelScope(shield=True):
        run.residue += await undo(run.terms(), [state.made()])
        state.called = replace(state.called, status="failed")
        await journal_step(run, state)


async def _take_back(run: Run, state: StepState) -> None:
    """Take back a call that was made with what earlier steps have since put out otherwise."""
    left = await undo(run.terms(), [state.made()])
    if left:
        run.residue += left
        raise StoreError(
            f"it was called before with other arguments, and that cannot be taken back: {left[0]}"
        )
