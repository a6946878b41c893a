"""A transaction written step by step: what `begin()` gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from warehouse.engine.calls import execute
from warehouse.engine.choose import check_step, choose
from warehouse.engine.dependencies import check_references
from warehouse.engine.engine import Engine
from warehouse.engine.hold import hold, name_taken
from warehouse.engine.options import Options
from warehouse.engine.outcome import result
from warehouse.engine.plan import check, draft
from warehouse.engine.retry import is_contention
from warehouse.engine.run import Run
from warehouse.engine.saga import Saga
from warehouse.engine.stage import leaves_unit_whole
from warehouse.engine.staged import conclude, give_up, rollback
from warehouse.engine.state import StepState, returned
from warehouse.engine.supervise import supervise
from warehouse.errors import (
    AlreadyFinished,
    InvalidOperation,
    OutcomeUnknown,
    StepFailed,
    StoreError,
    TransactionConflict,
    TransactionExpired,
    WarehouseError,
)
from warehouse.journal.base import Idempotency, KeyTaken
from warehouse.operations import AdapterType, parse
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
        self._run = Run(options, engine.lease, pattern, time.monotonic())
        self._saga = Saga(self._run) if pattern == "saga" else None
        self._lock = anyio.Lock()
        self._phase: Literal["new", "open", "left"] = "new"
        self._failure: StepFailed | None = None
        self._unknown: OutcomeUnknown | None = None
        self._expired = False
        self._watch: asyncio.Task[None] | None = None
        self._result: TransactionResult | None = None
        self._held = False

    @property
    def transaction_id(self) -> str:
        """What the transaction is known by."""
        return self._run.id

    @property
    def result(self) -> TransactionResult:
        """How it ended. Raises InvalidOperation while it runs, OutcomeUnknown where that cannot be told."""
        if self._unknown is not None:
            raise self._unknown
        if self._held:
            raise InvalidOperation(
                f"the transaction is held under the name {self._options.name!r}",
                hint="commit(name) or rollback(name) ends it, and returns the result",
            )
        if self._result is None:
            raise InvalidOperation("the transaction has not ended", hint="read `result` after the block")
        return self._result

    # The block

    async def __aenter__(self) -> Self:
        if self._phase != "new":
            raise AlreadyFinished("the transaction was entered before", hint="begin() another")
        await self._open()
        await self._claim_key()
        if self._options.hold and await self._run.journal.held(str(self._options.name)):
            raise name_taken(str(self._options.name))
        self._run.started = time.monotonic()
        self._run.since = await self._run.lease.trailing.moment()
        self._phase = "open"
        self._watch = asyncio.ensure_future(self._expire())
        return self

    async def _claim_key(self) -> None:
        """With an idempotency key: AlreadyFinished where another block has it. It is ours once this one commits."""
        key = self._options.idempotency_key
        if key is None:
            return
        expires = time.time() + self._options.idempotency_ttl
        self._run.idempotency = Idempotency(key, b"block", expires)
        keyed = await self._run.journal.keyed(key)
        if keyed is not None:
            raise AlreadyFinished(
                f"transaction {keyed.transaction_id} has the idempotency key {key!r}",
                hint="wait(transaction_id) tells how it ended",
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = "left"
        await supervise(lambda: self._leave(error), self._options.grace, self._engine.running)
        if error is None and self._options.raise_on_failure and not self._held:
            failure = self._run.error
            if self.result.status == "compensated" and failure and is_contention(failure.reason):
                raise _conflict(failure) from failure
            self.result.raise_for_status()

    async def _leave(self, error: BaseException | None) -> None:
        """Commit, or roll back what is held and undo what a saga committed."""
        try:
            if self._watch is not None:
                self._watch.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({self._watch})
            if error is None and self._failure is None:
                await checkpoint_if_cancelled()
                await self._commit()
            else:
                await self._abandon(self._failure or _left(error))
        except asyncio.CancelledError as cancelled:
            await self._abandon(_left(cancelled))
            raise
        except OutcomeUnknown as unknown:
            self._unknown = unknown
            raise
        except InvalidOperation as mistake:  # the name was taken meanwhile
            self._run.end("compensated", _left(mistake))
            raise
        finally:
            await rollback(self._run)
            self._run.release()
            self._engine.archive.remember(self._run)
            if self._run.status is not None:
                self._result = result(self._run)

    async def _commit(self) -> None:
        if self._saga is not None:
            await self._saga.complete()
            return
        failure: StepFailed | TransactionConflict | None
        try:
            failure = await self._lost_lock()
            if failure is None:
                failure = await (hold if self._options.hold else conclude)(self._run)
        except KeyTaken as taken:
            failure = _left(taken)
        except (StepFailed, TransactionConflict) as refused:
            failure = refused
        if failure is not None:
            await rollback(self._run)
            await give_up(self._run, failure)
        else:
            self._held = self._options.hold and self._run.status is None

    async def _lost_lock(self) -> StepFailed | None:
        try:
            await self._run.still_locked()
        except TransactionConflict as lost:
            return self._note(lost)
        return None

    async def _abandon(self, failure: StepFailed) -> None:
        if self._unknown is None and self._run.status is None:
            if self._saga is not None:
                await self._saga.abandon(failure)
            else:
                await rollback(self._run)
                await give_up(self._run, failure)

    async def _expire(self) -> None:
        await asyncio.sleep(self._run.remaining)
        async with self._lock:
            self._expired = True
            self._note(self._too_late())
            await rollback(self._run)
            await self._abandon(self._failure or _left(self._too_late()))

    def _too_late(self) -> TransactionExpired:
        text = f"the transaction's timeout of {self._options.timeout} s ran out"
        return TransactionExpired(text, hint="raise `timeout`")

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

    async def call(self, action: str, args: Mapping[str, Any] | None = None, **options: Any) -> Rows:
        """Call a registered action; what it put out. Its compensation is called where the block does not commit."""
        if self._options.hold:
            raise InvalidOperation(
                "what is held makes no calls", field="operation", hint="call before commit(name), or after"
            )
        return await self._run_step({"operation": "call", "action": action, "args": args or {}, **options})

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
            if lock and (self._saga is not None or not participant.adapter.capabilities.holds):
                who = "a saga" if self._saga is not None else participant.adapter.capabilities.store
                raise InvalidOperation(f"{who} keeps no locks", field="lock", tag=tag)
            if self._saga is not None:
                records = await participant.adapter.find(prepared)
            else:
                records = await self._run.find(participant, prepared)
            return [project(record, fields) for record in records]

        return await self._call(read)

    async def _step(
        self, kind: str, type_: AdapterType | None, tag: str, entity: str | None, content: Mapping[str, Any]
    ) -> Rows:
        rest = {key: item for key, item in content.items() if key != "relationship" and item is not None}
        source = _source(type_, tag, entity, content.get("relationship"))
        return await self._run_step({**rest, "operation": kind, "from": source})

    async def _run_step(self, content: Mapping[str, Any]) -> Rows:
        async def execute_it() -> Rows:
            names = [state.step.name for state in self._run.states.values()]
            name = str(content.get("name") or f"step_{len(names)}")
            operation = parse(content, name)
            if name in names:
                raise InvalidOperation("two steps have this name", step=name, hint="names must differ")
            registry, actions = self._engine.registry, self._engine.actions
            drafted = draft(operation, len(names), [*names, name], registry, actions)
            step = await check(drafted, registry)
            if step.refers:
                check_references([step], [state.step for state in self._run.states.values()])
            check_step(step, self._run.pattern, alone=False)
            state = self._run.add(step)
            await self._execute(state)
            records = [project(record, returned(step)) for record in state.rows()]
            return Rows(records, state.done.affected if state.done else 0)

        return await self._call(execute_it)

    async def _execute(self, state: StepState) -> None:
        """Run a step; one that may fail, and does without harm to its unit, has no rows."""
        if self._saga is not None:
            failure = await self._saga.run_step(state.step)
            if failure is not None:
                raise failure
            return
        try:
            await execute(self._run, state.step)
        except StepFailed as failure:
            if not (state.step.operation.allow_fail and leaves_unit_whole(failure)):
                raise
            state.status = "tolerated"

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run one call of the block; any failure but a mistake of the caller ends the transaction."""
        self._check_usable()

        async def locked() -> T:
            async with self._lock:
                self._check_usable()
                with anyio.move_on_after(max(self._run.remaining, 0)):
                    return await work()
                raise self._too_late()

        try:
            return await supervise(locked, self._options.grace, self._engine.running)
        except InvalidOperation:
            raise
        except StoreError as error:
            raise self._note(error) from error.__cause__ or error
        except BaseException as error:
            failure = self._note(error)
            if is_contention(failure.reason):
                raise _conflict(failure) from failure
            raise

    def _note(self, error: BaseException) -> StepFailed:
        """Remember why the block can only roll back."""
        if isinstance(error, OutcomeUnknown):
            self._unknown = error
        if self._failure is not None:
            return self._failure
        if isinstance(error, StepFailed):
            self._failure = error
        elif isinstance(error, WarehouseError):
            self._failure = StepFailed(error.message, tag=error.tag, entity=error.entity, hint=error.hint)
            self._failure.reason = error
        else:
            what = "was cancelled" if isinstance(error, asyncio.CancelledError) else f"failed: {error!r}"
            self._failure = StepFailed(f"a call of the block {what}")
        if self._failure is not error:
            self._failure.__cause__ = error.__cause__ or error
        return self._failure

    def _check_usable(self) -> None:
        if self._phase == "new":
            raise InvalidOperation("the block was not entered", hint="use `with warehouse.begin() as tx`")
        if self._phase == "left":
            ended = "" if self._result is None else f": {self._result.status}"
            raise AlreadyFinished(f"the transaction has ended{ended}")
        if self._expired:
            raise self._too_late()
        if self._failure is not None:
            raise StepFailed(
                f"the transaction failed before ({self._failure}) and can only roll back",
                hint="leave the block",
            )


def _source(
    type_: AdapterType | None, tag: str, entity: str | None, relationship: str | None
) -> dict[str, Any]:
    return {"type": type_, "tag": tag, "entity": entity, "relationship": relationship}


def _left(error: BaseException | None) -> StepFailed:
    failure = StepFailed(f"the block was left by {type(error).__name__}: {error}".removesuffix(": "))
    failure.__cause__ = error
    return failure


def _conflict(failure: StepFailed) -> TransactionConflict:
    """What tells the caller to run the block again."""
    return TransactionConflict(
        failure.message,
        step=failure.step,
        tag=failure.tag,
        entity=failure.entity,
        hint="run the block again",
    )
