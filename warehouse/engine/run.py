"""One transaction while it runs: its steps' states, its open units, its result."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

import anyio

from warehouse import conditions
from warehouse.adapter import PreparedId, Query, Request, StepChanges, TogetherUnit, UnitSettings
from warehouse.engine.compensate import Done, Terms
from warehouse.engine.dependencies import in_order
from warehouse.engine.lease import Lease
from warehouse.engine.options import Options
from warehouse.engine.plan import AnyStep, Step, no_reference
from warehouse.engine.references import reference
from warehouse.engine.retry import Retries, insist
from warehouse.engine.state import OpenUnit, StepState, TimedOut
from warehouse.engine.takeback import CallMade
from warehouse.engine.trailing import Moment
from warehouse.errors import (
    InvalidOperation,
    JournalUnavailable,
    OutcomeUnknown,
    StepFailed,
    StoreError,
    TransactionConflict,
    WarehouseError,
)
from warehouse.journal.base import (
    Claim,
    Idempotency,
    Journal,
    ReplyLost,
    Superseded,
)
from warehouse.operations import Operation
from warehouse.planning import key_in
from warehouse.records import Absent, Record
from warehouse.registry import Participant
from warehouse.results import Pattern, Residue, Status

_COMPARE = {
    "$eq": int.__eq__,
    "$ne": int.__ne__,
    "$gt": int.__gt__,
    "$gte": int.__ge__,
    "$lt": int.__lt__,
    "$lte": int.__le__,
}


class Run:
    """The state of one transaction. Patterns move it forward; it decides nothing itself."""

    def __init__(self, options: Options, lease: Lease, pattern: Pattern, started: float) -> None:
        self.claim = Claim(uuid.uuid4().hex)
        self.options = options
        self.lease = lease
        self.journal: Journal = lease.journal
        self.pattern: Pattern = pattern
        self.idempotency: Idempotency | None = None
        self.journaled = False
        self.alone: list[OpenUnit] = []  # what committed without the journal
        self.lone = False  # it has one step, and needs no protocol
        self.started = started
        self.began = time.time()
        self.since = Moment()
        self.patience = options.lock_timeout
        self.states: dict[int, StepState] = {}
        self.units: dict[str, OpenUnit] = {}
        self.residue: list[Residue] = []
        self.image_bytes: dict[int, int] = {}
        self.status: Status | None = None
        self.error: StepFailed | None = None

    @property
    def id(self) -> str:
        return self.claim.transaction_id

    async def keep(self) -> None:
        """Make sure that the (journaled) transaction is still ours. Raises Superseded or OutcomeUnknown.

        Where the lease has run out, and the journal is away, it is asked again for `grace`: what was written too late
        is taken back only by who knows it.
        """
        try:
            self.claim = await insist(lambda: self.lease.keep(self.claim), self.options.grace)
        except (JournalUnavailable, ReplyLost) as error:
            raise unknown(self, error.message) from error

    def release(self) -> None:
        """Nothing here brings it to its end any more: if it has none, recovery does."""
        if self.id not in self.lease.trailing:
            self.lease.active.discard(self.id)

    # Time

    @property
    def remaining(self) -> float:
        """Seconds until the transaction's time-out."""
        return self.started + self.options.timeout - time.monotonic()

    def retries(self) -> Retries:
        """A fresh count of how often its steps may be tried again."""
        operations: dict[str, Operation] = {
            state.step.name: state.step.operation for state in self.states.values()
        }
        return Retries(self.options, self.started + self.options.timeout, operations)

    # Steps

    def add(self, step: AnyStep) -> StepState:
        self.states[step.index] = StepState(step)
        return self.states[step.index]

    async def execute(
        self, step: AnyStep, work: Callable[[StepState], Awaitable[None]] | None = None
    ) -> None:
        """Execute one step in its store's unit, or do its `work`.

        Raises StepFailed, with the store's error as its cause; and, of work that is journaled, JournalUnavailable,
        OutcomeUnknown and Superseded.
        """
        state = self.states[step.index]
        state.attempts += 1
        began = time.monotonic()
        try:
            limit = step.operation.timeout or self.options.step_timeout
            await _in_time(lambda: (work or self._execute)(state), limit)
        except (JournalUnavailable, OutcomeUnknown, Superseded):
            raise
        except WarehouseError as error:
            raise self.fail(state, error, error.__cause__ or error) from (error.__cause__ or error)
        except Exception as error:
            raise self.fail(state, StoreError(f"{type(error).__name__}: {error}"), error) from error
        finally:
            state.duration += time.monotonic() - began

    async def execute_together(self, steps: Sequence[AnyStep]) -> bool:
        """Execute steps in one round trip, where all are of one store, and it and they allow it.

        False: nothing was done, or something failed and was rolled back: execute them one by one.
        """
        plain = [step for step in steps if isinstance(step, Step) and self._is_plain(step)]
        if not 1 < len(plain) <= self.options.max_records or self.units or len(plain) < len(steps):
            return False
        if len({step.store for step in plain}) > 1:
            return False
        began = time.monotonic()
        done: list[StepChanges] | None
        try:
            opened = await self.open(plain[0].participant)
            unit = cast("TogetherUnit", opened.unit)
            done = await unit.execute_together([step.request(no_reference) for step in plain])
        except Exception:  # noqa: BLE001 - it is met again, and told, by the step that it belongs to
            done = None
        if done is None:
            await self.close()
            return False
        for step, changes in zip(steps, done, strict=True):
            state = self.states[step.index]
            state.done, state.status = changes, "executed"
            state.attempts += 1
            state.duration += (time.monotonic() - began) / len(steps)
            opened.steps.append(state)
        return True

    def _is_plain(self, step: Step) -> bool:
        """Whether nothing but the store decides how the step ends."""
        operation = step.operation
        limited = operation.timeout or self.options.step_timeout or operation.expect or operation.allow_fail
        together = step.participant.adapter.capabilities.together
        return together and step.ready is not None and not step.depends and not limited

    async def _execute(self, state: StepState) -> None:
        step = state.origin
        request = step.request(self.lookup)
        if step.depends:
            step.participant.adapter.check(request)
        opened = await self.open(step.participant)
        opened.steps.append(state)
        done = await self._execute_lone(opened, step, request)
        if done is None:
            done = await opened.unit.execute(request, savepoint=step.operation.allow_fail)
        _check_expectation(step, done.affected)
        state.done, state.status = done, "executed"
        self._check_size()

    async def _execute_lone(self, opened: OpenUnit, step: Step, request: Request) -> StepChanges | None:
        """Execute the only step of a transaction in the round trip that begins it; None where that cannot be."""
        if not self.lone or not self._is_plain(step):
            return None
        done = await cast("TogetherUnit", opened.unit).execute_together([request])
        return None if done is None else done[0]

    def time_is_up(self, state: StepState) -> StepFailed:
        """Mark a step as the one that the transaction's time-out interrupted, or kept from running."""
        error = TimedOut(
            f"the transaction's timeout of {self.options.timeout} s ran out", hint="raise `timeout`"
        )
        return self.fail(state, error, TimeoutError(error.message))

    def fail(self, state: StepState, error: WarehouseError, cause: BaseException) -> StepFailed:
        """Mark a step as failed with `error`, caused by `cause`; the StepFailed that says so."""
        state.step.locate(error)
        failure = StepFailed(
            error.message,
            step=error.step,
            tag=error.tag,
            entity=error.entity,
            field=error.field,
            hint=error.hint,
        )
        failure.__cause__ = cause
        failure.reason = error
        state.status, state.error, state.done = "failed", failure, None
        return failure

    def _check_size(self) -> None:
        records = sum(len(state.done.changes) for state in self.states.values() if state.done is not None)
        if records > self.options.max_records:
            raise StoreError(
                f"the transaction changes more than {self.options.max_records} records",
                hint="raise transactions.max_records, or split it",
            )

    def lookup(self, text: str) -> Any:
        """What a reference stands for now. Raises InvalidOperation where that is nothing."""
        found = reference(text)
        state = next(state for state in self.states.values() if state.step.name == found.step)
        if state.status != "executed":
            raise InvalidOperation(f"the reference {text!r} names a step that failed")
        return found.value(state.rows())

    async def find(self, participant: Participant, query: Query) -> list[Record]:
        """Read in the participant's unit: the transaction's own steps are seen.

        A read that locks raises TransactionConflict where a transaction that has not come to its end has changed
        what it would see: in this store that may be committed already, or not yet.
        """
        opened = await self.open(participant)
        records = await opened.unit.find(query)
        if query.lock:
            if records:
                opened.locked = query.info, key_in(query.info, records[-1])
            trailing = self.lease.trailing
            for change in await trailing.unfinished(participant.identity, query.info.entity):
                images = (image for image in (change.before, change.after) if not isinstance(image, Absent))
                if any(conditions.evaluate(query.where, image) for image in images):
                    raise TransactionConflict(
                        f"{change.entity} {change.key} was changed by a transaction that has not ended yet",
                        tag=participant.tag,
                        hint="run the block again",
                    )
        return records

    async def still_locked(self) -> None:
        """Make sure that what was read under lock is locked now, in all stores at the same time.

        A store that crashed, or a connection that broke, lets go of its locks before the others do. Raises
        TransactionConflict.
        """
        ends_with_its_commit = len(self.units) == 1 and self.idempotency is None
        for opened in () if ends_with_its_commit else self.units.values():
            if opened.locked is None:
                continue
            info, key = opened.locked
            try:
                await opened.unit.read(info, [key])
            except StoreError as error:
                tag = opened.participant.tag
                raise TransactionConflict(
                    f"{tag} has let go of what was read under lock: {error.message}",
                    tag=tag,
                    hint="run the block again",
                ) from error

    # Units

    async def open(self, participant: Participant) -> OpenUnit:
        """The open unit of the participant's store, opened now if there is none."""
        opened = self.units.get(participant.identity)
        if opened is None:
            prepares = participant.adapter.capabilities.prepares
            wanted = self.pattern == "two_phase_commit" or (self.options.hold and prepares)
            prepare_as = self.prepared_id if wanted else None
            settings = UnitSettings(transaction_id=self.id, lock_timeout=self.patience, prepare_as=prepare_as)
            context = participant.adapter.unit(settings)
            unit = await context.__aenter__()
            opened = self.units[participant.identity] = OpenUnit(participant, unit, context)
        return opened

    async def close(self, opened: Iterable[OpenUnit] | None = None) -> None:
        """Roll back and close units (default: all). What was committed stays; never raises."""
        for item in list(self.units.values()) if opened is None else list(opened):
            self.units.pop(item.participant.identity, None)
            await item.unit.rollback()
            await item.context.__aexit__(None, None, None)

    async def leave(self, opened: Iterable[OpenUnit]) -> None:
        """Close units; what is prepared stays so. Never raises."""
        for item in opened:
            self.units.pop(item.participant.identity, None)
            await item.context.__aexit__(None, None, None)

    @property
    def prepared_id(self) -> PreparedId:
        """What its units are prepared as."""
        return PreparedId(self.journal.uid, self.lease.owner, self.id)

    def reset(self) -> None:
        """Forget what was staged (and has been rolled back), to stage again.

        Under a new id; but not what has made calls: it keeps its entry in the journal, and the calls.
        """
        if not self.journaled:
            self.release()
            self.claim = Claim(uuid.uuid4().hex)
        for state in self.states.values():
            if not self.journaled:
                state.called = None
            if not state.let_off:
                state.status, state.done, state.error = "waiting", None, None

    def let_off(self, failure: WarehouseError) -> bool:
        """Whether the step that failed may fail, and there is time to go on: it is then not tried again."""
        if self.remaining <= 0:
            return False
        for state in self.states.values():
            if state.step.name == failure.step and state.step.operation.allow_fail:
                state.status, state.let_off = "tolerated", True
                return True
        return False

    # What is undone, and what the journal keeps

    def terms(self) -> Terms:
        """On what terms its changes are undone or redone."""
        return Terms(
            transaction_id=self.id,
            grace=self.options.grace,
            lock_timeout=self.options.lock_timeout,
            keep=self.keep,
        )

    def last_first(self, states: Iterable[StepState]) -> list[Done | CallMade]:
        """What to undo of `states`: by `compensation_priority`, highest first; then what came last first."""
        places = self.places()

        def key(numbered: tuple[int, StepState]) -> tuple[int, int, int]:
            number, state = numbered
            return state.step.operation.compensation_priority, places[state.step.index], number

        undone = [state for state in states if isinstance(state.step, Step) or state.calls]
        return [state.made() for _, state in sorted(enumerate(undone), key=key, reverse=True)]

    def places(self) -> dict[int, int]:
        """The places of the steps, by index, in the order that they are executed in."""
        steps = in_order((state.step for state in self.states.values()), key=lambda step: step.index)
        return {step.index: place for place, step in enumerate(steps)}

    def keeps(self, state: StepState) -> bool:
        """Whether what a step did is to stay where a later one fails, by the option `rollback`."""
        rollback = self.options.rollback
        return rollback == "none" or (rollback == "critical_only" and not state.step.operation.critical)

    @property
    def first_made(self) -> StepState:
        """The first step that did something, or was the first to try: it is told what the transaction met."""
        every = list(self.states.values())
        return next((state for state in every if state.done is not None or state.calls), every[0])

    def calls(self) -> list[StepState]:
        """The steps that have called, or are about to call, an action."""
        return [state for state in self.states.values() if state.called is not None]

    # The end

    def end(self, status: Status, error: StepFailed | None = None) -> None:
        """Note how the transaction ended."""
        self.status, self.error = status, error


