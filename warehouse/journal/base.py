"""The journal's contract: what every journal keeps, and what each of its writes promises."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from warehouse.errors import TransactionConflict, WarehouseError
from warehouse.journal.codec import encode
from warehouse.journal.rows import pack
from warehouse.records import Change, Entity, Key
from warehouse.results import Pattern

State: TypeAlias = Literal["committing", "running", "compensating", "completed", "compensated", "failed"]
FINAL: frozenset[State] = frozenset({"completed", "compensated", "failed"})
Lock: TypeAlias = bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryStep:
    """One step as it is journaled: where it was made, and its changes, also as bytes (`body`).

    `store` is the store's identity.
    """

    index: int
    name: str
    tag: str
    store: str
    changes: tuple[Change, ...]
    body: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", pack(self.changes))

    def locks(self) -> dict[Lock, tuple[Entity, Key]]:
        """The locks of its changes, each with what it stands for."""
        return locks(self.store, self.changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A transaction as it is journaled. `tokens` are the held participants' outcome tokens, by store."""

    transaction_id: str
    name: str | None
    pattern: Pattern
    state: State
    steps: tuple[EntryStep, ...] = ()
    tokens: dict[str, str] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)

    def locks(self) -> list[Lock]:
        return list({item: None for step in self.steps for item in step.locks()})


class ReplyLost(WarehouseError):
    """A journal write got no reply: it may have been made, or may still be. Settle it by a tombstone."""


class RecordLocked(TransactionConflict):
    """A record is locked by another transaction, or was changed by one that finished since it was read.

    The message names the transaction; `lock` is the lock in question.
    """

    def __init__(self, holder: str | None, lock: Lock) -> None:
        super().__init__(f"transaction {holder}" if holder else "another transaction, which was faster")
        self.lock = lock


def locks(store: str, changes: Iterable[Change]) -> dict[Lock, tuple[Entity, Key]]:
    """One lock a record, and one a unique value that was claimed, each with what it stands for."""
    return {
        lock(store, change.entity, key): (change.entity, key)
        for change in changes
        for key in (change.key, *change.claims)
    }


def lock(store: str, entity: Entity, key: Key) -> Lock:
    """What stands for one record (or one unique value) in the journal: 16 bytes, equal for equal keys."""
    content = encode([store, entity.kind, entity.name, [[name, key[name]] for name in sorted(key)]])
    return hashlib.blake2b(content, digest_size=16).digest()


class Journal(Protocol):
    """Every write is one durable write: all of it or none, and there before the call returns.

    All writes raise JournalUnavailable where they certainly were not and will not be made.
    """

    @property
    def description(self) -> str:
        """For people: what it is and where, without secrets."""
        ...

    @property
    def identity(self) -> str | None:
        """The identity of a participant that would be the same file as the journal; None if none can be."""
        ...

    async def open(self) -> None:
        """Connect, and create or check the schema. Raises JournalUnavailable or ConfigError."""
        ...

    async def close(self) -> None:
        """Give everything back; never raises."""
        ...

    async def sequence(self) -> int:
        """The number of the last transaction that finished. Read it before staging, for `decide`'s check."""
        ...

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        """Which of `locks` a transaction has now, read freshly; None if all are free."""
        ...

    async def decide(self, entry: Entry, since: int) -> None:
        """Record a transaction, its changes and its locks.

        Raises RecordLocked if a lock is taken, or if another transaction that had one of the locks finished
        after `since`; ReplyLost if it cannot be told whether it was recorded.
        """
        ...

    async def append(self, transaction_id: str, step: EntryStep, since: int, tokens: dict[str, str]) -> None:
        """Add a step to a running transaction, with its locks, or replace the step of its index.

        Raises as `decide`.
        """
        ...

    async def settle(self, transaction_id: str) -> bool:
        """After ReplyLost of `decide`: true if it was recorded. If not, it never can be from now on."""
        ...

    async def change_state(self, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
        """Note a change of state that is not final."""
        ...

    async def finish(self, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
        """Record the outcome and release the locks."""
        ...

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        """The transactions (in these states), oldest first, with their steps."""
        ...
