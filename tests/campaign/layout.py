"""What the stores of a round hold: records in groups, with one record of a group in each of its stores.

A transaction counts up `n` of a group's records in some of its stores, writes its key into `last`, and leaves a line
with its key in the ledger of each. Whoever bypasses the warehouse counts up `f`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

GROUPS = {f"{kind}{number}": kind for kind in "la" for number in range(12)}
STORES = {"postgres": "pg", "mariadb": "maria", "neo4j": "graph", "mongo": "doc"}
TAGS = {"l": ("pg", "maria", "graph"), "a": ("pg", "maria", "graph", "doc")}
PREPARING = frozenset({"pg", "maria"})


@dataclass(frozen=True)
class Layout:
    """The names of one round's entities."""

    records: str = field(default_factory=lambda: f"campaign{uuid4().hex[:10]}")

    @property
    def ledger(self) -> str:
        return f"{self.records}_ledger"

    def key(self, tag: str) -> str:
        return "_id" if tag == "doc" else "id"


def records_of(tag: str) -> list[str]:
    """The groups that have a record in this store."""
    return [group for group, kind in GROUPS.items() if tag in TAGS[kind]]
