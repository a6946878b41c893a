"""What the caller gets of a transaction that has ended."""

from __future__ import annotations

import time
from typing import Any

from warehouse.engine.run import Run
from warehouse.engine.state import StepState, returned
from warehouse.journal.base import FINAL, Entry, EntryStep
from warehouse.records import project
from warehouse.results import Residue, Status, StepResult, StepStatus, TransactionResult


def result(run: Run) -> TransactionResult:
    """What the caller gets. Steps after the first that failed count as skipped, run or not."""
    if run.status is None:
        raise RuntimeError("the transaction has not ended")
    left = {item.step for item in run.residue}
    results = {state.step.name: _step_result(run, state, left) for state in run.states.values()}
    return TransactionResult(
        transaction_id=run.id,
        name=run.options.name,
        status=run.status,
        pattern=run.pattern,
        execution_time=time.monotonic() - run.started,
        step_results=results,
        compensated_steps=[name for name, item in results.items() if item.status == "compensated"],
        error=None if run.error is None else str(run.error),
        residue=run.residue,
    ).caused_by(run.error)


def recorded(entry: Entry) -> TransactionResult:
    """What the journal tells of a transaction that has ended."""
    residue = [Residue.model_validate(item) for item in entry.detail.get("residue", ())]
    status: Status = entry.state if entry.state in FINAL else "failed"  # type: ignore[assignment]
    left = {item.step for item in residue}
    steps = {step.name: step for step in entry.steps}
    results = {
        name: _recorded_step(steps.get(name), summary, status, left)
        for name, *summary in entry.detail.get("steps", ())
    }
    return TransactionResult(
        transaction_id=entry.transaction_id,
        name=entry.name,
        status=status,
        pattern=entry.pattern,
        execution_time=(entry.finished or entry.started) - entry.started,
        step_results=results,
        compensated_steps=[name for name, item in results.items() if item.status == "compensated"],
        error=None if status == "completed" else f"the transaction was {status}",
        residue=residue,
    )


def _recorded_step(step: EntryStep | None, summary: list[Any], status: Status, left: set[str]) -> StepResult:
    was, affected, attempts, returning = summary
    changes = () if step is None else [change for change in step.changes if not change.dependent]
    rows = [change.visible for change in changes]
    if step is not None and step.called is not None:
        rows = list(step.called.output or ())
    if was in {"failed", "tolerated"}:
        ended: StepStatus = "failed"
    elif was != "executed":
        ended = "skipped"
    elif status == "completed":
        ended = "completed"
    else:
        ended = "failed" if step is not None and step.name in left else "compensated"
    return StepResult(
        status=ended,
        data=[project(row, returning) for row in rows],
        actions=[change.action for change in changes],
        affected_rows=affected,
        attempts=attempts,
    )


def _step_result(run: Run, state: StepState, left: set[str]) -> StepResult:
    changes = [item for item in state.changes if not item.dependent]
    returning = returned(state.step)
    return StepResult(
        status=_step_status(run, state, left),
        data=[project(row, returning) for row in state.rows()],
        actions=[change.action for change in changes],
        affected_rows=0 if state.done is None else state.done.affected,
        error=None if state.error is None else str(state.error),
        attempts=state.attempts,
        duration=state.duration,
    )


def _step_status(run: Run, state: StepState, left: set[str]) -> StepStatus:
    if state.status in {"failed", "tolerated"}:
        return "failed"
    if state.status != "executed":
        return "skipped"
    if run.status == "completed":
        return "completed"
    if state.step.name in left:
        kept = all(item.reason == "kept" for item in run.residue if item.step == state.step.name)
        return "completed" if kept else "failed"
    return "compensated"
