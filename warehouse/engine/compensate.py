"""Undo and redo in the stores: the loops of reading, merging and guarded writing around the pure merge."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio

from warehouse.adapter import EntityInfo, Unit, UnitSettings, WriteStatus, Written, first_failed
from warehouse.engine.retry import back_off, insist
from warehouse.engine.takeback import CallMade, call_left, take_back
from warehouse.errors import (
    ConstraintViolated,
    OutcomeUnknown,
    StoreError,
    StoreOutcomeUnknown,
    TransientError,
)
from warehouse.journal.base import Entry, Journal, Lock, Superseded, lock
from warehouse.planning import freeze
from warehouse.records import ABSENT, Absent, Change, Entity, Image, overlaps, same_image
from warehouse.registry import Participant
from warehouse.results import Reason, Residue
from warehouse.undo import Clash, Merge, combine, inverse, merge


class Origin(Protocol):
    """Where changes were made: a step that runs, or one that was journaled."""

    @property
    def name(self) -> str: ...

    @property
    def tag(self) -> str: ...

    @property
    def participant(self) -> Participant: ...

    async def describe(self, entity: Entity) -> EntityInfo:
        """What is known of an entity that it changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """For which transaction, and for how long (seconds), changes are undone or redone.

    `keep` raises Superseded where the transaction is not ours any more. It is called with the records locked,
    right before anything becomes visible. `whole`: a record of which somebody has changed one field is left as it is;
    that another is as it was left proves nothing once the records are not locked any more. Nor does it where the same
    was written `since`, of a lock, by others: it is theirs.
    """

    transaction_id: str
    grace: float
    lock_timeout: float
    keep: Callable[[], Awaitable[None]]
    whole: bool = False
    since: Callable[[Lock], Awaitable[Sequence[Entry]]] | None = None

    def too_late(self, journal: Journal) -> Terms:
        """The terms on which is taken back what was written after others had taken the transaction over.

        Without any claim: the records were given back before.
        """

        async def since(record: Lock) -> Sequence[Entry]:
            return await insist(lambda: journal.since(record, self.transaction_id), self.grace)

        return replace(self, keep=_no_claim, whole=True, since=since)


async def _no_claim() -> None:
    """Nothing is ours any more."""


@dataclass(frozen=True, slots=True)
class Done:
    """What one step changed, and whether it is known that this was made."""

    origin: Origin
    changes: tuple[Change, ...]
    known: bool = True


@dataclass(slots=True, eq=False)
class Piece:
    """One change on its way to being undone (or redone).

    `known`: it is known that it was applied. `doubtful`: undoing (or redoing) it may have been committed, or not.
    """

    origin: Origin
    change: Change
    known: bool
    settled: bool = False
    doubtful: bool = False


class NothingWritten(StoreError):
    """Changes could not be made again, and none of them was."""


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


async def undo(terms: Terms, steps: Sequence[Done | CallMade]) -> list[Residue]:
    """Undo these steps, in this order; what could not be undone, record by record.

    Raises only what `terms.keep` does, Superseded or OutcomeUnknown.
    """
    residue: list[Residue] = []
    for done in steps:
        if isinstance(done, CallMade):
            residue += await take_back(done, terms.grace, terms.keep)
            continue
        changes = combine(done.changes, place)
        pieces = [Piece(done.origin, change, done.known) for change in reversed(changes)]
        if not pieces:
            continue
        try:
            await _settle(terms, done.origin.participant, pieces, merge, residue)
        except (Superseded, OutcomeUnknown):
            raise
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


async def redo(terms: Terms, participant: Participant, steps: Sequence[Done]) -> StoreError | None:
    """Make again what is missing of these steps of one store; why not, where that cannot be.

    NothingWritten says that it was found out before anything was made. In a store with transactions nothing was
    written then; or, where the error says so, that is not known. Raises Unreachable and Superseded.
    """
    origins: dict[object, Origin] = {}
    changes: list[Change] = []
    for done in steps:
        for change in done.changes:
            origins[place(change)] = done.origin
            changes.append(change)
    pieces = [
        Piece(origins[place(change)], inverse(change), known=False) for change in combine(changes, place)
    ]
    residue: list[Residue] = []
    problem: StoreError | None = None
    try:
        await _settle(terms, participant, pieces, merge, residue, all_or_nothing=True)
    except StoreError as refused:
        problem = refused
    if residue:
        kind = StoreError if any(piece.settled for piece in pieces) else NothingWritten
        problem = kind(f"somebody else changed the record: {residue[0]}")
    if problem is not None and any(piece.doubtful for piece in pieces):
        return StoreOutcomeUnknown(problem.message)
    return problem


