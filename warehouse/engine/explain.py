"""`explain`: what a transaction would do, found by staging it and rolling it back."""

from __future__ import annotations

from collections.abc import Sequence

from warehouse.engine.dependencies import in_order
from warehouse.engine.plan import AnyStep, CallStep, Step
from warehouse.engine.run import Run
from warehouse.engine.stage import stage
from warehouse.engine.staged import rollback
from warehouse.records import Absent, Change, Image
from warehouse.registry import Participant
from warehouse.results import Explanation, ParticipantInfo, PlannedChange


async def explain(run: Run, steps: Sequence[AnyStep], reason: str) -> Explanation:
    """Stage every step, note the changes, roll everything back. Nothing is called, nor staged that needs a call."""
    planned = _without_calls(steps)
    try:
        failure = await stage(run, planned) if planned else None
        changes = {
            state.step.name: [_planned(item) for item in state.done.changes] if state.done else []
            for state in run.states.values()
        }
    finally:
        await rollback(run)
    return Explanation(
        pattern=run.pattern,
        reason=reason,
        participants=[
            describe(item)
            for item in {step.tag: step.participant for step in steps if isinstance(step, Step)}.values()
        ],
        changes=changes,
        error=None if failure is None else str(failure),
    )


def _without_calls(steps: Sequence[AnyStep]) -> list[Step]:
    out: list[Step] = []
    missing = {step.index for step in steps if isinstance(step, CallStep)}
    for step in in_order(steps, key=lambda step: step.index):
        if step.depends & missing:
            missing.add(step.index)
        elif isinstance(step, Step):
            out.append(step)
    return out


def describe(participant: Participant) -> ParticipantInfo:
    """A (connected) participant, for people."""
    capabilities = participant.adapter.capabilities
    if capabilities.holds:
        role = "held: executed in its own transaction, invisible until the commit"
    else:
        role = f"planned: written after the decision, guarded ({capabilities.guards})"
    return ParticipantInfo(
        tag=participant.tag,
        type=participant.adapter.type,
        store=capabilities.store,
        version=capabilities.version,
        identity=capabilities.identity,
        holds=capabilities.holds,
        prepares=capabilities.prepares,
        guards=capabilities.guards,
        role=role,
    )


def _planned(change: Change) -> PlannedChange:
    return PlannedChange(
        action=change.action,
        entity=change.entity.name,
        key=change.key,
        before=_shown(change.before),
        after=_shown(change.after),
    )


def _shown(image: Image) -> object:
    return None if isinstance(image, Absent) else image
