"""Transactions that have completed, and whose end is not in the journal yet (DESIGN 5.1).

Where every held participant can be asked later whether it committed, nothing is lost if the process dies before the
end is journaled: whoever recovers asks, and finds the same. So the caller hears `completed` at once; the next decide
of this process carries the end along, or a write of its own shortly after. Until then this process does not take
what is still locked for locked, nor what is still open for open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio

from warehouse.engine.retry import back_off
from warehouse.errors import JournalUnavailable, WarehouseError
from warehouse.journal.base import FINAL, Claim, Entry, Journal, Lock, RecordLocked, ReplyLost
from warehouse.records import Change, Entity

_log = logging.getLogger("warehouse")
# An end waits so many seconds for a decide that takes it along.
_WAIT: Final = 0.01
# So many go along with one decide.
_MOST: Final = 50
Place: TypeAlias = tuple[str, Entity]


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was read: what had finished (the last number), and what had completed without being finished."""

    number: int = 0
    completed: frozenset[str] = frozenset()


class Trailing:
    """What of one Warehouse has completed, by id; and the journal's questions, answered with that in mind."""

    def __init__(self, journal: Journal, active: set[str], is_ours: Callable[[Claim], bool]) -> None:
        """`active` are the transactions that no recovery here takes over; what trails is among them.

        `is_ours` tells whether nobody can have taken a transaction over yet.
        """
        self.journal = journal
        self._active = active
        self._is_ours = is_ours
        self._claims: dict[str, Claim] = {}
        self._places: dict[str, frozenset[Place]] = {}
        self._writing = anyio.Lock()
        self._flushing: asyncio.Task[None] | None = None

    def __contains__(self, transaction_id: str) -> bool:
        return transaction_id in self._claims

    def add(self, claim: Claim, places: Iterable[Place]) -> None:
        """Have the end of a transaction journaled, which has changed something in `places`."""
        self._claims[claim.transaction_id] = claim
        self._places[claim.transaction_id] = frozenset(places)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush_later())

    async def moment(self) -> Moment:
        """What has ended by now: read it before staging."""
        completed = frozenset(self._claims)
        return Moment(await self.journal.sequence(), completed)

    async def touched(self, since: Moment) -> frozenset[Place]:
        """What transactions changed that ended after `since`."""
        new = self._places.keys() - since.completed
        here = [place for name in new for place in self._places[name]]
        return await self.journal.touched(since.number) | frozenset(here)

    async def unfinished(self, store: str, entity: Entity) -> list[Change]:
        """See `Journal.unfinished`."""
        return await self.journal.unfinished(store, entity, frozenset(self._claims))

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        """See `Journal.locked`. What has completed here and has one of them is ended in the journal first.

        For a commit without the journal: who reads meanwhile shows such a record as before until then, and beside
        what is committed on top of it that would be half. Raises JournalUnavailable.
        """
        conflict = await self.journal.locked(locks)
        if conflict is None or conflict.holder not in self._claims:
            return conflict
        try:
            await self.flush()
        except ReplyLost as error:
            raise JournalUnavailable(error.message) from error
        return await self.journal.locked(locks)

    async def decide(self, entry: Entry, since: Moment) -> None:
        """See `Journal.decide`; with the ends of what has completed."""
        try:
            await self._decide(entry, since)
        except RecordLocked as conflict:
            if conflict.holder is None or conflict.holder not in self:
                raise
            await self.flush()
            await self._decide(entry, since)

    async def _decide(self, entry: Entry, since: Moment) -> None:
        if not self._claims or self._writing.locked():
            await self.journal.decide(entry, since.number, seen=since.completed)
            return
        async with self._writing:
            carried = list(self._claims.values())[:_MOST]
            await self.journal.decide(entry, since.number, carried=carried, seen=since.completed)
            self._drop([claim for claim in carried if self._is_ours(claim)])

    async def flush(self) -> bool:
        """Have every end in the journal before this returns, but what others took over: false if that has none yet.

        Raises what the journal raises.
        """
        async with self._writing:
            claims = list(self._claims.values())
            if not claims:
                return True
            await self.journal.complete(claims)
            ended = [claim for claim in claims if self._is_ours(claim) or await self._has_ended(claim)]
            self._drop(ended)
            return len(ended) == len(claims)

    async def _has_ended(self, claim: Claim) -> bool:
        entry = await self.journal.entry(claim.transaction_id)
        return entry is None or entry.state in FINAL

    def _drop(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            del self._claims[claim.transaction_id], self._places[claim.transaction_id]
            self._active.discard(claim.transaction_id)

    async def _flush_later(self) -> None:
        tries = 0
        while self._claims:
            await anyio.sleep(_WAIT if tries == 0 else back_off(tries))
            try:
                tries = 0 if await self.flush() else tries + 1
            except WarehouseError as error:
                tries += 1
                _log.warning("%d ends could not be journaled yet: %s", len(self._claims), error)

    async def close(self) -> None:
        """Journal what is left, if the journal lets us; otherwise whoever recovers it does."""
        try:
            await self.flush()
        except WarehouseError as error:
            _log.warning("%d ends are left to recovery: %s", len(self._claims), error)
        self._drop(list(self._claims.values()))
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            flushing.cancel()
            await asyncio.wait({flushing})
