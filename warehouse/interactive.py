"""A transaction written step by step: what `begin()` gives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from warehouse.engine.choose import check_step, choose
from warehouse.engine.engine import Engine
from warehouse.engine.options import Options
from warehouse.engine.plan import plan_step
from warehouse.engine.retry import is_contention
from warehouse.engine.run import Run
from warehouse.engine.saga import Saga
from warehouse.engine.staged import blame, conclude, rollback
from warehouse.engine.supervise import supervise
from warehouse.errors import (
    AlreadyFinished,
    InvalidOperation,
    StepFailed,
    StoreError,
    TransactionConflict,
    TransactionExpired,
)
from warehouse.operations import AdapterType, Source, parse
from warehouse.records import project
from warehouse.results import Rows, TransactionResult

T = TypeVar("T")


class AsyncTransaction:
    """An open transaction. It belongs to one task; past its time-out it is rolled back."""

    def __init__(
        self, open_warehouse: Callable[[], Awaitable[object]], engine: Engine, options: Options
    ) -> None:
        self._open = open_warehouse
        self._engine = engine
        self._options = options
        pattern, _ = choose(options, ())
        self._run = Run(options, engine.journal, pattern)
        self._saga = Saga(self._run) if pattern == "saga" else None
        self._lock = anyio.Lock()
        self._failure: StepFailed | None = None
        self._expired = False
        self._watch: asyncio.Task[None] | None = None
        self.result_or_none: TransactionResult | None = None

    @property
    def result(self) -> TransactionResult:
        """How it ended; AlreadyFinished's opposite, an InvalidOperation, while it runs."""
        if self.result_or_none is None:
            raise InvalidOperation("the transaction has not ended", hint="read `result` after the block")
        return self.result_or_none

    # The block

    async def __aenter__(self) -> Self:
        await self._open()
        self._run.since = await self._engine.journal.sequence()
        self._watch = asyncio.ensure_future(self._expire())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if error is not None:
            await supervise(lambda: self._abandon(self._failure or _left(error)), self._options.grace)
            return
        if self._failure is not None:
            failure = self._failure
            await supervise(lambda: self._abandon(failure), self._options.grace)
        else:
            await supervise(self._commit, self._options.grace)
        if self._options.raise_on_failure:
            self.result.raise_for_status()

    async def _commit(self) -> None:
        try:
            if self._saga is not None:
                await self._saga.complete()
            else:
                failure = await conclude(self._run)
                if failure is not None:
                    blame(self._run, failure)
        except TransactionConflict as conflict:
            blame(self._run, conflict)
            raise
        finally:
            await self._end()

    async def _abandon(self, failure: StepFailed) -> None:
        """Roll back what is held; undo what a saga committed."""
        try:
            if self._saga is not None:
                await self._saga.abandon(failure)
            else:
                self._run.end("compensated", failure)
        finally:
            await self._end()

    async def _end(self) -> None:
        await rollback(self._run)
        if self._run.status is not None:
            self.result_or_none = self._run.result()

    async def _expire(self) -> None:
        await asyncio.sleep(self._run.remaining)
        async with self._lock:
            self._expired = True
            text = f"the transaction's timeout of {self._options.timeout} s ran out"
            self._failure = self._failure or StepFailed(text, hint="raise `timeout`")
            self._failure.__cause__ = self._failure.__cause__ or TimeoutError(text)
            await rollback(self._run)

    # Steps

    async def insert(
        self,
        type: AdapterType | None,  # noqa: A002 - the name is part of the interface
        tag: str,
        entity: str | None,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        **options: Any,
    ) -> Rows:
        """Insert one record or several; what the store made of them. `options` as in an operation."""
        return await self._step("insert", type, tag, entity, {"data": data, **options})

    async def update(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        where: Mapping[str, Any] | None,
        data: Mapping[str, Any],
        **options: Any,
    ) -> Rows:
        """Update what matches; the records as they are now."""
        return await self._step("update", type, tag, entity, {"where": where, "data": data, **options})

    async def upsert(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        conflict_keys: Sequence[str] | None = None,
        **options: Any,
    ) -> Rows:
        """Insert, or update what has the same `conflict_keys`; the records as they are now."""
        content = {"data": data, "conflict_keys": conflict_keys, **options}
        return await self._step("upsert", type, tag, entity, content)

    async def delete(
        self,
        type: AdapterType | None,  # noqa: A002
        tag: str,
        entity: str | None,
        where: Mapping[str, Any] | None,
        **options: Any,
    ) -> Rows:
        """Delete what matches; the records as they were."""
        return await self._step("delete", type, tag, entity, {"where": where, **options})

    async def find(
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
        source = _source(type, tag, entity, relationship)
        query = {
            "where": where,
            "fields": fields,
            "order_by": order_by,
            "limit": limit,
            "offset": offset,
            "near": near,
            "lock": lock,
        }

        async def read() -> list[dict[str, Any]]:
            participant, prepared = await self._engine.query(source, query)
            if self._saga is not None:
                records = await participant.adapter.find(prepared)
            else:
                records = await self._run.find(participant, prepared)
            return [project(record, fields) for record in records]

        return await self._call(read)

    async def _step(
        self, kind: str, type_: AdapterType | None, tag: str, entity: str | None, content: Mapping[str, Any]
    ) -> Rows:
        index = len(self._run.states)
        name = str(content.get("name") or f"step_{index}")
        relationship = content.get("relationship")
        source = {"type": type_, "tag": tag, "entity": entity, "relationship": relationship}
        rest = {key: value for key, value in content.items() if key != "relationship" and value is not None}
        operation = parse({"operation": kind, "from": source, **rest}, name)
        names = [state.step.name for state in self._run.states.values()]
        if name in names:
            raise InvalidOperation("two steps have this name", step=name, hint="names must differ")

        async def execute() -> Rows:
            step = await plan_step(operation, index, [*names, name], self._engine.registry)
            check_step(step, self._run.pattern, alone=False)
            state = self._run.add(step)
            if self._saga is not None:
                failure = await self._saga.run_step(step)
                if failure is not None:
                    raise failure
            else:
                await self._run.execute(step)
            records = [project(record, operation_returning(operation)) for record in state.rows()]
            return Rows(records, state.done.affected if state.done else 0)

        return await self._call(execute)

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run one call of the block; any failure of a store ends the transaction."""
        self._check_usable()

        async def locked() -> T:
            async with self._lock:
                self._check_usable()
                with anyio.fail_after(max(self._run.remaining, 0)):
                    return await work()

        try:
            return await supervise(locked, self._options.grace)
        except StepFailed as failure:
            self._failure = failure
            if is_contention(failure.reason):
                conflict = TransactionConflict(failure.message, hint="run the block again")
                conflict.locate(step=failure.step, tag=failure.tag, entity=failure.entity)
                raise conflict from failure
            raise
        except StoreError as error:
            self._failure = StepFailed(error.message, tag=error.tag, entity=error.entity, hint=error.hint)
            self._failure.__cause__ = error.__cause__ or error
            raise self._failure from self._failure.__cause__
        except TimeoutError as error:
            self._failure = StepFailed(f"the transaction's timeout of {self._options.timeout} s ran out")
            self._failure.__cause__ = error
            raise TransactionExpired(self._failure.message, hint="raise `timeout`") from error

    def _check_usable(self) -> None:
        if self.result_or_none is not None:
            raise AlreadyFinished(f"the transaction has ended: {self.result_or_none.status}")
        if self._expired:
            raise TransactionExpired(f"the transaction outlived its timeout of {self._options.timeout} s")
        if self._failure is not None:
            raise StepFailed(
                f"the transaction failed before ({self._failure}) and can only roll back",
                hint="leave the block",
            )


def operation_returning(operation: Any) -> Sequence[str] | None:
    """The fields that an operation wants back; None: all."""
    returning: Sequence[str] | None = operation.returning
    return returning


def _source(
    type_: AdapterType | None, tag: str, entity: str | None, relationship: str | None
) -> Source | dict[str, Any]:
    return {"type": type_, "tag": tag, "entity": entity, "relationship": relationship}


def _left(error: BaseException) -> StepFailed:
    failure = StepFailed(f"the block was left by {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
