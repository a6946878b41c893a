"""The lease of one open Warehouse: its heartbeat in the journal, and whether others may think it dead."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from typing import Final

from warehouse.engine.trailing import Trailing
from warehouse.errors import JournalUnavailable, WarehouseError
from warehouse.journal.base import FINAL, Claim, Journal, ReplyLost, Superseded

_log = logging.getLogger("warehouse")
# A heartbeat comes so many times a lease.
_BEATS: Final = 3


class Lease:
    """Who owns the transactions of this Warehouse, for as long as its heartbeat goes on.

    Others judge it by their own clocks: a heartbeat that has not changed for `seconds` is that of a dead owner.
    So this side counts from before its last heartbeat, and stops by itself when that is too long ago. `active` are
    the journaled transactions that something here is bringing to their end; `trailing` those of them that have come
    to it.
    """

    def __init__(self, journal: Journal, seconds: float) -> None:
        self.journal = journal
        self.seconds = seconds
        self.owner = uuid.uuid4().hex
        self.active: set[str] = set()
        self.trailing = Trailing(journal, self.active, self.is_ours)
        self._renewed = 0.0
        self._doubtful: set[str] = set()
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the heartbeat, and keep it going. Raises JournalUnavailable."""
        try:
            await self.renew()
        except ReplyLost as error:
            raise JournalUnavailable(error.message) from error
        self._beating = asyncio.ensure_future(self._beat())

    async def stop(self) -> None:
        """End the heartbeat: what still has no end may be taken over at once."""
        beating, self._beating = self._beating, None
        if beating is None:
            return
        await self.trailing.close()
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        with suppress(WarehouseError):
            await self.journal.retire(self.owner)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.seconds / _BEATS)
            try:
                await self.renew()
            except WarehouseError as error:
                _log.warning("the lease could not be renewed: %s", error)

    async def renew(self) -> None:
        """One heartbeat. Raises JournalUnavailable or ReplyLost."""
        began = time.monotonic()
        await self.journal.beat(self.owner, self.seconds)
        if not self.is_valid:  # it ran out before the heartbeat was there
            self._doubtful |= self.active
        self._doubtful &= self.active
        self._renewed = began

    @property
    def is_valid(self) -> bool:
        """Whether nobody can think yet that this owner is dead."""
        return time.monotonic() < self._renewed + self.seconds

    def is_ours(self, claim: Claim) -> bool:
        """Whether nobody can have taken it over: the lease has not run out, nor had it before it was renewed."""
        return self.is_valid and claim.transaction_id not in self._doubtful

    async def keep(self, claim: Claim) -> Claim:
        """`claim`; or, where the lease ran out meanwhile, the new claim on what nobody else took over.

        Called before every effect of a journaled transaction. Raises Superseded where somebody did, and what
        the journal raises.
        """
        if self.is_ours(claim):
            return claim
        await self.renew()
        renewed: Claim | None = None
        with suppress(ReplyLost):
            renewed = await self.journal.take_over(claim, self.owner)
        if renewed is None:
            renewed = await self._taken(claim)
        if renewed is None:
            raise Superseded(f"transaction {claim.transaction_id} was taken over")
        self._doubtful.discard(claim.transaction_id)
        return renewed

    async def _taken(self, claim: Claim) -> Claim | None:
        """Our new claim, where a take-over got no reply, then or before; None where others were faster.

        Raises ReplyLost while it may still arrive, and JournalUnavailable.
        """
        entry = await self.journal.entry(claim.transaction_id)
        if entry is None or entry.state in FINAL:
            return None
        if entry.epoch == claim.epoch:
            raise ReplyLost("the journal did not confirm a take-over")
        return entry.claim if entry.owner == self.owner else None
