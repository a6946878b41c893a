"""The transactions of a simulation: what each changes, and what its callers were told.

Each adds a bit of its own to a number in some records that all share; others it inserts or deletes, which nobody else
does: so the records say who has changed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warehouse.records import Entity, Image

ENTITY: Final = Entity("things")
# What all share; and from where on the numbers are of what a transaction inserts, or deletes.
RECORDS: Final = (1, 2, 3)
INSERTED: Final = 100
DELETED: Final = 200

Place = tuple[str, int]


@dataclass(slots=True)
class Attempt:
    """A transaction: its number, the records that it changes, and how.

    `left`: where its caller was told that it could not be undone; `away`: since a store could not be reached. One
    that is `keyed` is called more than once with the same idempotency key; `calls` is what each call was told
    (`dead`: nothing any more).
    """

    number: int
    places: tuple[Place, ...]
    pattern: str
    keyed: bool = False
    calls: list[str] = field(default_factory=list)
    left: frozenset[Place] = frozenset()
    away: bool = False

    @property
    def name(self) -> str:
        return f"t{self.number}"

    @property
    def bit(self) -> int:
        """What it adds; what it would have added twice is nobody's."""
        return 1 << 2 * self.number

    @property
    def told(self) -> str:
        """What its calls were told, taken together."""
        for word in ("completed", "failed", "unknown"):
            if word in self.calls:
                return word
        if "dead" in self.calls or not self.calls:
            return "dead" if len(self.calls) < 2 else "unknown"
        return self.calls[-1]

    def operations(self) -> list[dict[str, Any]]:
        """What it does, in the words of the public interface."""
        return [self._operation(tag, number) for tag, number in self.places]

    def _operation(self, tag: str, number: int) -> dict[str, Any]:
        source = {"tag": tag, "entity": ENTITY.name}
        if number >= DELETED:
            return {"operation": "delete", "from": source, "where": {"id": number}}
        if number >= INSERTED:
            return {"operation": "insert", "from": source, "data": {"id": number, "n": self.bit}}
        change = {"n": {"$increment": self.bit}}
        return {"operation": "update", "from": source, "where": {"id": number}, "data": change}

    def is_seen(self, number: int, record: Image) -> bool:
        """Whether it has taken effect in one of its records, as that is now."""
        if number >= INSERTED:
            return isinstance(record, Mapping) is (number < DELETED)
        return isinstance(record, Mapping) and bool(record["n"] & self.bit)


def own(number: int, record: int) -> int:
    """The record that transaction `number` has for itself in place of `record`: to insert, or to delete."""
    return record if record in RECORDS else record + number