def unknown(run: Run, message: str, *, journaled: bool = True) -> OutcomeUnknown:
    """The error for an end that cannot be told. `journaled`: the transaction may have locks in the journal."""
    return OutcomeUnknown(
        f"how transaction {run.id} ended cannot be told: {message}",
        transaction_id=run.id,
        hint="its records stay locked until it is known" if journaled else "look at its records",
    )


async def _in_time(work: Callable[[], Awaitable[None]], limit: float | None) -> None:
    if limit is None:
        await work()
        return
    with anyio.move_on_after(limit) as scope:
        await work()
    if scope.cancelled_caught:
        text = f"it took longer than {limit} s"
        raise TimedOut(text) from TimeoutError(text)


def _check_expectation(step: Step, affected: int) -> None:
    expect = step.operation.expect
    if expect is None:
        return
    wanted = expect.affected_rows
    tests = {"$eq": wanted} if isinstance(wanted, int) else wanted
    for operator, number in tests.items():
        if not _COMPARE[operator](affected, number):
            sign = {"$eq": "", "$ne": "not ", "$gt": "> ", "$gte": ">= ", "$lt": "< ", "$lte": "<= "}[
                operator
            ]
            raise StoreError(f"expected affected_rows {sign}{number}, found {affected}", field="expect")
