"""The engine's entrance: from operations and options to an ended transaction."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from warehouse.actions import Actions
from warehouse.adapter import Query
from warehouse.engine.archive import Archive
from warehouse.engine.choose import acts_alone, check_step, choose
from warehouse.engine.committed import find_committed
from warehouse.engine.durable import ended
from warehouse.engine.explain import explain
from warehouse.engine.hold import Held
from warehouse.engine.keys import Keys, make_idempotency
from warehouse.engine.lease import Lease
from warehouse.engine.options import Options
from warehouse.engine.outcome import recorded, result
from warehouse.engine.plan import AnyStep, Step, parse_all, plan
from warehouse.engine.read import plan_query
from warehouse.engine.retry import Retries
from warehouse.engine.run import Run
from warehouse.engine.saga import run_saga
from warehouse.engine.staged import run_staged
from warehouse.engine.supervise import Tasks
from warehouse.errors import InvalidOperation, OutcomeUnknown, StepFailed, StoreError, UnknownTransaction
from warehouse.journal.base import Idempotency
from warehouse.operations import Operation, Source, translate
from warehouse.records import Record, project
from warehouse.registry import Participant, Registry
from warehouse.results import Explanation, StepResult, TransactionResult


class Engine:
    """Runs transactions over the participants of one registry and one journal."""

    def __init__(self, registry: Registry, lease: Lease, actions: Actions) -> None:
        self.registry = registry
        self.actions = actions
        self.lease = lease
        self.running: Tasks = set()
        self.archive = Archive(registry, lease)
        self.held = Held(registry, lease, actions)
        self._keys = Keys()

    async def wait(self, transaction_id: str, seconds: float | None) -> TransactionResult:
        """How a journaled transaction ends; see `AsyncWarehouse.wait`."""
        journal = self.lease.journal
        give_up = math.inf if seconds is None else time.monotonic() + seconds
        if await journal.entry(transaction_id) is None:
            raise UnknownTransaction(
                f"the journal has no transaction {transaction_id}",
                hint="a transaction of one store that has transactions is not journaled",
            )
        entry = await ended(journal, transaction_id, give_up)
        if entry is None:
            text = f"transaction {transaction_id} has not ended within {seconds} s"
            raise OutcomeUnknown(text, transaction_id=transaction_id, hint="wait longer, or recover()")
        return recorded(entry)

    async def transaction(
        self, operations: Sequence[Mapping[str, Any] | Operation], options: Options
    ) -> TransactionResult:
        """Run all operations to an end; see `AsyncWarehouse.transaction`."""
        parsed = parse_all(operations)
        idempotency = make_idempotency(options, parsed)
        if idempotency is None:
            return await self._attempt(parsed, options, None)
        give_up = time.monotonic() + options.timeout
        return await self._keys.once(
            self.lease.journal, idempotency, give_up, lambda: self._attempt(parsed, options, idempotency)
        )

    async def _attempt(
        self, parsed: Mapping[str, Operation], options: Options, idempotency: Idempotency | None
    ) -> TransactionResult:
        started = time.monotonic()
        try:
            steps = await self._plan(parsed, options, started)
        except StoreError as error:
            return _unplanned(list(parsed), error, options, started)
        run, _ = self._run(steps, options, started)
        run.idempotency = idempotency
        try:
            await (run_saga if run.pattern == "saga" else run_staged)(run, steps)
        finally:
            run.release()
        self.archive.remember(run)
        return result(run)

    async def explain(
        self, operations: Sequence[Mapping[str, Any] | Operation], options: Options
    ) -> Explanation:
        """What `transaction` would do. Raises what it raises, and the StoreError of an unreachable store."""
        started = time.monotonic()
        steps = await self._plan(parse_all(operations), options, started)
        run, reason = self._run(steps, options, started)
        return await explain(run, steps, reason)

    async def _plan(
        self, operations: Mapping[str, Operation], options: Options, started: float
    ) -> list[AnyStep]:
        """The steps; a store that cannot be reached yet is tried again as the policy allows."""
        deadline = started + options.timeout
        retries = Retries(options, deadline, operations)
        while True:
            try:
                return await plan(operations, self.registry, self.actions, deadline)
            except StoreError as error:
                if not await retries.again(error):
                    raise

    def _run(self, steps: Sequence[AnyStep], options: Options, started: float) -> tuple[Run, str]:
        participants = [step.participant for step in steps if isinstance(step, Step)]
        pattern, reason = choose(options, participants, calls=len(participants) < len(steps))
        if options.rollback != "all" and pattern != "saga":
            raise InvalidOperation(
                "only a saga can keep what it did where a step fails",
                field="rollback",
                hint="say pattern='saga'",
            )
        run = Run(options, self.lease, pattern, started)
        alone = acts_alone(steps)
        for step in steps:
            check_step(step, pattern, alone=alone)
            run.add(step)
        return run, reason

    async def query(
        self, source: Source | Mapping[str, Any], query: Mapping[str, Any]
    ) -> tuple[Participant, Query]:
        """A checked read and who is to run it."""
        return await plan_query(parse_source(source), query, self.registry)

    async def find(
        self, source: Source | Mapping[str, Any], query: Mapping[str, Any], isolation: str
    ) -> list[Record]:
        """Read what is committed everywhere, or (`latest`) the store as it is."""
        participant, prepared = await self.query(source, query)
        if isolation == "committed" and prepared.near is not None:
            raise InvalidOperation(
                "a search by vector reads the store as it is", field="near", hint="say isolation='latest'"
            )
        try:
            if isolation == "committed":
                records = await find_committed(self.lease.trailing, participant, prepared)
            else:
                records = await participant.adapter.find(prepared)
        except StoreError as error:
            error.locate(tag=participant.tag, entity=prepared.info.entity.name)
            raise
        return [project(record, query["fields"]) for record in records]


def parse_source(source: Source | Mapping[str, Any]) -> Source:
    """A source as its model; InvalidOperation names what is wrong."""
    if isinstance(source, Source):
        return source
    try:
        return Source.model_validate(source)
    except ValidationError as error:
        raise translate(error, Source) from None


def _unplanned(names: list[str], error: StoreError, options: Options, started: float) -> TransactionResult:
    """The result where a store could not even be reached: one step failed, and nothing was run."""
    failure = StepFailed(error.message, step=error.step, tag=error.tag, entity=error.entity, hint=error.hint)
    failure.__cause__ = error.__cause__ or error
    failure.reason = error
    results = {name: StepResult(status="skipped") for name in names}
    if error.step in results:
        results[error.step] = StepResult(status="failed", error=str(failure), attempts=1)
    result = TransactionResult(
        transaction_id=uuid.uuid4().hex,
        name=options.name,
        status="compensated",
        pattern="staged" if options.pattern == "auto" else options.pattern,
        execution_time=time.monotonic() - started,
        step_results=results,
        error=str(failure),
    )
    return result.caused_by(failure)
