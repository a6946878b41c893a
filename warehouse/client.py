"""`AsyncWarehouse`: the asynchronous face of the engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar, Unpack

import anyio

from warehouse.actions import Actions
from warehouse.config import load, read
from warehouse.engine.engine import Engine, parse_source
from warehouse.engine.explain import describe
from warehouse.engine.housekeeping import Housekeeping
from warehouse.engine.lease import Lease
from warehouse.engine.options import (
    BeginOptions,
    Options,
    TransactionOptions,
    check_name,
    check_option,
    make_options,
)
from warehouse.engine.recovery import Recovery
from warehouse.engine.supervise import supervise
from warehouse.errors import InvalidOperation, ReadConflict
from warehouse.interactive import AsyncTransaction
from warehouse.journal import open_journal
from warehouse.operations import Operation, Source
from warehouse.registry import Registry
from warehouse.results import (
    Explanation,
    HistoryItem,
    ParticipantInfo,
    Recovered,
    State,
    TransactionInfo,
    TransactionResult,
)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Operations: TypeAlias = Sequence[Mapping[str, Any] | Operation]
AnySource: TypeAlias = Source | Mapping[str, Any]


class AsyncWarehouse:
    """One transaction out of writes to several stores.

    Made from keyword arguments of the same shape as the configuration, or by `from_config`. A context
    manager; `open` and `close` do the same by hand, and the first use opens. It belongs to one event loop
    (asyncio) and may be used from many of its tasks.
    """

    def __init__(
        self,
        *,
        adapters: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        journal: Mapping[str, Any] | None = None,
        transactions: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the configuration; nothing is opened yet. Raises ConfigError."""
        given = {"adapters": adapters, "journal": journal or {}, "transactions": transactions or {}}
        config = load(given)

        self._defaults = config.transactions
        self._journal = open_journal(config.journal)
        self._registry = Registry(config.adapters, self._journal.identity)
        self._actions = Actions()
        self._engine = Engine(self._registry, Lease(self._journal, config.journal.lease), self._actions)
        self._recovery = Recovery(
            self._registry,
            self._engine.lease,
            self._actions,
            grace=config.transactions.grace,
            lock_timeout=config.transactions.lock_timeout,
        )
        self._housekeeping = Housekeeping(self._engine.lease, config.journal)
        self._recovers = config.journal.recover == "auto"
        self._background: list[asyncio.Task[None]] = []
        self._opened = False
        self._opening = anyio.Lock()

    @classmethod
    def from_config(cls, config: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """A warehouse from a TOML file, or a dict of the same shape. Raises ConfigError."""
        return cls(**read(config))

    # Life

    async def open(self) -> Self:
        """Open the journal; each store is connected when it is first used. Raises JournalUnavailable."""
        if not self._opened:
            async with self._opening:
                if not self._opened:
                    await self._journal.open()
                    try:
                        await self._engine.lease.start()
                    except BaseException:
                        await self._journal.close()
                        raise
                    self._background.append(asyncio.ensure_future(self._housekeeping.run()))
                    if self._recovers:
                        self._background.append(asyncio.ensure_future(self._recovery.run()))
                    self._opened = True
        return self

    async def close(self) -> None:
        """Close the journal and every store, once the transactions that are running have ended.

        May be called twice; the next use opens again.
        """
        async with self._opening:
            while self._engine.running:
                await asyncio.wait(self._engine.running)
            if self._opened:
                self._opened = False
                await self._engine.archive.flush()
                await self._stop_background()
                await self._engine.lease.stop()
                await self._registry.close()
                await self._journal.close()

    async def _stop_background(self) -> None:
        tasks, self._background = self._background, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Transactions

    def action(self, name: str, *, compensate: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Register a function that transactions may call: `@warehouse.action("charge_card", compensate=refund)`.

        It is called with the step's `args` by name; what it returns is the step's output. `compensate` is called
        with the same arguments and `output`, where the transaction does not take effect; `output` is None where
        nobody knows whether the function had an effect (a TimeoutError, a crash). It may be called again, and must
        be idempotent; without one, a call that cannot be taken back is residue. An exception of the function says
        that it had no effect. Either may be a coroutine function; any other runs in a thread.

        Every process that recovers such transactions must have registered their actions.
        """

        def register(function: F) -> F:
            self._actions.register(name, function, compensate)
            return function

        return register

    async def transaction(
        self, operations: Operations, **options: Unpack[TransactionOptions]
    ) -> TransactionResult:
        """Make all operations take effect, or none; how it ended is the result, not an exception.

        Options left out come from `[transactions]` of the configuration; see `TransactionOptions`. Mistakes
        of the caller raise before any store is written: InvalidOperation and its kinds. Raises
        JournalUnavailable where nothing was changed, and OutcomeUnknown where the end cannot be told.
        """
        chosen = make_options(self._defaults, options, TransactionOptions)
        await self.open()
        return await supervise(
            lambda: self._engine.transaction(operations, chosen), chosen.grace, self._engine.running
        )

    def begin(self, name: str | None = None, **options: Unpack[BeginOptions]) -> AsyncTransaction:
        """A transaction written step by step: `async with warehouse.begin() as tx`.

        Every call executes at once in its store's open transaction. Leaving the block commits; an exception
        compensates and propagates. A commit that fails raises TransactionCompensated or TransactionFailed
        (`raise_on_failure=False` leaves that to `tx.result`). With `hold=True`, leaving the block only stages:
        nothing is visible before `commit(name)`, from this process or another. See `BeginOptions`.
        """
        check_option("name", name)
        chosen = replace(make_options(self._defaults, options, BeginOptions), name=name)
        if chosen.hold:
            check_name(name)
            if chosen.pattern == "saga":
                raise InvalidOperation("a saga commits step by step: it cannot be held", field="hold")
        elif options.get("expires_in") is not None:
            raise InvalidOperation("only what is held expires", field="expires_in", hint="say hold=True")
        return AsyncTransaction(self.open, self._engine, chosen)

    async def commit(self, name: str) -> TransactionResult:
        """Make a held transaction take effect: all of it, or (TransactionCompensated) nothing.

        Of several who commit or roll back at once one does; the others raise AlreadyFinished, as whoever comes
        later does. Raises UnknownTransaction, TransactionExpired; StoreUnavailable with nothing changed;
        OutcomeUnknown where it is decided, and recovery goes on with it.
        """
        await self.open()
        result = await self._supervised(lambda: self._engine.held.commit(name, self._options()))
        return result.raise_for_status()

    async def rollback(self, name: str) -> TransactionResult:
        """Give a held transaction up. Raises as `commit` does."""
        await self.open()
        return await self._supervised(lambda: self._engine.held.rollback(name, self._options()))

    async def wait(self, transaction_id: str, timeout: float | None = None) -> TransactionResult:  # noqa: ASYNC109
        """How a transaction ended whose end could not be told: wait for it, at most `timeout` seconds.

        Raises UnknownTransaction, and OutcomeUnknown where it has not ended by then.
        """
        check_option("timeout", timeout)
        await self.open()
        return await self._engine.wait(transaction_id, timeout)

    async def undo(
        self, transaction_id: str, on_conflict: Literal["refuse", "skip", "force"] = "refuse"
    ) -> TransactionResult:
        """Undo a completed transaction, as a transaction of its own.

        Where somebody changed a field since, `refuse` undoes nothing (the result is `compensated`), `skip` undoes
        all but those fields, `force` overwrites them; `result.conflicts` lists them. Undoing twice changes nothing.
        Raises UnknownTransaction, AlreadyFinished where it did not complete.
        """
        await self.open()
        return await self._supervised(
            lambda: self._engine.archive.undo(transaction_id, on_conflict, self._options())
        )

    async def resolve(
        self, transaction_id: str, how: Literal["retry", "force", "accept"]
    ) -> TransactionResult:
        """Settle a failed transaction: undo again what is left (`retry`), whoever changed it (`force`), or leave it.

        It is then no longer `failed`, unless `retry` met conflicts. One that is still being undone, because a store
        was away, is tried at once. Raises UnknownTransaction, AlreadyFinished.
        """
        await self.open()
        archive = self._engine.archive
        if await archive.is_being_undone(transaction_id):
            await self._recovery.recover()
            undone = await archive.undone(transaction_id)
            if undone is not None:
                return undone
        return await self._supervised(
            lambda: self._engine.archive.resolve(transaction_id, how, self._options())
        )

    async def transactions(
        self, status: State | Sequence[State] | None = None, limit: int = 100
    ) -> list[TransactionInfo]:
        """The last transactions in the journal (of this status), newest first, without their changes."""
        await self.open()
        return await self._engine.archive.transactions(status, limit)

    async def show(self, transaction_id: str) -> TransactionInfo:
        """One transaction with all that it changed. Raises UnknownTransaction."""
        await self.open()
        return await self._engine.archive.show(transaction_id)

    async def history(self, source: AnySource, key: Mapping[str, Any], limit: int = 100) -> list[HistoryItem]:
        """What transactions changed of one record, newest first; `key` names every field of its key."""
        await self.open()
        return await self._engine.archive.history(parse_source(source), key, limit)

    async def forget(self, source: AnySource, key: Mapping[str, Any]) -> int:
        """Erase what the journal keeps of one record: its images and history. Of how many transactions it was.

        The record itself stays in its store; and what calls were given and put out stays in the journal. A
        transaction whose images were erased cannot be undone any more. Raises TransactionConflict where some
        that are open or failed need theirs: all others have erased them then.
        """
        await self.open()
        return await self._engine.archive.forget(parse_source(source), key)

    def _options(self) -> Options:
        return make_options(self._defaults, {}, TransactionOptions)

    async def _supervised(self, work: Callable[[], Awaitable[T]]) -> T:
        return await supervise(work, self._defaults.grace, self._engine.running)

    async def recover(self) -> list[Recovered]:
        """Bring to an end what processes left open that are dead; returns what was found, and how it ended.

        An open Warehouse does so by itself (`[journal] recover`). This waits for one lease, which is how long it
        takes to tell the dead from the living. Any number of processes may do it at the same time.
        """
        await self.open()
        return await self._recovery.recover()

    async def explain(self, operations: Operations, **options: Unpack[TransactionOptions]) -> Explanation:
        """What `transaction` would do with these operations, without doing it.

        The pattern and why, who takes part and how, and the changes that would be made.
        """
        chosen = make_options(self._defaults, options, TransactionOptions)
        await self.open()
        return await supervise(
            lambda: self._engine.explain(operations, chosen), chosen.grace, self._engine.running
        )

    # Reading

    async def find(
        self,
        source: AnySource,
        *,
        where: Mapping[str, Any] | None = None,
        fields: Sequence[str] | None = None,
        order_by: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        isolation: Literal["committed", "latest"] = "committed",
        near: Mapping[str, Any] | None = None,
        lock: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - part of the interface
    ) -> list[dict[str, Any]]:
        """The records of `source` that match `where`, as dicts; `order_by=["a", "-b"]`, nulls first.

        What a transaction has changed that is still on its way to its end is shown as it was before; with
        `isolation="latest"` the store is read as it is. A find is consistent; two are not one snapshot.
        `near={"vector": [...], "using": None, "limit": 5}` asks a vector store for the nearest records (`latest`
        only). `timeout` is in seconds (default: that of transactions); ReadConflict where it runs out.
        """
        if isolation not in {"committed", "latest"}:
            raise InvalidOperation(
                f"isolation is {isolation!r}", field="isolation", hint="use 'committed' or 'latest'"
            )
        if lock:
            raise InvalidOperation(
                "a lock ends with its transaction", field="lock", hint="use `tx.find` in a begin() block"
            )
        check_option("timeout", timeout)
        query = {
            "where": where,
            "fields": fields,
            "order_by": order_by,
            "limit": limit,
            "offset": offset,
            "near": near,
            "lock": lock,
        }
        await self.open()
        seconds = self._defaults.timeout if timeout is None else timeout
        try:
            with anyio.fail_after(seconds):
                return await self._engine.find(source, query, isolation)
        except TimeoutError as error:
            raise ReadConflict(f"the read took longer than {seconds} s") from error

    async def participants(self) -> dict[str, ParticipantInfo | Exception]:
        """Connect every configured store: what each is and can do, or the error that says why not."""
        await self.open()
        out: dict[str, ParticipantInfo | Exception] = {}
        for tag in self._registry.tags:
            try:
                out[tag] = describe(await self._registry.connected(tag))
            except Exception as error:  # noqa: BLE001 - told, not handled
                out[tag] = error
        return out

    @property
    def journal(self) -> str:
        """What the journal is and where, without secrets."""
        return self._journal.description
