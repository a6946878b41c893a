"""Making effects visible: planned writes, commits, and what to believe when no reply comes."""

from __future__ import annotations

from dataclasses import replace

import anyio

from warehouse.adapter import Outcome, StepChanges, WriteStatus, Written
from warehouse.engine.run import OpenUnit, Run, StepState
from warehouse.errors import OutcomeUnknown, StepFailed, StoreContention, StoreError
from warehouse.planning import freeze
from warehouse.records import Change, Image, same_image


def unknown(run: Run, message: str) -> OutcomeUnknown:
    """The error for an end that cannot be told."""
    return OutcomeUnknown(
        f"how transaction {run.id} ended cannot be told: {message}",
        transaction_id=run.id,
        hint="its records stay locked until it is known",
    )


async def commit(run: Run, opened: OpenUnit) -> StoreError | None:
    """Commit one unit. None: it is committed. An error: it is not, or (`outcome_unknown`) nobody can tell."""
    try:
        await opened.unit.commit()
    except StoreError as error:
        if not error.outcome_unknown:
            return error
        committed = await _ask(run, opened)
        if committed is None:
            return error
        return None if committed else StoreError(f"not committed: {error.message}")
    return None


async def _ask(run: Run, opened: OpenUnit) -> bool | None:
    """Whether the unit committed: the store's own answer, else its records, read under lock."""
    adapter, token = opened.participant.adapter, opened.unit.token
    await run.close([opened])
    try:
        if adapter.capabilities.asks and token is not None:
            outcome = await adapter.outcome(token)
            if outcome is not Outcome.UNKNOWN:
                return outcome is Outcome.COMMITTED
        return await _read_back(run, opened)
    except StoreError:
        return None


async def _read_back(run: Run, lost: OpenUnit) -> bool | None:
    """Whether all records are as the unit left them (true) or as it found them (false); else None."""
    spans: dict[object, tuple[StepState, Change, Image]] = {}
    for state in lost.steps:
        for change in state.done.changes if state.done else ():
            place = (change.entity, freeze(change.key))
            first = spans[place][2] if place in spans else change.before
            spans[place] = (state, change, first)
    fresh = await run.open(lost.participant)
    verdicts = set()
    try:
        for state, change, first in spans.values():
            if same_image(first, change.after, change.written):
                continue
            info = state.step.info
            if info.entity != change.entity:
                info = await lost.participant.adapter.describe(change.entity)
            current = (await fresh.unit.read(info, [change.key]))[0]
            if same_image(current, change.after, change.written):
                verdicts.add(True)
            elif same_image(current, first, change.written):
                verdicts.add(False)
            else:
                return None
    finally:
        await run.close([fresh])
    return verdicts.pop() if len(verdicts) == 1 else None


async def apply(run: Run, opened: OpenUnit, applied: list[StepState]) -> StepFailed | None:
    """Make the planned changes of a unit, step by step; what was made is added to `applied`.

    Raises OutcomeUnknown where a write got no reply and its record cannot be read either.
    """
    for state in opened.steps:
        if state.done is None or not state.done.changes:
            continue
        written = list(await opened.unit.write(state.done.changes))
        if written[-1].status is WriteStatus.UNKNOWN:
            written = await _resolve(opened, state, written)
        made = sum(item.status is WriteStatus.APPLIED for item in written)
        if made == len(state.done.changes):
            applied.append(state)
            continue
        if made:
            part = StepChanges(changes=state.done.changes[:made], affected=made)
            applied.append(replace(state, done=part))
        return _apply_failed(run, state, written[-1])
    return None


async def _resolve(opened: OpenUnit, state: StepState, written: list[Written]) -> list[Written]:
    """Read back the last write, which got no reply, once it can no longer arrive; then go on after it."""
    changes = state.done.changes if state.done else ()
    while written[-1].status is WriteStatus.UNKNOWN:
        lost, change = written[-1], changes[len(written) - 1]
        capabilities = opened.participant.adapter.capabilities
        await anyio.sleep(capabilities.settle)
        try:
            current = (await opened.unit.read(state.step.info, [change.key]))[0]
        except StoreError:
            return written
        if not same_image(current, change.after, change.written, ulps=capabilities.float_ulps):
            return [*written[:-1], Written(WriteStatus.CONFLICT, lost.error)]
        written = [*written[:-1], Written(WriteStatus.APPLIED)]
        if len(written) < len(changes):
            written += await opened.unit.write(changes[len(written) :])
    return written


def _apply_failed(run: Run, state: StepState, last: Written) -> StepFailed:
    if last.status is WriteStatus.UNKNOWN:
        raise unknown(run, f"{state.step.tag} lost the reply to a write, and cannot be read") from last.error
    if last.status is WriteStatus.REFUSED and last.error is not None:
        return run.fail(state, last.error, last.error.__cause__ or last.error)
    error = StoreContention("somebody else changed the record meanwhile")
    return run.fail(state, error, (last.error and last.error.__cause__) or error)
