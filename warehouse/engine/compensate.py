"""Undo and redo in the stores: the loops of reading, merging and guarded writing around the pure merge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import anyio

from warehouse.adapter import Unit, UnitSettings, WriteStatus, Written
from warehouse.engine.plan import Step, in_order
from warehouse.engine.retry import back_off
from warehouse.engine.run import Run, StepState
from warehouse.errors import ConstraintViolated, StoreError, StoreOutcomeUnknown, TransientError
from warehouse.planning import freeze
from warehouse.records import ABSENT, Absent, Change, Entity, Image
from warehouse.registry import Participant
from warehouse.results import Reason, Residue
from warehouse.undo import Clash, Merge, combine, inverse, merge


@dataclass(slots=True, eq=False)
class Piece:
    """One change on its way to being undone (or redone).

    `known`: it is known that it was applied. `doubtful`: undoing (or redoing) it may have been committed, or not.
    """

    step: Step
    change: Change
    known: bool
    settled: bool = False
    doubtful: bool = False


class Unreachable(Exception):
    """A store could not be reached for as long as we were willing to try."""


@dataclass(slots=True)
class _Round:
    """What one pass over the pieces found and wants to write."""

    writes: list[tuple[Piece, Change]] = field(default_factory=list)
    clashes: list[tuple[Piece, Residue]] = field(default_factory=list)

    def residue(self, piece: Piece | None = None) -> list[Residue]:
        """What clashed (with this piece)."""
        return [item for owner, item in self.clashes if piece is None or owner is piece]

    def idle(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Those of `pieces` for which nothing is to be written."""
        return [piece for piece in pieces if all(owner is not piece for owner, _ in self.writes)]


async def undo(run: Run, states: Sequence[StepState]) -> list[Residue]:
    """Undo these (executed) steps; what could not be undone, record by record. Never raises."""
    residue: list[Residue] = []
    for state in _last_first(run, states):
        changes = combine(state.done.changes if state.done else (), _place)
        pieces = [Piece(state.step, change, state.known) for change in reversed(changes)]
        if not pieces:
            continue
        try:
            await _settle(run, state.step.participant, pieces, merge, residue)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other steps are to be undone
            residue += [
                _residue(piece, Clash(None, piece.change.after, None), _reason(error), str(error))
                for piece in pieces
                if not piece.settled
            ]
    return residue


def _reason(error: Exception) -> Reason:
    """Why a step as a whole could not be undone; a constraint may be looked at only as the undo commits."""
    return "constraint" if isinstance(error, ConstraintViolated) else "unreachable"


def _last_first(run: Run, states: Sequence[StepState]) -> list[StepState]:
    """By `compensation_priority`, highest first; then what was executed last first."""
    steps = in_order((state.step for state in run.states.values()), key=lambda step: step.index)
    place = {step.index: number for number, step in enumerate(steps)}

    def key(numbered: tuple[int, StepState]) -> tuple[int, int, int]:
        number, state = numbered
        return state.step.operation.compensation_priority, place[state.step.index], number

    return [state for _, state in sorted(enumerate(states), key=key, reverse=True)]


async def redo(run: Run, participant: Participant, states: Sequence[StepState]) -> StoreError | None:
    """Make again what is missing of these steps, in a store with transactions; why not, where that cannot be.

    Nothing was written then; or, where the error says so, that is not known. Raises Unreachable.
    """
    steps: dict[object, Step] = {}
    changes: list[Change] = []
    for state in states:
        for change in state.done.changes if state.done is not None else ():
            steps[_place(change)] = state.step
            changes.append(change)
    pieces = [
        Piece(steps[_place(change)], inverse(change), known=False) for change in combine(changes, _place)
    ]
    residue: list[Residue] = []
    problem: StoreError | None = None
    try:
        await _settle(run, participant, pieces, merge, residue, all_or_nothing=True)
    except StoreError as refused:
        problem = refused
    if residue:
        problem = StoreError(f"somebody else changed the record: {residue[0]}")
    if problem is not None and any(piece.doubtful for piece in pieces):
        return StoreOutcomeUnknown(problem.message)
    return problem


async def _settle(
    run: Run,
    participant: Participant,
    pieces: list[Piece],
    how: Callable[..., Merge],
    residue: list[Residue],
    *,
    all_or_nothing: bool = False,
) -> None:
    """Bring every piece about, trying again while other writers or the network are in the way.

    What clashes is added to `residue`.
    """
    give_up = time.monotonic() + run.options.grace
    attempt = 0
    while True:
        attempt += 1
        try:
            done = await _one_round(run, participant, pieces, residue, how, all_or_nothing=all_or_nothing)
        except TransientError as error:
            done = False
            if time.monotonic() >= give_up:
                raise Unreachable(str(error)) from error
        if done:
            return
        if time.monotonic() >= give_up:
            raise Unreachable("other writers kept changing the record")
        await anyio.sleep(back_off(attempt))


