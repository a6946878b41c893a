"""Two-phase commit (DESIGN 5.3): every store votes by preparing; after the decision nothing rolls back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count

import anyio

from warehouse.engine.durable import finish, follow, record
from warehouse.engine.entries import make_entry
from warehouse.engine.retry import back_off
from warehouse.engine.run import Run, unknown
from warehouse.engine.state import OpenUnit
from warehouse.errors import OutcomeUnknown, StepFailed, StoreError
from warehouse.journal.base import Superseded


async def vote(run: Run, changed: Sequence[OpenUnit]) -> StepFailed | None:
    """Prepare all units, concurrently; the failure of the first one (by its steps) that did not, or None.

    From here on the transaction is ours to end: recovery takes what is prepared, and not `active`, for a leftover.
    """
    run.lease.active.add(run.id)
    errors: dict[str, StoreError] = {}

    async def prepare(opened: OpenUnit) -> None:
        try:
            await opened.unit.prepare()
            opened.prepared = True
        except StoreError as error:
            errors[opened.participant.identity] = error
        except Exception as raised:  # noqa: BLE001 - an adapter's mistake is a vote against
            mistake = StoreError(f"{type(raised).__name__}: {raised}")
            mistake.__cause__ = raised
            errors[opened.participant.identity] = mistake

    with anyio.move_on_after(max(run.remaining, 0)) as scope:
        async with anyio.create_task_group() as tasks:
            for opened in changed:
                tasks.start_soon(prepare, opened)
    if scope.cancelled_caught:
        return run.time_is_up(changed[0].steps[-1])
    for opened in changed:
        error = errors.get(opened.participant.identity)
        if error is not None:
            return run.fail(opened.steps[-1], error, error.__cause__ or error)
    return None


async def carry_through(run: Run, changed: Sequence[OpenUnit]) -> None:
    """Decide, and commit everywhere. Raises as `record` while nothing is decided; then only OutcomeUnknown."""
    try:
        await record(run, make_entry(run, "committing", changed))
    except OutcomeUnknown:
        await run.leave(changed)
        raise
    try:
        await _commit_all(run, changed)
        await finish(run, "completed")
    except Superseded as taken:
        # Whoever took it over goes forward, too: nobody can do anything else with what was decided.
        await follow(run, taken, [])
        return
    run.end("completed")


async def _commit_all(run: Run, changed: Sequence[OpenUnit]) -> None:
    away: dict[str, StoreError] = {}

    async def commit(opened: OpenUnit) -> None:
        error = await _commit(run, opened)
        if error is not None:
            away[opened.participant.tag] = error

    async with anyio.create_task_group() as tasks:
        for opened in changed:
            tasks.start_soon(commit, opened)
    for tag, error in away.items():
        raise unknown(run, f"{tag} has not confirmed its commit") from error


async def _commit(run: Run, opened: OpenUnit) -> StoreError | None:
    """Commit one prepared unit, by another connection where its own fails; why not, after `grace` seconds."""
    try:
        await opened.unit.commit()
    except Exception as raised:  # noqa: BLE001 - whatever it is: what was decided is committed
        error = raised if isinstance(raised, StoreError) else StoreError(repr(raised))
    else:
        return None
    await run.leave([opened])
    adapter = opened.participant.adapter
    give_up = time.monotonic() + run.options.grace
    for attempt in count(1):
        try:
            # What is not prepared any more was committed: nobody rolls back what was decided. That a store does
            # not know it says nothing (MariaDB says so while the connection that prepared it is still there).
            if run.prepared_id not in await adapter.prepared():
                return None
            await adapter.finish(run.prepared_id, commit=True)
        except Exception as again:  # noqa: BLE001 - as above
            error = again if isinstance(again, StoreError) else StoreError(repr(again))
        else:
            return None
        if time.monotonic() >= give_up:
            return error
        await anyio.sleep(back_off(attempt))
    return None
