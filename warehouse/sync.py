"""`Warehouse`: the synchronous face, a portal over `AsyncWarehouse`."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

from anyio import CancelScope
from anyio.from_thread import BlockingPortal, start_blocking_portal

from warehouse.client import AnySource, AsyncWarehouse, F, Operations
from warehouse.config import read
from warehouse.engine.options import BeginOptions, TransactionOptions
from warehouse.errors import InvalidOperation
from warehouse.interactive import AsyncTransaction
from warehouse.operations import AdapterType
from warehouse.results import (
    Explanation,
    HistoryItem,
    ParticipantInfo,
    Recovered,
    Rows,
    State,
    TransactionInfo,
    TransactionResult,
)

T = TypeVar("T")
# Connections inherited through a fork belong to the parent: they are kept from being closed here.
_inherited: list[object] = []


class Warehouse:
    """One transaction out of writes to several stores.

    The same methods as `AsyncWarehouse`, synchronous and thread-safe. It reopens after a fork, and refuses to
    be called inside a running event loop.
    """

    def __init__(
        self,
        *,
        adapters: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        journal: Mapping[str, Any] | None = None,
        transactions: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the configuration; nothing is opened yet. Raises ConfigError."""
        self._make = partial(AsyncWarehouse, adapters=adapters, journal=journal, transactions=transactions)
        self._inner = self._make()
        self._bridge = Bridge()
        atexit.register(_close_at_exit, weakref.ref(self))

    @classmethod
    def from_config(cls, config: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """A warehouse from a TOML file, or a dict of the same shape. Raises ConfigError."""
        return cls(**read(config))

    def _call(self, work: Callable[[AsyncWarehouse], Awaitable[T]]) -> T:
        if self._bridge.is_inherited:
            _inherited.append((self._inner, self._bridge))
            before, self._inner = self._inner, self._make()
            self._bridge = Bridge()
            self._inner._actions.adopt(before._actions)  # noqa: SLF001 - its own face
        inner = self._inner
        return self._bridge.run(lambda: work(inner))

    # Life

    def open(self) -> Self:
        """Open the journal; each store is connected when it is first used. Raises JournalUnavailable."""
        self._call(lambda inner: inner.open())
        return self

    def close(self) -> None:
        """Close the journal and every store, once the calls of other threads are over.

        May be called twice; the next use opens again.
        """
        self._bridge.stop(self._inner.close)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Transactions

    def transaction(self, operations: Operations, **options: Unpack[TransactionOptions]) -> TransactionResult:
        """Make all operations take effect, or none; see `AsyncWarehouse.transaction`."""
        return self._call(lambda inner: inner.transaction(operations, **options))

    def begin(self, name: str | None = None, **options: Unpack[BeginOptions]) -> Transaction:
        """A transaction written step by step: `with warehouse.begin() as tx`; see `AsyncWarehouse.begin`."""

        async def begin(inner: AsyncWarehouse) -> AsyncTransaction:
            return inner.begin(name, **options)

        return Transaction(self._call(begin), self._bridge)

    def action(self, name: str, *, compensate: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Register a function that transactions may call; see `AsyncWarehouse.action`."""
        return self._inner.action(name, compensate=compensate)

    def commit(self, name: str) -> TransactionResult:
        """Make a held transaction take effect; see `AsyncWarehouse.commit`."""
        return self._call(lambda inner: inner.commit(name))

    def rollback(self, name: str) -> TransactionResult:
        """Give a held transaction up; see `AsyncWarehouse.rollback`."""
        return self._call(lambda inner: inner.rollback(name))

    def wait(self, transaction_id: str, timeout: float | None = None) -> TransactionResult:
        """How a transaction ended whose end could not be told; see `AsyncWarehouse.wait`."""
        return self._call(lambda inner: inner.wait(transaction_id, timeout))

    def undo(
        self, transaction_id: str, on_conflict: Literal["refuse", "skip", "force"] = "refuse"
    ) -> TransactionResult:
        """Undo a completed transaction, as a transaction of its own; see `AsyncWarehouse.undo`."""
        return self._call(lambda inner: inner.undo(transaction_id, on_conflict))

    def resolve(self, transaction_id: str, how: Literal["retry", "force", "accept"]) -> TransactionResult:
        """Settle a failed transaction; see `AsyncWarehouse.resolve`."""
        return self._call(lambda inner: inner.resolve(transaction_id, how))

    def transactions(
        self, status: State | Sequence[State] | None = None, limit: int = 100
    ) -> list[TransactionInfo]:
        """The last transactions in the journal, newest first; see `AsyncWarehouse.transactions`."""
        return self._call(lambda inner: inner.transactions(status, limit))

    def show(self, transaction_id: str) -> TransactionInfo:
        """One transaction with all that it changed; see `AsyncWarehouse.show`."""
        return self._call(lambda inner: inner.show(transaction_id))

    def history(self, source: AnySource, key: Mapping[str, Any], limit: int = 100) -> list[HistoryItem]:
        """What transactions changed of one record, newest first; see `AsyncWarehouse.history`."""
        return self._call(lambda inner: inner.history(source, key, limit))

    def forget(self, source: AnySource, key: Mapping[str, Any]) -> int:
        """Erase what the journal keeps of one record; see `AsyncWarehouse.forget`."""
        return self._call(lambda inner: inner.forget(source, key))

    def recover(self) -> list[Recovered]:
        """Bring to an end what dead processes left open; see `AsyncWarehouse.recover`."""
        return self._call(lambda inner: inner.recover())

    def explain(self, operations: Operations, **options: Unpack[TransactionOptions]) -> Explanation:
        """What `transaction` would do, without doing it; see `AsyncWarehouse.explain`."""
        return self._call(lambda inner: inner.explain(operations, **options))

    # Reading

    def find(
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
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        """The records of `source` that match `where`; see `AsyncWarehouse.find`."""
        return self._call(
            lambda inner: inner.find(
                source,
                where=where,
                fields=fields,
                order_by=order_by,
                limit=limit,
                offset=offset,
                isolation=isolation,
                near=near,
                lock=lock,
                timeout=timeout,
            )
        )

    def participants(self) -> dict[str, ParticipantInfo | Exception]:
        """Connect every configured store: what each is and can do, or the error that says why not."""
        return self._call(lambda inner: inner.participants())

    @property
    def journal(self) -> str:
        """What the journal is and where, without secrets."""
        return self._inner.journal


class Transaction:
    """An open transaction: `AsyncTransaction`, synchronous. For one thread at a time."""

    def __init__(self, inner: AsyncTransaction, bridge: Bridge) -> None:
        self._inner = inner
        self._bridge = bridge

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._bridge.run(work)

    @property
    def transaction_id(self) -> str:
        """What the transaction is known by."""
        return self._inner.transaction_id

    @property
    def result(self) -> TransactionResult:
        """How it ended; InvalidOperation while it runs."""
        return self._inner.result

    def __enter__(self) -> Self:
        self._call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(lambda: self._inner.__aexit__(kind, error, trace))

    def call(self, action: str, args: Mapping[str, Any] | None = None, **options: Any) -> Rows:
        """Call a registered action; what it put out."""
        return self._call(lambda: self._inner.call(action, args, **options))

    def insert(
        self,
        type: AdapterType | None,  # noqa: A002 - the name is part of the interface
        tag: str,
        entity: str | None,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        **options: Any,
    ) -> Rows:
        """Insert one record or several; what the store made of them. `options` as in an operation."""
        return self._call(lambda: self._inner.insert(type, tag, entity, data, **options))

    def update(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        where: Mapping[str, Any] | None,
        data: Mapping[str, Any],
        **options: Any,
    ) -> Rows:
        """Update what matches; the records as they are now."""
        return self._call(lambda: self._inner.update(type, tag, entity, where, data, **options))

    def upsert(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        conflict_keys: Sequence[str] | None = None,
        **options: Any,
    ) -> Rows:
        """Insert, or update what has the same `conflict_keys`; the records as they are now."""
        return self._call(lambda: self._inner.upsert(type, tag, entity, data, conflict_keys, **options))

    def delete(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        where: Mapping[str, Any] | None,
        **options: Any,
    ) -> Rows:
        """Delete what matches; the records as they were."""
        return self._call(lambda: self._inner.delete(type, tag, entity, where, **options))

    def find(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        where: Mapping[str, Any] | None = None,
        *,
        relationship: str | None = None,
        fields: Sequence[str] | None = None,
        order_by: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        near: Mapping[str, Any] | None = None,
        lock: bool = False,
    ) -> list[dict[str, Any]]:
        """Read, seeing what this transaction did; with `lock`, nobody changes it before the end."""
        return self._call(
            lambda: self._inner.find(
                type,
                tag,
                entity,
                where,
                relationship=relationship,
                fields=fields,
                order_by=order_by,
                limit=limit,
                offset=offset,
                near=near,
                lock=lock,
            )
        )


class Bridge:
    """A portal into an event loop in a thread of its own, started on first use; for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pid = os.getpid()
        self._calls = 0
        self._stopping = False
        self._portal: BlockingPortal | None = None
        self._context: AbstractContextManager[BlockingPortal] | None = None

    @property
    def is_inherited(self) -> bool:
        """Whether it was made before a fork: its thread is not in this process."""
        return self._pid != os.getpid()

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work` in the loop. Ctrl-C cancels it and waits for its clean-up first."""
        _refuse_event_loop()
        if self.is_inherited:
            raise InvalidOperation(
                "the transaction was begun before a fork, by another process", hint="begin() another"
            )
        portal = self._enter()
        try:
            return _wait_for(portal, work)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _enter(self) -> BlockingPortal:
        """The portal, started if it was not, and kept from being stopped until the call is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._stopping)
            if self._portal is None:
                self._context = start_blocking_portal("asyncio")
                self._portal = self._context.__enter__()
            self._calls += 1
            return self._portal

    def stop(self, last: Callable[[], Awaitable[None]]) -> None:
        """Once the calls in progress are over, run `last` and stop the loop; the next `run` starts another."""
        if self.is_inherited or self._portal is None:
            return
        _refuse_event_loop()
        with self._changed:
            self._changed.wait_for(lambda: not self._stopping)
            portal, context = self._portal, self._context
            if portal is None or context is None:
                return
            self._stopping = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._calls)
            _wait_for(portal, last)
            context.__exit__(None, None, None)
            self._portal = self._context = None
        finally:
            with self._changed:
                self._stopping = False
                self._changed.notify_all()


def _wait_for(portal: BlockingPortal, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work` in the portal's loop. Ctrl-C, at any moment, cancels it and waits for its clean-up."""
    finished = threading.Event()
    begun: list[CancelScope] = []

    async def body() -> list[T]:
        results: list[T] = []
        try:
            with CancelScope() as scope:
                begun.append(scope)
                results.append(await work())
        finally:
            finished.set()
        return results

    try:
        return portal.start_task_soon(body).result()[0]
    except KeyboardInterrupt:
        portal.call(_cancel, begun)
        if begun:
            finished.wait()
        raise


def _cancel(scopes: list[CancelScope]) -> None:
    """Runs in the loop, and so after all that was started there before."""
    for scope in scopes:
        scope.cancel()


def _refuse_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidOperation(
        "Warehouse was called inside a running event loop, which it would block",
        hint="use AsyncWarehouse there, or call it from a thread (asyncio.to_thread)",
    )


def _close_at_exit(reference: weakref.ref[Warehouse]) -> None:
    warehouse = reference()
    if warehouse is not None:
        warehouse.close()