async def _settle(
    terms: Terms,
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
    give_up = time.monotonic() + terms.grace
    attempt = 0
    while True:
        attempt += 1
        try:
            done = await _one_round(terms, participant, pieces, residue, how, all_or_nothing=all_or_nothing)
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
    terms: Terms,
    participant: Participant,
    pieces: list[Piece],
    residue: list[Residue],
    how: Callable[..., Merge],
    *,
    all_or_nothing: bool,
) -> bool:
    """One unit: read, merge, write, commit. False if it has to be done again."""
    settings = UnitSettings(transaction_id=terms.transaction_id, lock_timeout=terms.lock_timeout)
    async with participant.adapter.unit(settings) as unit:
        waiting = [piece for piece in pieces if not piece.settled]
        found = await _merge_all(unit, participant, waiting, how, whole=terms.whole)
        if all_or_nothing and found.clashes:
            residue += found.residue()
            return True
        if participant.adapter.capabilities.holds:
            written = await unit.write([change for _, change in found.writes])
        else:
            await _leave_to_others(terms, participant, found)
            residue += _settled(found, found.idle(waiting))
            await terms.keep()
            written = await _write_singly(unit, found)
            residue += await _note_applied(found, written, participant.adapter.capabilities.settle)
        if len(written) < len(found.writes) or first_failed(written):
            residue += _refused(found, written)
            _raise_transient(written)
            return all_or_nothing and bool(residue)
        if participant.adapter.capabilities.holds and found.writes:
            await terms.keep()
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
    unit: Unit,
    participant: Participant,
    pieces: Sequence[Piece],
    how: Callable[..., Merge],
    *,
    whole: bool,
) -> _Round:
    """Merge every piece with its record as it is now, each seeing what the ones before it will have made."""
    currents = await _read(unit, pieces)
    out = _Round()
    ulps = participant.adapter.capabilities.float_ulps
    for piece in pieces:
        where = place(piece.change)
        config = participant.settings.entity(piece.change.entity.name)
        merged = how(piece.change, currents[where], config, known=piece.known, ulps=ulps)
        out.clashes += [(piece, _residue(piece, clash, "conflict", "")) for clash in merged.clashes]
        if merged.write is not None and not (whole and merged.clashes):
            out.writes.append((piece, merged.write))
            currents[where] = merged.write.after
    return out


async def _leave_to_others(terms: Terms, participant: Participant, found: _Round) -> None:
    """Take out of the writes what others have made `since`: its records are as we would have left them by chance.

    To be asked after the records were read: who comes later finds what we left there, and did not make it.
    """
    if terms.since is None:
        return
    ulps = participant.adapter.capabilities.float_ulps
    ours = []
    for piece, write in found.writes:
        entries = await terms.since(lock(participant.identity, write.entity, write.key))
        there = (entry for entry in entries if entry.state != "compensated")
        made = (change for entry in there for step in entry.steps for change in step.changes)
        if not any(_made(change, write, ulps) for change in made if place(change) == place(write)):
            ours.append((piece, write))
    found.writes = ours


def _made(change: Change, write: Change, ulps: int) -> bool:
    """Whether what `write` is about to replace may be what this change, of the same record, has made."""
    meets = any(overlaps(path, other) for path in change.written for other in write.written)
    return meets and same_image(write.before, change.after, change.written, ulps=ulps)


def place(change: Change) -> tuple[Entity, object]:
    """What tells the record of a change from all others of its store."""
    return change.entity, freeze(change.key)


async def _read(unit: Unit, pieces: Sequence[Piece]) -> dict[tuple[Entity, object], Image]:
    """The current images of all records that the pieces are about, locked where there are locks."""
    keys: dict[Entity, dict[object, Change]] = {}
    for piece in pieces:
        keys.setdefault(piece.change.entity, {})[freeze(piece.change.key)] = piece.change
    out: dict[tuple[Entity, object], Image] = {}
    for entity, changes in keys.items():
        info = await next(piece.origin for piece in pieces if piece.change.entity == entity).describe(entity)
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
    pairs = list(zip(found.writes, written, strict=False))
    lost = [piece for (piece, _), item in pairs if item.status is WriteStatus.UNKNOWN]
    for piece in lost:
        piece.known = False
    residue += _settled(found, [piece for (piece, _), item in pairs if item.applied])
    if lost:
        await anyio.sleep(settle)
    return residue


def _refused(found: _Round, written: Sequence[Written]) -> list[Residue]:
    """What the store refuses is residue; all else that was not applied is tried again."""
    residue = []
    for (piece, change), item in zip(found.writes, written, strict=False):
        if item.status is WriteStatus.REFUSED and not isinstance(item.error, TransientError):
            piece.settled = True
            detail = item.error.message if item.error else "refused"
            clash = Clash(None, change.after, change.before)
            residue.append(_residue(piece, clash, "constraint", detail))
    return residue


def _raise_transient(written: Sequence[Written]) -> None:
    for item in written:
        if isinstance(item.error, TransientError):
            raise item.error


def _residue(piece: Piece, clash: Clash, reason: Reason, detail: str) -> Residue:
    return Residue(
        step=piece.origin.name,
        tag=piece.origin.tag,
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


def kept(steps: Iterable[Done | CallMade]) -> list[Residue]:
    """The residue of steps whose commits, or calls, are kept on purpose."""
    residue = []
    for done in steps:
        if isinstance(done, CallMade):
            residue.append(call_left(done, "kept", ""))
            continue
        for change in done.changes:
            piece, clash = Piece(done.origin, change, known=True), Clash(None, change.after, change.after)
            residue.append(_residue(piece, clash, "kept", ""))
    return residue