async def _one_round(
    run: Run,
    participant: Participant,
    pieces: list[Piece],
    residue: list[Residue],
    how: Callable[..., Merge],
    *,
    all_or_nothing: bool,
) -> bool:
    """One unit: read, merge, write, commit. False if it has to be done again."""
    settings = UnitSettings(transaction_id=run.id, lock_timeout=run.options.lock_timeout)
    async with participant.adapter.unit(settings) as unit:
        waiting = [piece for piece in pieces if not piece.settled]
        found = await _merge_all(unit, participant, waiting, how)
        if all_or_nothing and found.clashes:
            residue += found.residue()
            return True
        if participant.adapter.capabilities.holds:
            written = await unit.write([change for _, change in found.writes])
        else:
            residue += _settled(found, found.idle(waiting))
            written = await _write_singly(unit, found)
            residue += await _note_applied(found, written, participant.adapter.capabilities.settle)
        if len(written) < len(found.writes) or any(
            item.status is not WriteStatus.APPLIED for item in written
        ):
            residue += _refused(found, written)
            return all_or_nothing and bool(residue)
        await _commit(unit, waiting)
        residue += _settled(found, waiting)
        return True


async def _commit(unit: Unit, pieces: Iterable[Piece]) -> None:
    try:
        await unit.commit()
    except StoreError as error:
        if error.outcome_unknown:
            for piece in pieces:
                piece.known, piece.doubtful = False, True
        raise


async def _merge_all(
    unit: Unit, participant: Participant, pieces: Sequence[Piece], how: Callable[..., Merge]
) -> _Round:
    """Merge every piece with its record as it is now, each seeing what the ones before it will have made."""
    currents = await _read(unit, pieces)
    out = _Round()
    ulps = participant.adapter.capabilities.float_ulps
    for piece in pieces:
        place = _place(piece.change)
        merged = how(piece.change, currents[place], piece.step.info.config, known=piece.known, ulps=ulps)
        out.clashes += [(piece, _residue(piece, clash, "conflict", "")) for clash in merged.clashes]
        if merged.write is not None:
            out.writes.append((piece, merged.write))
            currents[place] = merged.write.after
    return out


def _place(change: Change) -> tuple[Entity, object]:
    return change.entity, freeze(change.key)


async def _read(unit: Unit, pieces: Sequence[Piece]) -> dict[tuple[Entity, object], Image]:
    """The current images of all records that the pieces are about, locked where there are locks."""
    keys: dict[Entity, dict[object, Change]] = {}
    for piece in pieces:
        keys.setdefault(piece.change.entity, {})[freeze(piece.change.key)] = piece.change
    out: dict[tuple[Entity, object], Image] = {}
    for entity, changes in keys.items():
        info = await next(piece.step for piece in pieces if piece.change.entity == entity).describe(entity)
        images = await unit.read(info, [change.key for change in changes.values()])
        out.update({(entity, key): image for key, image in zip(changes, images, strict=True)})
    return out


def _settled(found: _Round, pieces: Iterable[Piece]) -> list[Residue]:
    """Mark pieces as done; what clashed with them."""
    residue: list[Residue] = []
    for piece in pieces:
        if not piece.settled:
            piece.settled = True
            residue += found.residue(piece)
    return residue


async def _write_singly(unit: Unit, found: _Round) -> list[Written]:
    """The writes, in a store where each stands for itself: after an error nobody knows which were made."""
    try:
        return await unit.write([change for _, change in found.writes])
    except Exception:
        for piece, _ in found.writes:
            piece.known = False
        raise


async def _note_applied(found: _Round, written: Sequence[Written], settle: float) -> list[Residue]:
    """In a store without transactions each write stands for itself: what was made is not made again.

    Returns what clashed with the changes that are now done. After a lost reply it waits until no write of
    ours can still arrive.
    """
    residue: list[Residue] = []
    for (piece, _), item in zip(found.writes, written, strict=False):
        if item.status is WriteStatus.APPLIED:
            residue += _settled(found, [piece])
        elif item.status is WriteStatus.UNKNOWN:
            piece.known = False
            await anyio.sleep(settle)
    return residue


def _refused(found: _Round, written: Sequence[Written]) -> list[Residue]:
    """After a write that was not applied: what the store refuses is residue, all else is tried again."""
    piece, change = found.writes[len(written) - 1]
    last = written[-1]
    if isinstance(last.error, TransientError):
        raise last.error
    if last.status is not WriteStatus.REFUSED:
        return []
    piece.settled = True
    detail = last.error.message if last.error else "refused"
    return [_residue(piece, Clash(None, change.after, change.before), "constraint", detail)]


def _residue(piece: Piece, clash: Clash, reason: Reason, detail: str) -> Residue:
    return Residue(
        step=piece.step.name,
        tag=piece.step.tag,
        entity=piece.change.entity.name,
        key=piece.change.key,
        field=clash.field,
        expected=_shown(clash.expected),
        found=_shown(clash.found),
        reason=reason,
        detail=detail,
    )


def _shown(value: object) -> object:
    return None if isinstance(value, Absent) or value is ABSENT else value


def kept(states: Iterable[StepState]) -> list[Residue]:
    """The residue of steps whose commits are kept on purpose."""
    return [
        _residue(Piece(state.step, change, known=True), Clash(None, change.after, change.after), "kept", "")
        for state in states
        if state.done is not None
        for change in state.done.changes
    ]
