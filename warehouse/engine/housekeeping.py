"""Keeping the journal small: what ended long ago is removed, while the Warehouse is open."""

from __future__ import annotations

import logging
import time
from typing import Final

import anyio

from warehouse.config import JournalSettings
from warehouse.engine.lease import Lease
from warehouse.errors import WarehouseError

_log = logging.getLogger("warehouse")
# So many times within a retention time, but neither more nor less often than so many seconds.
_TIMES: Final = 10
_OFTEN: Final = 1.0
_SELDOM: Final = 3600.0


class Housekeeping:
    """Removes finished transactions after `retention`, and their images after `image_retention`."""

    def __init__(self, lease: Lease, settings: JournalSettings) -> None:
        self._lease = lease
        self._settings = settings

    async def run(self) -> None:
        """Prune now and then, for as long as the Warehouse is open."""
        shortest = min(self._settings.retention, self._settings.image_retention)
        pause = min(max(shortest / _TIMES, _OFTEN), _SELDOM)
        while True:
            await anyio.sleep(pause)
            try:
                await self.prune()
            except WarehouseError as error:
                _log.warning("the journal could not be pruned: %s", error)

    async def prune(self) -> None:
        """Remove what is too old. Raises what the journal raises."""
        now = time.time()
        await self._lease.journal.prune(
            finished=now - self._settings.retention, images=now - self._settings.image_retention
        )
