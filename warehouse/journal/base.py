"""The journal's contract: what every journal keeps, and what each of its writes promises."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from warehouse.actions import Called
from warehouse.errors import TransactionConflict, WarehouseError
from warehouse.journal.codec import encode_head, encode_pairs
from warehouse.journal.rows import pack
from warehouse.records import Change, Entity, Key
from warehouse.results import Pattern, State

FINAL: frozenset[State] = frozenset({"completed", "compensated", "failed"})
PRUNED: frozenset[State] = frozenset({"completed", "compensated"})
Lock: TypeAlias = bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryStep:
    """One step as it is journaled: where it was made, and its changes, also as bytes (`body`).

    `index` is its place in the order of execution, `store` the store's identity, `priority` its
    `compensation_priority`. A step that `called` an action changed no store.
    """

    index: int
    name: str
    tag: str
    store: str
    changes: tuple[Change, ...]
    priority: int = 0
    called: Called | None = None
    body: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", pack(self.changes, self.called))

    @property
    def entities(self) -> frozenset[Entity]:
        return frozenset(change.entity for change in self.changes)

    def without(self, record: Lock) -> EntryStep:
        """The step with nothing of one record."""
        left = tuple(item for item in self.changes if lock(self.store, item.entity, item.key) != record)
        return replace(self, changes=left)

    def moved(self, index: int) -> EntryStep:
        """The same step at another place; as `replace`, but its changes are not packed again."""
        out = copy(self)
        object.__setattr__(out, "index", index)
        return out

    def locks(self) -> dict[Lock, tuple[Entity, Key]]:
        """The locks of its changes, each with what it stands for."""
        return locks(self.store, self.changes)


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose a transaction is. Every write about it names its epoch, which each take-over raises by one."""

    transaction_id: str
    epoch: int = 1


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What lets a repeated call be known: its key, what it is to do, and until when (as `time.time`) that is kept."""

    key: str
    fingerprint: bytes
    expires: float


@dataclass(frozen=True, slots=True)
class Keyed:
    """The transaction that a key belongs to."""

    transaction_id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """That an owner has shown that it lives, and within how many seconds it does so again.

    `mark` is another one each time, also when somebody has removed the one before: who has seen that would take
    an owner that came back for dead.
    """

    mark: int
    lease: float

    @classmethod
    def new(cls, lease: float) -> Heartbeat:
        """One with a mark (of 52 bits) of its own."""
        return cls(uuid.uuid4().int >> 76, lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A transaction as it is journaled. `tokens` are the held participants' outcome tokens, by store.

    `owner` brings it to its end, unless its heartbeat stops: then whoever takes it over, raising `epoch`.
    `started`, `finished`, and `expires` (of one that is held, under its name) are seconds since 1970, by the clock
    of the process that wrote them.
    """

    transaction_id: str
    name: str | None
    pattern: Pattern
    state: State
    steps: tuple[EntryStep, ...] = ()
    tokens: dict[str, str] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    owner: str = ""
    epoch: int = 1
    idempotency: Idempotency | None = field(default=None, compare=False)
    expires: float | None = None
    started: float = field(default_factory=time.time, compare=False)
    finished: float | None = field(default=None, compare=False)

    @property
    def claim(self) -> Claim:
        return Claim(self.transaction_id, self.epoch)

    @property
    def prepared(self) -> frozenset[str]:
        """The stores in which its units were prepared."""
        return frozenset(self.detail.get("prepared", ()))

    @property
    def prepared_by(self) -> str:
        """Under whose name its units were prepared: that of its first owner."""
        return str(self.detail.get("prepared_by", self.owner))

    def made(self) -> list[tuple[EntryStep, tuple[Change, ...]]]:
        """What was made, or may have been, by step. Where the journal says how many of a step's changes: those."""
        counts = self.detail.get("made")
        return [
            (step, step.changes[: None if counts is None else counts.get(str(step.index), 0)])
            for step in self.steps
        ]

    def locks(self) -> list[Lock]:
        return list({item: None for step in self.steps for item in step.locks()})


class ReplyLost(WarehouseError):
    """A journal write got no reply: it may have been made, or may still be. Settle it by a tombstone."""


class Superseded(WarehouseError):
    """A write was refused: another process has taken the transaction over, and brings it to its end."""


class KeyTaken(WarehouseError):
    """Another transaction has the idempotency key, or is held under the name."""


def name_key(name: str) -> str:
    """Under which key the name of a held transaction is taken."""
    return f"\x01held:{name}"


class RecordLocked(TransactionConflict):
    """A record is locked by another transaction, or was changed by one that finished since it was read.

    The message names the transaction (`holder`); `lock` is the lock in question.
    """

    def __init__(self, holder: str | None, lock: Lock) -> None:
        super().__init__(f"transaction {holder}" if holder else "another transaction, which was faster")
        self.holder = holder
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
    digest = _begun(store, entity).copy()
    digest.update(encode_pairs(key))
    return digest.digest()


