"""Who is dead: owners whose heartbeat has not changed for as long as they promised, by the clock of this process."""

from __future__ import annotations

import time
from collections.abc import Mapping

from warehouse.journal.base import Heartbeat

_LOOKS = 5  # so often is a lease looked at again, while it is not known whether its owner lives


class Watch:
    """What one observer has seen of the heartbeats. An owner without one has retired, and is as good as dead."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Heartbeat, float]] = {}
        self._alive: set[str] = set()
        self._dead: set[str] = set()

    def look(self, heartbeats: Mapping[str, Heartbeat]) -> None:
        """Take note of the heartbeats as they are now."""
        now = time.monotonic()
        known, self._seen = self._seen, {}
        self._alive &= heartbeats.keys()
        for owner, heartbeat in heartbeats.items():
            before = known.get(owner)
            if before is not None and before[0] == heartbeat:
                self._seen[owner] = before
            else:
                self._seen[owner] = (heartbeat, now)
                if before is not None:
                    self._alive.add(owner)
        self._dead = {
            owner for owner, (heartbeat, since) in self._seen.items() if now >= since + heartbeat.lease
        }

    def doubt(self) -> None:
        """Believe of nobody any more that it lives because it once did."""
        self._alive.clear()

    def is_dead(self, owner: str) -> bool:
        """Whether the owner may be taken over from, as of the last look: between two looks nobody dies."""
        return owner not in self._seen or owner in self._dead

    def is_judged(self, owner: str) -> bool:
        """Whether it was seen to live, or is known to be dead."""
        return owner in self._alive or self.is_dead(owner)

    def pause(self, owner: str) -> float:
        """Seconds after which to look at this owner again."""
        return self._seen[owner][0].lease / _LOOKS if owner in self._seen else 0.0
