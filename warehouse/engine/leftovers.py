"""What dead owners left prepared in the stores without a decision: rolled back, as presumed abort has it (5.3).

C. Mohan, B. Lindsay, R. Obermarck: Transaction Management in the R* Distributed Database Management System, 1986.
"""

from __future__ import annotations

import logging
from typing import Final

from warehouse.adapter import PreparedId
from warehouse.engine.lease import Lease
from warehouse.engine.watch import Watch
from warehouse.errors import StoreError, WarehouseError
from warehouse.registry import Participant, Registry

_log = logging.getLogger("warehouse")
_DECIDED: Final = frozenset({"committing", "completed"})
_UNDONE: Final = frozenset({"compensated", "failed"})


class Leftovers:
    """What was found prepared, by store, since the last `look`; what another journal decides is left alone."""

    def __init__(self, registry: Registry, lease: Lease) -> None:
        self._registry = registry
        self._lease = lease
        self._found: list[tuple[Participant, PreparedId]] = []

    @property
    def owners(self) -> set[str]:
        """Who prepared what was found."""
        return {prepared.owner for _, prepared in self._found}

    async def look(self, *, everywhere: bool) -> None:
        """List what is prepared; in stores that are not connected yet only if it is `everywhere`.

        Before the heartbeats are read: whoever prepared something had one before.
        """
        self._found.clear()
        seen = set()
        for tag in self._registry.tags:
            try:
                participant = self._registry.get(tag)
                if everywhere and not participant.connected:
                    await self._registry.connected(tag)
                if not participant.connected or participant.identity in seen:
                    continue
                seen.add(participant.identity)
                if participant.adapter.capabilities.prepares:
                    found = await participant.adapter.prepared()
                    mine = [item for item in found if item.journal == self._lease.journal.uid]
                    self._found += [(participant, item) for item in mine]
            except Exception as error:  # noqa: BLE001 - the store is away: it is looked at again
                _log.debug("%s cannot tell what is prepared: %s", tag, error)

    async def finish(self, watch: Watch) -> set[str]:
        """End what nobody alive will: as the journal has decided, or back, where nothing was.

        Returns the transactions of which something was rolled back.
        """
        out: set[str] = set()
        for participant, prepared in self._found:
            if not self._is_orphan(prepared, watch):
                continue
            try:
                commit = await self._verdict(prepared.transaction_id)
                if commit is not None:
                    await participant.adapter.finish(prepared, commit=commit)
                    out |= set() if commit else {prepared.transaction_id}
                    _log.info(
                        "transaction %s, whose owner is gone, was prepared in %s: %s",
                        prepared.transaction_id,
                        participant.tag,
                        "committed" if commit else "rolled back",
                    )
            except StoreError as error:
                _log.debug("%s does not end what is prepared: %s", participant.tag, error)
            except WarehouseError as error:
                _log.warning("what is prepared in %s cannot be ended yet: %s", participant.tag, error)
        return out

    def _is_orphan(self, prepared: PreparedId, watch: Watch) -> bool:
        if prepared.transaction_id in self._lease.active:
            return False
        return prepared.owner == self._lease.owner or watch.is_dead(prepared.owner)

    async def _verdict(self, transaction_id: str) -> bool | None:
        """Whether it is to be committed; None where that is for somebody else to do.

        A tombstone comes first: from then on it cannot be decided any more.
        """
        journal = self._lease.journal
        entry = await journal.entry(transaction_id)
        if entry is None:
            if not await journal.settle(transaction_id):
                return False
            entry = await journal.entry(transaction_id)
        if entry is None or entry.state in _UNDONE:
            return False
        return True if entry.state in _DECIDED else None
