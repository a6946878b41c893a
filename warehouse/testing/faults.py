"""A fault injector: stores and a journal that fail, answer late or lose a reply, at the calls that a test names.

    faults = inject(warehouse)                                     # an AsyncWarehouse
    faults.fail("orders.commit", StoreUnavailable("gone"))         # raised in place of the call
    faults.lose("journal.decide", ReplyLost("no reply"))           # the call is made, then this is raised
    faults.delay("*.execute", 0.1, nth=2)                          # the second call of any store is slow
    faults.before("stock.write", somebody_else_writes)             # an async function, called first

Calls are named by tag and method (`orders.connect`, `.describe`, `.unit`, `.execute`, `.find`, `.read`, `.write`,
`.prepare`, `.commit`, `.rollback`, `.outcome`, `.prepared`, `.finish`), those of the journal `journal.decide`
and so on; `*` stands for anything.
A `write` is one change. In a store without transactions, StoreOutcomeUnknown raised at a `write` becomes the
status UNKNOWN, as the contract has it. `rollback` and `close` must not fail: delay them only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, TypeVar

import anyio

from warehouse.adapter import (
    Adapter,
    Capabilities,
    EntityInfo,
    Outcome,
    PreparedId,
    Query,
    Request,
    StepChanges,
    Unit,
    UnitSettings,
    WriteStatus,
    Written,
)
from warehouse.client import AsyncWarehouse
from warehouse.config import AdapterSettings
from warehouse.errors import StoreOutcomeUnknown
from warehouse.journal.base import (
    Claim,
    Entry,
    EntryStep,
    Heartbeat,
    Journal,
    Keyed,
    Lock,
    RecordLocked,
)
from warehouse.operations import AdapterType
from warehouse.records import Change, Entity, Image, Key, Record
from warehouse.results import State

T = TypeVar("T")
Action = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class _Plan:
    """What is to happen at the matches `nth` up to `nth + times - 1` of `pattern` (for ever, if None)."""

    pattern: str
    action: Action
    nth: int
    times: int | None
    late: bool
    seen: int = 0

    def is_due(self, call: str) -> bool:
        if not fnmatchcase(call, self.pattern):
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.times is None or self.seen < self.nth + self.times)


class Faults:
    """What is to go wrong, and the names of all calls made so far."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._plans: list[_Plan] = []
        self._capabilities: dict[str, dict[str, Any]] = {}
        self._together: set[str] = set()

    def before(self, call: str, action: Action, *, nth: int = 1, times: int | None = 1) -> None:
        """Await `action` before the call, the `nth` one that matches and as many as `times` from there."""
        self._plans.append(_Plan(call, action, nth, times, late=False))

    def after(self, call: str, action: Action, *, nth: int = 1, times: int | None = 1) -> None:
        """Await `action` once the call was made, before its result is handed back."""
        self._plans.append(_Plan(call, action, nth, times, late=True))

    def fail(self, call: str, error: BaseException, *, nth: int = 1, times: int | None = 1) -> None:
        """Raise `error` in place of the call."""
        self.before(call, _raising(error), nth=nth, times=times)

    def lose(self, call: str, error: BaseException, *, nth: int = 1, times: int | None = 1) -> None:
        """Make the call, and raise `error` in place of its reply."""
        self.after(call, _raising(error), nth=nth, times=times)

    def delay(self, call: str, seconds: float, *, nth: int = 1, times: int | None = None) -> None:
        """Make the call only after `seconds`."""
        self.before(call, lambda: anyio.sleep(seconds), nth=nth, times=times)

    def declare(self, tag: str, **capabilities: Any) -> None:
        """Let the store of `tag` declare other capabilities than it has."""
        self._capabilities.setdefault(tag, {}).update(capabilities)

    def send_together(self, tag: str) -> None:
        """Let the store of `tag` (without transactions) send all changes of a write at once.

        What is not applied then keeps none of the others from being made.
        """
        self._together.add(tag)

    def sends_together(self, tag: str) -> bool:
        """Whether `send_together` was said of `tag`."""
        return tag in self._together

    def clear(self) -> None:
        """Plan nothing, and forget the calls."""
        self._plans.clear()
        self.calls.clear()

    def declared(self, tag: str, real: Capabilities) -> Capabilities:
        """What the store of `tag` declares."""
        return dataclasses.replace(real, **self._capabilities.get(tag, {}))

    async def through(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, with whatever is planned for `call`."""
        self.calls.append(call)
        due = [plan for plan in self._plans if plan.is_due(call)]
        for plan in due:
            if not plan.late:
                await plan.action()
        result = await work()
        for plan in due:
            if plan.late:
                await plan.action()
        return result


def _raising(error: BaseException) -> Action:
    async def action() -> None:
        raise error

    return action


def inject(warehouse: AsyncWarehouse) -> Faults:
    """Put a `Faults` between a warehouse (not opened yet) and its stores and its journal."""
    faults = Faults()
    registry = warehouse._registry  # noqa: SLF001 - made for this
    for tag in registry.tags:
        participant = registry.get(tag)
        participant.adapter = FaultyAdapter(tag, participant.adapter, faults)
    journal = FaultyJournal(warehouse._journal, faults)  # noqa: SLF001
    lease = warehouse._engine.lease  # noqa: SLF001
    warehouse._journal = lease.journal = lease.trailing.journal = journal  # noqa: SLF001
    return faults


class FaultyAdapter:
    """An `Adapter` around another."""

    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    def __init__(self, tag: str, inner: Adapter, faults: Faults) -> None:
        self.inner = inner
        self._tag = tag
        self._faults = faults

    @property
    def type(self) -> AdapterType:
        return self.inner.type

    @property
    def capabilities(self) -> Capabilities:
        return self._faults.declared(self._tag, self.inner.capabilities)

    async def connect(self) -> None:
        await self._through("connect", self.inner.connect)

    async def close(self) -> None:
        await self._through("close", self.inner.close)

    async def describe(self, entity: Entity, *, fresh: bool = False) -> EntityInfo:
        return await self._through("describe", lambda: self.inner.describe(entity, fresh=fresh))

    def check(self, request: Request) -> None:
        self.inner.check(request)

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Unit]:
        return self._unit(settings)

    @asynccontextmanager
    async def _unit(self, settings: UnitSettings) -> AsyncIterator[Unit]:
        manager = self.inner.unit(settings)
        unit = await self._through("unit", manager.__aenter__)
        try:
            yield FaultyUnit(self._tag, unit, self._faults, self.capabilities)
        finally:
            await manager.__aexit__(None, None, None)

    async def find(self, query: Query) -> list[Record]:
        return await self._through("find", lambda: self.inner.find(query))

    async def outcome(self, token: str) -> Outcome:
        return await self._through("outcome", lambda: self.inner.outcome(token))

    async def prepared(self) -> list[PreparedId]:
        return await self._through("prepared", self.inner.prepared)

    async def finish(self, prepared: PreparedId, *, commit: bool) -> None:
        await self._through("finish", lambda: self.inner.finish(prepared, commit=commit))

    async def _through(self, method: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._faults.through(f"{self._tag}.{method}", work)


class FaultyUnit:
    """A `Unit` around another."""

    def __init__(self, tag: str, inner: Unit, faults: Faults, capabilities: Capabilities) -> None:
        self._tag = tag
        self._inner = inner
        self._faults = faults
        self._capabilities = capabilities

    @property
    def token(self) -> str | None:
        """That of the unit; made up where the store only pretends that it can be asked."""
        return self._inner.token or (f"{self._tag}-token" if self._capabilities.asks else None)

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        return await self._through("execute", lambda: self._inner.execute(request, savepoint=savepoint))

    async def execute_together(self, requests: Sequence[Request]) -> list[StepChanges] | None:
        return await self._through("execute_together", lambda: self._together(requests))

    async def _together(self, requests: Sequence[Request]) -> list[StepChanges] | None:
        """As the unit does it; one by one where the store only pretends that it can."""
        together = getattr(self._inner, "execute_together", None)
        if together is None:
            return [await self._inner.execute(request) for request in requests]
        done: list[StepChanges] | None = await together(requests)
        return done

    async def find(self, query: Query) -> list[Record]:
        return await self._through("find", lambda: self._inner.find(query))

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        return await self._through("read", lambda: self._inner.read(info, keys))

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        out: list[Written] = []
        for change in changes:
            out += await self._write(change)
            if not out[-1].applied and not self._faults.sends_together(self._tag):
                break
        return out

    async def _write(self, change: Change) -> list[Written]:
        try:
            return await self._through("write", lambda: self._inner.write([change]))
        except StoreOutcomeUnknown as error:
            if self._capabilities.holds:
                raise
            return [Written(WriteStatus.UNKNOWN, error)]

    async def prepare(self) -> None:
        await self._through("prepare", self._inner.prepare)

    async def commit(self) -> None:
        await self._through("commit", self._inner.commit)

    async def rollback(self) -> None:
        await self._through("rollback", self._inner.rollback)

    async def _through(self, method: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._faults.through(f"{self._tag}.{method}", work)


class FaultyJournal:
    """A `Journal` around another."""

    def __init__(self, inner: Journal, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults

    @property
    def description(self) -> str:
        return self.inner.description

    @property
    def identity(self) -> str | None:
        return self.inner.identity

    @property
    def uid(self) -> str:
        return self.inner.uid

    async def open(self) -> None:
        await self._through("open", self.inner.open)

    async def close(self) -> None:
        await self._through("close", self.inner.close)

    async def sequence(self) -> int:
        return await self._through("sequence", self.inner.sequence)

    async def touched(self, since: int) -> frozenset[tuple[str, Entity]]:
        return await self._through("touched", lambda: self.inner.touched(since))

    async def unfinished(
        self, store: str, entity: Entity, ignoring: Collection[str] = frozenset()
    ) -> list[Change]:
        return await self._through("unfinished", lambda: self.inner.unfinished(store, entity, ignoring))

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        return await self._through("locked", lambda: self.inner.locked(locks))

    async def decide(
        self,
        entry: Entry,
        since: int,
        *,
        carried: Sequence[Claim] = (),
        seen: Collection[str] = frozenset(),
    ) -> None:
        await self._through("decide", lambda: self.inner.decide(entry, since, carried=carried, seen=seen))

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
        await self._through(
            "append", lambda: self.inner.append(claim, steps, since, tokens, change, seen=seen)
        )

    async def settle(self, transaction_id: str) -> bool:
        return await self._through("settle", lambda: self.inner.settle(transaction_id))

    async def change_state(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        await self._through("change_state", lambda: self.inner.change_state(claim, state, detail))

    async def finish(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        await self._through("finish", lambda: self.inner.finish(claim, state, detail))

    async def complete(self, claims: Sequence[Claim]) -> None:
        await self._through("complete", lambda: self.inner.complete(claims))

    async def take_over(
        self, claim: Claim, owner: str, change: tuple[State, dict[str, Any]] | None = None
    ) -> Claim | None:
        return await self._through("take_over", lambda: self.inner.take_over(claim, owner, change))

    async def held(self, name: str) -> str | None:
        return await self._through("held", lambda: self.inner.held(name))

    async def latest(self, name: str) -> Entry | None:
        return await self._through("latest", lambda: self.inner.latest(name))

    async def keyed(self, key: str) -> Keyed | None:
        return await self._through("keyed", lambda: self.inner.keyed(key))

    async def is_mine(self, claim: Claim) -> bool:
        return await self._through("is_mine", lambda: self.inner.is_mine(claim))

    async def entry(self, transaction_id: str) -> Entry | None:
        return await self._through("entry", lambda: self.inner.entry(transaction_id))

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        return await self._through("entries", lambda: self.inner.entries(states))

    async def recent(self, states: Iterable[State] | None, limit: int) -> list[Entry]:
        return await self._through("recent", lambda: self.inner.recent(states, limit))

    async def of_record(self, lock: Lock, limit: int) -> list[Entry]:
        return await self._through("of_record", lambda: self.inner.of_record(lock, limit))

    async def since(self, lock: Lock, transaction_id: str) -> list[Entry]:
        return await self._through("since", lambda: self.inner.since(lock, transaction_id))

    async def note(self, entries: Sequence[Entry]) -> None:
        await self._through("note", lambda: self.inner.note(entries))

    async def resolve(self, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
        return await self._through("resolve", lambda: self.inner.resolve(transaction_id, state, detail))

    async def forget(self, lock: Lock) -> tuple[int, list[str]]:
        return await self._through("forget", lambda: self.inner.forget(lock))

    async def claims(self) -> dict[Claim, str]:
        return await self._through("claims", self.inner.claims)

    async def beat(self, owner: str, lease: float) -> None:
        await self._through("beat", lambda: self.inner.beat(owner, lease))

    async def heartbeats(self) -> dict[str, Heartbeat]:
        return await self._through("heartbeats", self.inner.heartbeats)

    async def retire(self, owner: str, seen: Heartbeat | None = None) -> None:
        await self._through("retire", lambda: self.inner.retire(owner, seen))

    async def prune(self, *, finished: float, images: float) -> None:
        await self._through("prune", lambda: self.inner.prune(finished=finished, images=images))

    async def _through(self, method: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._faults.through(f"journal.{method}", work)
