"""Undoing a transaction that has ended, as a transaction of its own (DESIGN 6).

The same merge as in compensation, executed in the stores' open transactions and decided like any other: so that
either all of it is undone, or (on_conflict="refuse") nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from warehouse.adapter import StepChanges, WriteStatus, first_failed
from warehouse.conditions import EVERYTHING
from warehouse.engine.compensate import place
from warehouse.engine.plan import Step
from warehouse.engine.run import Run
from warehouse.engine.staged import blame, conclude, rollback
from warehouse.errors import StepFailed, StoreContention, StoreError, TransactionConflict, WarehouseError
from warehouse.journal.base import EntryStep
from warehouse.operations import Delete, Source
from warehouse.records import Absent, Change, Image, Record, get, put
from warehouse.registry import Participant
from warehouse.results import Conflict
from warehouse.undo import Clash, combine, merge

OnConflict: TypeAlias = Literal["refuse", "skip", "force"]
Made: TypeAlias = Sequence[tuple[EntryStep, Participant, tuple[Change, ...]]]


class Reversal:
    """The undoing of what a transaction made, into `run`; `made` begins with what was made last."""

    def __init__(self, run: Run, made: Made, on_conflict: OnConflict) -> None:
        self._run = run
        self._made = made
        self._on_conflict = on_conflict
        self.conflicts: list[Conflict] = []

    async def execute(self) -> None:
        """Run to an end, staging again while others are in the way. Raises as a transaction does."""
        run = self._run
        for step, participant, changes in self._made:
            run.add(await _step(step, participant, changes))
        retries = run.retries()
        while True:
            try:
                failure = await self._attempt()
            finally:
                await rollback(run)
            if failure is None:
                return
            if not await retries.again(failure):
                blame(run, failure)
                return
            run.reset()

    async def _attempt(self) -> StepFailed | TransactionConflict | None:
        run = self._run
        self.conflicts = []
        run.since = await run.lease.trailing.moment()
        stores: dict[str, list[tuple[EntryStep, Participant, tuple[Change, ...]]]] = {}
        for made in self._made:
            stores.setdefault(made[0].store, []).append(made)
        try:
            for group in stores.values():
                await self._stage(group)
            if self.conflicts and self._on_conflict == "refuse":
                return self._refuse()
            return await conclude(run)
        except (StepFailed, TransactionConflict) as failure:
            return failure

    def _refuse(self) -> StepFailed:
        conflict = self.conflicts[0]
        state = next(state for state in self._run.states.values() if state.step.name == conflict.step)
        error = StoreError(
            f"somebody changed what it left since: {conflict}",
            hint="on_conflict='skip' leaves that as it is, 'force' overwrites it",
        )
        return self._run.fail(state, error, error)

    # One store

    async def _stage(self, group: Made) -> None:
        """Read what is there, and write back what was: in the open transaction, or planned."""
        run, participant = self._run, group[0][1]
        last = {place(change): step for step, _, changes in reversed(group) for change in changes}
        first = {place(change): step for step, _, changes in group for change in changes}
        combined = combine([change for _, _, changes in reversed(group) for change in changes], place)
        writes: dict[int, list[Change]] = {}
        state = run.states[group[0][0].index]
        try:
            opened = await run.open(participant)
            currents = await self._read(opened.unit, state.origin, combined)
            for change in reversed(combined):
                # What created a record is undone in its place: what refers to it goes before.
                owner = (first if isinstance(change.before, Absent) else last)[place(change)]
                write = self._merge(owner, participant, change, currents[place(change)])
                if write is not None:
                    writes.setdefault(owner.index, []).append(write)
            for step, _, _ in group:
                state = run.states[step.index]
                mine = tuple(writes.get(step.index, ()))
                if opened.holds and mine:
                    await self._write(opened.unit, mine)
                state.status, state.done = "executed", StepChanges(changes=mine, affected=len(mine))
                state.attempts += 1
                opened.steps.append(state)
        except WarehouseError as error:
            raise run.fail(state, error, error.__cause__ or error) from error

    async def _read(self, unit: Any, step: Step, changes: Sequence[Change]) -> dict[object, Image]:
        out: dict[object, Image] = {}
        for entity in {change.entity: None for change in changes}:
            mine = [change for change in changes if change.entity == entity]
            images = await unit.read(await step.describe(entity), [change.key for change in mine])
            out.update({place(change): image for change, image in zip(mine, images, strict=True)})
        return out

    def _merge(
        self, step: EntryStep, participant: Participant, change: Change, current: Image
    ) -> Change | None:
        ulps = participant.adapter.capabilities.float_ulps
        config = participant.settings.entity(change.entity.name)
        merged = merge(change, current, config, ulps=ulps)
        if not merged.clashes:
            return merged.write
        self.conflicts += [_conflict(step, participant, change, clash) for clash in merged.clashes]
        return _overwritten(change, current) if self._on_conflict == "force" else merged.write

    async def _write(self, unit: Any, changes: Sequence[Change]) -> None:
        failed = first_failed(await unit.write(changes))
        if failed is None:
            return
        if failed.status is WriteStatus.CONFLICT:
            raise StoreContention("somebody else changed the record meanwhile")
        raise failed.error or StoreError("the store refused to undo a change")


async def _step(step: EntryStep, participant: Participant, changes: Sequence[Change]) -> Step:
    """What stands for a journaled step while it is undone."""
    for entity in step.entities:
        await participant.adapter.describe(entity)
    entity = changes[0].entity
    where = {"relationship" if entity.kind == "relationship" else "entity": entity.name}
    operation = Delete(from_=Source(tag=participant.tag, **where), all=True, name=step.name)  # type: ignore[arg-type]
    return Step(
        index=step.index,
        name=step.name,
        operation=operation,
        participant=participant,
        where=EVERYTHING,
        assignments=(),
        depends=frozenset(),
        refers=False,
        info=await participant.adapter.describe(entity),
    )


def _overwritten(change: Change, current: Image) -> Change | None:
    """The write that brings back what was before, whatever is there now."""
    before = change.before
    written: frozenset[str]
    target: Image
    if isinstance(before, Absent):
        if isinstance(current, Absent):
            return None
        target, written = before, frozenset(current)
    elif isinstance(current, Absent):
        target, written = before, frozenset(before)
    elif isinstance(change.after, Absent):
        target, written = before, frozenset(before) | frozenset(current)
    else:
        target, written = _put_back(current, before, change.written), change.written
    return replace(change, before=current, after=target, written=written, guard=frozenset(), effects={})


def _put_back(current: Record, before: Record, paths: frozenset[str]) -> Record:
    for path in sorted(paths):
        current = put(current, path, get(before, path))
    return current


def _conflict(step: EntryStep, participant: Participant, change: Change, clash: Clash) -> Conflict:
    return Conflict(
        step=step.name,
        tag=participant.tag,
        entity=change.entity.name,
        key=change.key,
        field=clash.field,
        expected=None if isinstance(clash.expected, Absent) else clash.expected,
        found=None if isinstance(clash.found, Absent) else clash.found,
        reason="conflict",
    )