@lru_cache(maxsize=256)
def _begun(store: str, entity: Entity) -> hashlib.blake2b:
    return hashlib.blake2b(encode_head((store, entity.kind, entity.name)), digest_size=16)


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

    @property
    def uid(self) -> str:
        """What tells it from all other journals, for as long as it exists: 16 hexadecimal digits. Known once open."""
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

    async def touched(self, since: int) -> frozenset[tuple[str, Entity]]:
        """The entities, by store, that transactions changed which finished after `since`."""
        ...

    async def unfinished(
        self, store: str, entity: Entity, ignoring: Collection[str] = frozenset()
    ) -> list[Change]:
        """What open transactions changed in an entity, in the order of the transactions and their steps.

        Without those of the ids `ignoring`.
        """
        ...

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        """Which of `locks` a transaction has now, read freshly; None if all are free."""
        ...

    async def decide(
        self,
        entry: Entry,
        since: int,
        *,
        carried: Sequence[Claim] = (),
        seen: Collection[str] = frozenset(),
    ) -> None:
        """Record a transaction, its changes and its locks; one that is `held` has its name for itself.

        In the same write, before that, `complete` what is `carried`. Raises RecordLocked if a lock is taken, or if
        another transaction that had one of the locks finished after `since`, but for those `seen` (its reads saw
        what they did); KeyTaken (the key or the name); ReplyLost if it cannot be told whether it was recorded.
        """
        ...

    async def keyed(self, key: str) -> Keyed | None:
        """Whose an idempotency key is, read freshly: a transaction's that is open or has completed."""
        ...

    async def held(self, name: str) -> str | None:
        """Which transaction is held under this name, read freshly."""
        ...

    async def latest(self, name: str) -> Entry | None:
        """The last transaction of this name that has ended, without its steps."""
        ...

    async def append(
        self,
        claim: Claim,
        steps: Sequence[EntryStep],
        since: int,
        tokens: dict[str, str],
        change: tuple[State, dict[str, Any]] | None = None,
        *,
        seen: Collection[str] = frozenset(),
    ) -> None:
        """Add steps to an open transaction, with their locks, or replace the steps of their indexes.

        `change`: what `change_state` would take, in the same write. Raises as `decide` (`since`, `seen`), and
        Superseded.
        """
        ...

    async def settle(self, transaction_id: str) -> bool:
        """After ReplyLost of `decide`: true if it was recorded. If not, it never can be from now on."""
        ...

    async def change_state(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        """Note a change of state that is not final. Raises Superseded."""
        ...

    async def finish(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        """Record the outcome and release the locks, the name, and the key unless it completed. Raises Superseded."""
        ...

    async def complete(self, claims: Sequence[Claim]) -> None:
        """Finish all of these as completed, in one write; what is not ours any more has its end already."""
        ...

    async def take_over(
        self, claim: Claim, owner: str, change: tuple[State, dict[str, Any]] | None = None
    ) -> Claim | None:
        """Make an open transaction `owner`'s, if it is still as `claim` says; the new claim, or None.

        `change`: the state that it is in from then on, with what `change_state` takes; it must have been `held`.
        """
        ...

    async def is_mine(self, claim: Claim) -> bool:
        """Whether the transaction is open and still as `claim` says, read freshly."""
        ...

    async def entry(self, transaction_id: str) -> Entry | None:
        """One transaction with its steps."""
        ...

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        """The transactions (in these states), oldest first, with their steps."""
        ...

    async def recent(self, states: Iterable[State] | None, limit: int) -> list[Entry]:
        """The last transactions (in these states), newest first, without their steps."""
        ...

    async def of_record(self, lock: Lock, limit: int) -> list[Entry]:
        """The last transactions that changed a record, newest first, with their steps."""
        ...

    async def since(self, lock: Lock, transaction_id: str) -> list[Entry]:
        """Who has a record, or finished with it after this transaction had finished, with their steps.

        In no order; nobody while this transaction is open.
        """
        ...

    async def note(self, entries: Sequence[Entry]) -> None:
        """Record transactions that have ended without the journal, for their history."""
        ...

    async def resolve(self, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
        """Give a `failed` transaction another end; false where it is not failed (any more)."""
        ...

    async def forget(self, lock: Lock) -> tuple[int, list[str]]:
        """Erase what ended transactions keep of one record: of how many, and which keep theirs.

        Those are open or `failed`, and need it to come to their end.
        """
        ...

    async def claims(self) -> dict[Claim, str]:
        """Every open transaction, oldest first, with its owner; of those that are held only what has expired."""
        ...

    async def beat(self, owner: str, lease: float) -> None:
        """Show that `owner` lives, as it will again within `lease` seconds."""
        ...

    async def heartbeats(self) -> dict[str, Heartbeat]:
        """The heartbeat of every owner that has not retired."""
        ...

    async def retire(self, owner: str, seen: Heartbeat | None = None) -> None:
        """Remove the heartbeat of who closes; or of who was found dead, and has not come back since it was `seen`."""
        ...

    async def prune(self, *, finished: float, images: float) -> None:
        """Remove what ended before `finished`, and the images of what ended before `images` (as `time.time`).

        In small writes, so that no other write waits long. What is open, or `failed`, keeps everything.
        """
        ...
