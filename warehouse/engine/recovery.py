"""Recovery (DESIGN 6): whoever finds the owner of an open transaction dead takes it over, and ends it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import anyio

from warehouse.actions import Actions
from warehouse.engine.ending import Ending
from warehouse.engine.lease import Lease
from warehouse.engine.leftovers import Leftovers
from warehouse.engine.retry import back_off
from warehouse.engine.watch import Watch
from warehouse.errors import WarehouseError
from warehouse.journal.base import Claim, Superseded
from warehouse.registry import Registry
from warehouse.results import Recovered

_log = logging.getLogger("warehouse")
# So many transactions are ended at the same time.
_AT_ONCE = 8
# What could not be ended is tried again after so many seconds: a multiple of the usual back-off.
_PATIENCE = 10


@dataclass(frozen=True, slots=True)
class _Later:
    """When a transaction is tried again that could not be ended, and why it could not."""

    tries: int
    due: float
    text: str


class _UnderWay:
    """A transaction that is being ended now, for whoever else waits for it."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.ended: Recovered | None = None

    async def wait(self) -> Recovered | None:
        await self.over.wait()
        return self.ended


class Recovery:
    """Looks for transactions whose owners are dead. Any number of processes may do so at the same time."""

    def __init__(
        self, registry: Registry, lease: Lease, actions: Actions, *, grace: float, lock_timeout: float
    ) -> None:
        self._registry = registry
        self._actions = actions
        self._lease = lease
        self._grace = grace
        self._lock_timeout = lock_timeout
        self._watch = Watch()
        self._leftovers = Leftovers(registry, lease)
        self._later: dict[str, _Later] = {}
        self._under_way: dict[str, _UnderWay] = {}

    async def run(self) -> None:
        """Look again and again, for as long as the Warehouse is open."""
        while True:
            pause = self._lease.seconds
            try:
                await self._sweep()
                pause = min([pause, *map(self._watch.pause, await self._unjudged())])
            except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
                _log.warning(
                    "recovery could not look for transactions: %s", error, exc_info=_unforeseen(error)
                )
            await anyio.sleep(pause)

    async def recover(self) -> list[Recovered]:
        """End what dead owners left open; takes as long as it takes to tell who is dead (one lease).

        What could not be ended (a store is away) has the status None, and why. Raises JournalUnavailable.
        """
        found: dict[str, Recovered] = {}
        first, judged = True, False
        self._watch.doubt()
        while True:
            ended = await self._sweep(every=not found, connect=first)
            others = [await other.wait() for other in list(self._under_way.values())]
            found.update({item.transaction_id: item for item in (*ended, *others) if item is not None})
            if judged:
                return list(found.values())
            waiting, first = await self._unjudged(), False
            judged = not waiting  # then once more, for who was judged since
            if waiting:
                await anyio.sleep(min(map(self._watch.pause, waiting)))

    async def _unjudged(self) -> set[str]:
        """The owners of open transactions of whom it is not known yet whether they live."""
        owners = {*(await self._lease.journal.claims()).values(), *self._leftovers.owners}
        owners.discard(self._lease.owner)
        return {owner for owner in owners if not self._watch.is_judged(owner)}

    async def _sweep(self, *, every: bool = False, connect: bool = False) -> list[Recovered]:
        """End what is known to belong to nobody; with `every`, also what was tried a short while ago.

        `connect`: look for what was left prepared in stores that were not used yet, too.
        """
        journal = self._lease.journal
        claims = await journal.claims()  # before the heartbeats: whoever has a claim had a heartbeat before
        await self._leftovers.look(everywhere=connect)
        heartbeats = await journal.heartbeats()
        self._watch.look(heartbeats)
        orphans = [claim for claim, owner in claims.items() if self._is_orphan(claim, owner)]
        names = {claim.transaction_id for claim in orphans}
        self._later = {name: later for name, later in self._later.items() if name in names}
        out: list[Recovered] = []
        limit = anyio.CapacityLimiter(_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for claim in orphans:
                if every or self._is_due(claim):
                    tasks.start_soon(self._end, claim, limit, out)
        rolled_back = await self._leftovers.finish(self._watch) - {item.transaction_id for item in out}
        out += [Recovered(transaction_id=name, status="compensated") for name in sorted(rolled_back)]
        needed = {*claims.values(), *self._leftovers.owners}
        for owner, heartbeat in heartbeats.items():
            if self._watch.is_dead(owner) and owner not in needed:
                await journal.retire(owner, heartbeat)
        return out

    def _is_orphan(self, claim: Claim, owner: str) -> bool:
        if claim.transaction_id in self._lease.active:
            return False
        return owner == self._lease.owner or self._watch.is_dead(owner)

    def _is_due(self, claim: Claim) -> bool:
        later = self._later.get(claim.transaction_id)
        return later is None or time.monotonic() >= later.due

    async def _end(self, claim: Claim, limit: anyio.CapacityLimiter, out: list[Recovered]) -> None:
        active, name = self._lease.active, claim.transaction_id
        async with limit:
            if name in active:
                return
            active.add(name)
            under_way = self._under_way[name] = _UnderWay()
            try:
                under_way.ended = await self._take_over(claim)
            finally:
                active.discard(name)
                del self._under_way[name]
                under_way.over.set()
        if under_way.ended is not None:
            out.append(under_way.ended)

    async def _take_over(self, claim: Claim) -> Recovered | None:
        """Take a transaction over and end it; None where somebody else was faster."""
        journal = self._lease.journal
        try:
            mine = await journal.take_over(claim, self._lease.owner)
            entry = None if mine is None else await journal.entry(claim.transaction_id)
            if entry is None:
                return None
            ending = Ending(
                self._registry,
                self._actions,
                journal,
                entry,
                grace=self._grace,
                lock_timeout=self._lock_timeout,
            )
            ended = await ending.run()
        except Superseded:
            return None
        except Exception as error:  # noqa: BLE001 - a mistake in one adapter must not keep the others from their end
            return self._not_yet(claim, error)
        _log.info("transaction %s, whose owner is gone, was %s", claim.transaction_id, ended.status)
        return ended

    def _not_yet(self, claim: Claim, error: Exception) -> Recovered:
        before, text = self._later.get(claim.transaction_id), str(error)
        tries = 1 if before is None else before.tries + 1
        self._later[claim.transaction_id] = _Later(
            tries, time.monotonic() + _PATIENCE * back_off(tries), text
        )
        news = before is None or before.text != text
        _log.log(
            logging.WARNING if news else logging.DEBUG,
            "transaction %s cannot be ended yet: %s",
            claim.transaction_id,
            text,
            exc_info=_unforeseen(error),
        )
        return Recovered(transaction_id=claim.transaction_id, status=None, error=text)


def _unforeseen(error: Exception) -> bool:
    """Whether it is a mistake in the code, whose traceback is wanted."""
    return not isinstance(error, WarehouseError)
