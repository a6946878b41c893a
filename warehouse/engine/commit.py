"""Making effects visible: planned writes, commits, and what to believe when no reply comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, groupby

import anyio

from warehouse.adapter import Outcome, StepChanges, WriteStatus, Written, first_failed
from warehouse.engine.retry import back_off
from warehouse.engine.run import Run, unknown
from warehouse.engine.state import OpenUnit, StepState
from warehouse.errors import (
    StepFailed,
    StoreContention,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
    TransientError,
)
from warehouse.planning import freeze, judge
from warehouse.records import Change, Image, same_image


async def commit(run: Run, opened: OpenUnit) -> StoreError | None:
    """Commit one unit. None: it is committed. An error: it is not, or (`outcome_unknown`) nobody can tell."""
    try:
        await opened.unit.commit()
    except Exception as raised:  # noqa: BLE001 - an adapter's mistake must not stop the commits beside it
        error = _store_error(raised)
        if not error.outcome_unknown:
            return error
        committed = await _ask(run, opened)
        if committed is None:
            return error
        if not committed:
            lost = StoreUnavailable(f"not committed: {error.message}")
            lost.__cause__ = error.__cause__ or error
            return lost
    return None


def _store_error(raised: Exception) -> StoreError:
    """What an adapter raised; anything but the errors of its contract says nothing of the outcome."""
    if isinstance(raised, StoreError):
        return raised
    error = StoreOutcomeUnknown(f"{type(raised).__name__}: {raised}")
    error.__cause__ = raised
    return error


async def _ask(run: Run, opened: OpenUnit) -> bool | None:
    """Whether the unit committed: the store's own answer, else its records, read under lock.

    None where neither tells; a store that is away is asked again for `grace` seconds.
    """
    adapter, token = opened.participant.adapter, opened.unit.token
    await run.close([opened])
    give_up = time.monotonic() + run.options.grace
    for attempt in count(1):
        try:
            outcome = Outcome.UNKNOWN
            if adapter.capabilities.asks and token is not None:
                outcome = await adapter.outcome(token)
            if outcome is Outcome.UNKNOWN:
                return await _read_back(run, opened)
            if outcome is not Outcome.OPEN:
                return outcome is Outcome.COMMITTED
        except TransientError:
            pass  # it is asked again
        except Exception:  # noqa: BLE001 - whatever it is, the answer is that nobody can tell
            return None
        if time.monotonic() >= give_up:
            return None
        await anyio.sleep(back_off(attempt))
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
    ulps = lost.participant.adapter.capabilities.float_ulps
    verdicts = set()
    try:
        for state, change, first in spans.values():
            if same_image(first, change.after, change.written, ulps=ulps):
                continue
            info = await state.origin.describe(change.entity)
            current = (await fresh.unit.read(info, [change.key]))[0]
            if same_image(current, change.after, change.written, ulps=ulps):
                verdicts.add(True)
            elif same_image(current, first, change.written, ulps=ulps):
                verdicts.add(False)
            else:
                return None
    finally:
        await run.close([fresh])
    return all(verdicts) if len(verdicts) < 2 else None  # noqa: PLR2004 - all alike, or nothing to see


async def apply(run: Run, opened: OpenUnit, applied: list[StepState]) -> StepFailed | None:
    """Make the planned changes of a unit, step by step; what was made is added to `applied`.

    What may have been made is added too, as not `known`. Raises OutcomeUnknown where a write got no reply
    and its record cannot be read either; Superseded.
    """
    for state in opened.steps:
        if state.done is None or not state.done.changes:
            continue
        changes = state.done.changes
        await run.keep()
        try:
            written = list(await opened.unit.write(changes))
        except Exception as raised:  # noqa: BLE001 - it ought to have answered: whatever it made is undone
            await anyio.sleep(opened.participant.adapter.capabilities.settle)
            applied.append(replace(state, known=False))
            error = _store_error(raised)
            return run.fail(state, error, error.__cause__ or error)
        written = await _resolve(run, opened, state, written)
        failed = first_failed(written)
        if failed is None:
            applied.append(state)
            continue
        for status, known in ((WriteStatus.APPLIED, True), (WriteStatus.UNKNOWN, False)):
            pairs = zip(changes, written, strict=False)
            some = tuple(change for change, item in pairs if item.status is status)
            if some:
                applied.append(replace(_part(state, some), known=known))
        return _apply_failed(run, state, failed)
    return None


def _part(state: StepState, changes: tuple[Change, ...]) -> StepState:
    return replace(state, done=StepChanges(changes=changes, affected=len(changes)))


async def _resolve(run: Run, opened: OpenUnit, state: StepState, written: list[Written]) -> list[Written]:
    """Look up the writes that got no reply, once they can no longer arrive; then go on after them.

    One stays UNKNOWN where its record is neither as before nor as after.
    """
    changes = state.done.changes if state.done else ()
    while any(item.status is WriteStatus.UNKNOWN for item in written):
        written = await _look_up(run, opened, state, written)
        if first_failed(written):
            return written
        if len(written) < len(changes):
            written += await opened.unit.write(changes[len(written) :])
    return written


async def _look_up(run: Run, opened: OpenUnit, state: StepState, written: Sequence[Written]) -> list[Written]:
    """The same, with APPLIED or CONFLICT (it was not made) in place of UNKNOWN where the record tells."""
    capabilities = opened.participant.adapter.capabilities
    changes = state.done.changes if state.done else ()
    pairs = [pair for pair in zip(changes, written, strict=False) if pair[1].status is WriteStatus.UNKNOWN]
    await anyio.sleep(capabilities.settle)
    give_up = time.monotonic() + run.options.grace
    for attempt in count(1):
        try:
            images = await _read(opened, state, [change for change, _ in pairs])
            break
        except StoreError as error:
            if not isinstance(error, TransientError) or time.monotonic() >= give_up:
                text = f"{state.step.tag} lost the reply to a write, and cannot be read"
                raise unknown(run, text) from pairs[0][1].error
        await anyio.sleep(back_off(attempt))
    found = iter(images)
    return [
        Written(judge(change, next(found), ulps=capabilities.float_ulps), item.error)
        if item.status is WriteStatus.UNKNOWN
        else item
        for change, item in zip(changes, written, strict=False)
    ]


async def _read(opened: OpenUnit, state: StepState, changes: Sequence[Change]) -> list[Image]:
    """The records of these changes as they are now, in order."""
    out: dict[object, Image] = {}
    for entity, some in groupby(changes, key=lambda change: change.entity):
        mine = list(some)
        keys = [change.key for change in mine]
        images = await opened.unit.read(await state.origin.describe(entity), keys)
        out.update(zip(map(id, mine), images, strict=True))
    return [out[id(change)] for change in changes]


def _apply_failed(run: Run, state: StepState, last: Written) -> StepFailed:
    if last.status is WriteStatus.REFUSED and last.error is not None:
        return run.fail(state, last.error, last.error.__cause__ or last.error)
    error = StoreContention("somebody else changed the record meanwhile")
    return run.fail(state, error, (last.error and last.error.__cause__) or error)
