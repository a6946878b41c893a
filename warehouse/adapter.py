"""The adapter contract: what one kind of store must offer so that the engine can make transactions of it.

An adapter is a mechanism. It executes, reads, writes and reports; whether to commit, retry, wait or undo is
decided by the engine. It raises only the store errors of `warehouse.errors` (`ConstraintViolated`,
`StoreContention`, `StoreUnavailable`, `StoreOutcomeUnknown`, `StoreError`), with the driver's exception as
`__cause__`, from one table that maps the driver's errors to them; and `InvalidOperation` or a subclass of it
(from `describe`, `check`) for what the caller got wrong.

All methods may be cancelled at any await. A unit whose call was cancelled or failed is only ever rolled back
afterwards: `rollback` must then succeed, by closing the connection if need be. A unit may be opened, used and
closed by different tasks, one after another: keep no task group or cancel scope open between two calls.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from warehouse import conditions, updates
from warehouse.conditions import EVERYTHING, Condition
from warehouse.config import AdapterSettings, EntityConfig
from warehouse.errors import StoreError
from warehouse.operations import AdapterType
from warehouse.records import Change, Entity, Image, Key, Record
from warehouse.updates import Assignment

Guards: TypeAlias = Literal["full", "partial", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do: declared, or asked at connect, never guessed.

    * `store`, `version`: for people, as `PostgreSQL`, `15.18`.
    * `identity`: the same for two tags exactly if they reach the same database of the same store.
    * `holds`: it has transactions; a unit is one open transaction until commit.
    * `prepares`: it can prepare a transaction and finish it later, from any connection.
    * `asks`: `outcome(token)` can tell later whether a unit committed.
    * `guards`: how far a write can be conditioned on the before image. `full`: on every field.
    * `settle`: seconds after which no write of ours can still arrive (stores without a clock of their own).
    * `together`: several steps can be executed in one round trip.
    * `savepoints`: a step may fail inside a unit without ending it.
    * `operations`, `conditions`, `updates`: what it executes; anything else is refused before it runs.
    * `relationships`: it has entities of kind `relationship`.
    * `float_ulps`: doubles come back within so many units in the last place.
    """

    store: str
    version: str
    identity: str
    holds: bool
    prepares: bool = False
    asks: bool = False
    guards: Guards = "full"
    settle: float = 0.0
    together: bool = False
    savepoints: bool = False
    operations: frozenset[str] = frozenset({"insert", "update", "upsert", "delete"})
    conditions: frozenset[str] = conditions.OPERATORS
    updates: frozenset[str] = updates.OPERATORS
    relationships: bool = False
    float_ulps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityInfo:
    """What is known of one entity.

    * `key`: the paths that identify a record; empty where nothing does.
    * `fields`: the top-level fields; None where records may have any.
    * `required`: fields an insert must give.
    * `generated`: fields that the store fills in and that cannot be written.
    * `unique`: the unique constraints besides the key, each as its fields.
    """

    entity: Entity
    key: tuple[str, ...]
    fields: frozenset[str] | None = None
    required: frozenset[str] = frozenset()
    generated: frozenset[str] = frozenset()
    unique: tuple[tuple[str, ...], ...] = ()
    config: EntityConfig = field(default_factory=EntityConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One operation, parsed, with its references resolved: what a unit executes.

    `records` are those of an insert or upsert; `where` and `assignments` those of an update; `where` of a
    delete. Values are plain Python values, unwrapped. For relationships each record is
    `{"start": {"entity": ..., "where": ...}, "end": {...}, "properties": {...}}`.
    """

    step: str
    operation: Literal["insert", "update", "upsert", "delete"]
    info: EntityInfo
    records: tuple[Record, ...] = ()
    where: Condition = EVERYTHING
    assignments: tuple[Assignment, ...] = ()
    conflict_keys: tuple[str, ...] = ()
    update_fields: tuple[str, ...] | None = None
    detach: bool = True

    @property
    def entity(self) -> Entity:
        return self.info.entity


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A read. `order_by` names fields, `-` before one descends; nulls come first either way.

    `near` is `{"vector": ..., "using": name or None, "limit": n}` (vector stores only).
    """

    info: EntityInfo
    where: Condition = EVERYTHING
    order_by: tuple[str, ...] = ()
    limit: int | None = None
    offset: int = 0
    near: Mapping[str, Any] | None = None
    lock: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChanges:
    """What a step did: its changes in order, and how many records it matched (changed or not).

    An update that leaves a record as it was still lists it, with equal images.
    """

    changes: tuple[Change, ...]
    affected: int


class WriteStatus(enum.Enum):
    """How a guarded write ended."""

    APPLIED = "applied"
    CONFLICT = "conflict"  # its guard failed: it was never made
    REFUSED = "refused"  # the store said no (a constraint): it was never made
    UNKNOWN = "unknown"  # no reply: it may have been made


@dataclass(frozen=True, slots=True)
class Written:
    """The end of one guarded write, with the store's error where there is one."""

    status: WriteStatus
    error: StoreError | None = None

    @property
    def applied(self) -> bool:
        return self.status is WriteStatus.APPLIED


def first_failed(written: Iterable[Written]) -> Written | None:
    """The first of these that was not applied; None where all were."""
    return next((item for item in written if not item.applied), None)


class Outcome(enum.Enum):
    """What a store says of a unit that it was asked for."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    OPEN = "open"  # it may still do either
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class PreparedId:
    """What a prepared unit is known by: the transaction, who opened it, and the journal in which it is decided.

    The first two are 32 hexadecimal digits, the journal's `uid` is 16: what another journal decides is never
    touched. A store that shares one name space with other databases of its server adds what tells them apart.
    """

    journal: str
    owner: str
    transaction_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """How a unit is to be run: the transaction it is for, and how long (seconds) it may wait for a lock.

    `prepare_as`: it will be prepared, under this id (only where `prepares`).
    """

    transaction_id: str
    lock_timeout: float = 10.0
    prepare_as: PreparedId | None = None


class Adapter(Protocol):
    """One configured store. Made from its configuration without I/O; then `connect` once, `close` once.

    `Settings` is the model of its part of the configuration.
    """

    Settings: ClassVar[type[AdapterSettings]]

    def __init__(self, settings: Any) -> None: ...

    @property
    def type(self) -> AdapterType: ...

    @property
    def capabilities(self) -> Capabilities:
        """Known once connected; RuntimeError before."""
        ...

    async def connect(self) -> None:
        """Open the pool and find out what the store can do. Raises StoreUnavailable or ConfigError."""
        ...

    async def close(self) -> None:
        """Give everything back. Never raises; may be called without `connect`."""
        ...

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:
        """What is known of `entity`: cached; `fresh` asks the store again.

        Raises UnknownEntity where the store has a fixed set of entities and this is none of them.
        """
        ...

    def check(self, request: Request) -> None:
        """Refuse, before any store is touched, what this store cannot hold or do.

        Called once a step without references, after the engine has checked operators and fields; pure,
        no I/O. Raises InvalidOperation naming the field.
        """
        ...

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Unit]:
        """A unit of work. Leaving the context rolls back what was not committed or prepared, and never raises."""
        ...

    async def find(self, query: Query) -> list[Record]:
        """The records that match, as images, as the store has them committed now. One round trip."""
        ...

    async def outcome(self, token: str) -> Outcome:
        """Whether the unit with this token committed (only where `asks`)."""
        ...

    async def prepared(self) -> list[PreparedId]:
        """What is prepared in this database by units of ours, of whichever process (only where `prepares`)."""
        ...

    async def finish(self, prepared: PreparedId, *, commit: bool) -> None:
        """Commit a prepared unit, or roll it back, from any connection (only where `prepares`).

        Raises StoreError where the store does not know it (now): who wants to know more lists again.
        """
        ...


class Unit(Protocol):
    """One unit of work. In a store with transactions (`holds`): one open transaction, begun at the first call.

    In any other, `execute` only plans: it reads, computes over what this unit planned before, and returns the
    changes; `write` makes them. `warehouse.planning.PlanningUnit` does that for all such stores.
    """

    @property
    def token(self) -> str | None:
        """What to ask the store by later (where `asks`), known once something was executed."""
        ...

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        """Run one operation, once, in order. Near the driver's cost: one or two round trips, not per record.

        With `savepoint`, a failure leaves the unit as it was before (only where `savepoints`).
        """
        ...

    async def find(self, query: Query) -> list[Record]:
        """As `Adapter.find`, seeing what this unit did; with `query.lock`, the records stay locked."""
        ...

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """The current images of `keys`, in order, locked until the unit ends where there are locks."""
        ...

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        """Make each change, in order, guarded: only if the record still has the `before` values.

        Compared are the `written` and `guard` paths, or absence. A `before` of ABSENT inserts `after` whole
        (generated values too), an `after` of ABSENT deletes (detaching nothing but what `before` shows),
        otherwise the `written` paths are set to what `after` has there.

        Returns how each change ended, in order, up to the first that is not applied. A store without
        transactions that makes several in one round trip goes on with the others that it sent with that one,
        each with its own end; what is not in the list was never sent.
        """
        ...

    async def prepare(self) -> None:
        """Vote: make the unit durable without committing it, under `settings.prepare_as` (only where `prepares`).

        Then `commit` and `rollback` end it; leaving the context leaves it prepared. After an error it may be
        prepared or not, and `rollback` does what it can.
        """
        ...

    async def commit(self) -> None:
        """Commit. Raises StoreOutcomeUnknown where the reply was lost; any other error: not committed."""
        ...

    async def rollback(self) -> None:
        """Give up whatever is open. Never raises; may be called at any time, repeatedly.

        What was prepared and then asked to commit is left as it is.
        """
        ...


class TogetherUnit(Unit, Protocol):
    """A unit of a store that declares `together`."""

    async def execute_together(self, requests: Sequence[Request]) -> list[StepChanges] | None:
        """Run several operations, in order, in one round trip, as the first thing that the unit does.

        None: these cannot go together, and nothing was done. After an error nobody can tell which of them
        failed: the engine rolls the unit back, and executes them one by one in another.
        """
        ...


class PreparesNothing:
    """For adapters of stores that cannot prepare."""

    async def prepared(self) -> list[PreparedId]:
        return []

    async def finish(self, prepared: PreparedId, *, commit: bool) -> None:
        raise NotImplementedError("the store cannot prepare")


class NeverPrepared:
    """For the units of such stores."""

    async def prepare(self) -> None:
        raise NotImplementedError("the store cannot prepare")
