"""What the journal is to keep of a transaction that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warehouse.engine.run import Run
from warehouse.engine.state import OpenUnit, StepState, returned
from warehouse.errors import StoreError
from warehouse.journal.base import Entry, EntryStep
from warehouse.results import State


def make_entry(run: Run, state: State, opened: Sequence[OpenUnit], *, expires: float | None = None) -> Entry:
    """What the journal is to keep of these units' steps. Raises StepFailed where it cannot keep them.

    What is `held` belongs to nobody, until it `expires`; only what was prepared can be asked for later.
    """
    asked = [unit for unit in opened if unit.prepared or state != "held"]
    places = run.places()
    states = sorted((item for unit in opened for item in unit.steps), key=lambda item: item.step.index)
    return Entry(
        transaction_id=run.id,
        name=run.options.name,
        pattern=run.pattern,
        state=state,
        owner="" if state == "held" else run.lease.owner,
        expires=expires,
        started=run.began,
        idempotency=run.idempotency,
        detail=_detail(run, opened),
        steps=tuple(
            _step(run, item, places)
            for item in (*states, *run.calls())
            if item.called is not None or (item.done is not None and item.done.changes)
        ),
        tokens={unit.participant.identity: unit.unit.token for unit in asked if unit.unit.token is not None},
    )


def _detail(run: Run, opened: Sequence[OpenUnit]) -> dict[str, Any]:
    detail: dict[str, Any] = {"steps": summary(run)}
    if run.options.rollback != "all":
        detail["keep"] = [place for index, place in run.places().items() if run.keeps(run.states[index])]
    prepared = [unit.participant.identity for unit in opened if unit.prepared]
    if prepared:
        detail |= {"prepared": prepared, "prepared_by": run.lease.owner}
    return detail


def summary(run: Run) -> list[list[Any]]:
    """Of each step, what its images do not tell: name, status, affected rows, attempts, fields returned."""
    return [
        [
            state.step.name,
            state.status,
            0 if state.done is None else state.done.affected,
            state.attempts,
            returned(state.step),
        ]
        for state in run.states.values()
    ]


def entry_step(run: Run, state: StepState) -> EntryStep:
    """A step as it is journaled. Raises StepFailed for values or sizes that the journal does not take."""
    return _step(run, state, run.places())


def _step(run: Run, state: StepState, places: Mapping[int, int]) -> EntryStep:
    step = state.step
    try:
        entry = EntryStep(
            index=places[step.index],
            name=step.name,
            tag=step.tag,
            store=step.store,
            changes=state.changes,
            priority=step.operation.compensation_priority,
            called=state.called,
        )
    except (TypeError, ValueError) as error:
        raise run.fail(state, StoreError(str(error)), error) from error
    run.image_bytes[step.index] = len(entry.body)
    if sum(run.image_bytes.values()) > run.options.max_image_bytes:
        text = f"the images of the transaction take more than {run.options.max_image_bytes} bytes"
        refused = StoreError(text, hint="raise transactions.max_image_bytes, or split it")
        raise run.fail(state, refused, refused)
    return entry
