"""How far the steps of a transaction have come, and the units that they are executed in."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal

from warehouse.actions import Called, Invocation
from warehouse.adapter import EntityInfo, StepChanges, Unit
from warehouse.engine.compensate import Done
from warehouse.engine.plan import AnyStep, CallStep, Step
from warehouse.engine.takeback import CallMade
from warehouse.errors import StepFailed, StoreError
from warehouse.journal.base import Lock
from warehouse.journal.base import locks as step_locks
from warehouse.records import Change, Entity, Key, Record
from warehouse.registry import Participant


class TimedOut(StoreError):
    """A step, or its transaction, took longer than it may."""


@dataclass(slots=True)
class StepState:
    """How far a step has come.

    `known`: what it changed (`done`) is known to have been made. `let_off`: it was allowed to fail, did, and is
    not tried again. `called`: the call that it made, or is about to make; `invocation`: the call itself, in this
    process.
    """

    step: AnyStep
    status: Literal["waiting", "executed", "failed", "tolerated", "skipped"] = "waiting"
    done: StepChanges | None = None
    error: StepFailed | None = None
    attempts: int = 0
    duration: float = 0.0
    known: bool = True
    let_off: bool = False
    called: Called | None = None
    invocation: Invocation | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """What it changed."""
        return () if self.done is None else self.done.changes

    @property
    def calls(self) -> bool:
        """Whether it made, or may have made, a call that had an effect."""
        return self.called is not None and self.called.counts

    @property
    def guarded(self) -> bool:
        """Whether it is of a store without transactions, where each write stands for itself."""
        return isinstance(self.step, Step) and not self.step.participant.adapter.capabilities.holds

    def made(self) -> Done | CallMade:
        """What it changed, or called."""
        if isinstance(self.step, CallStep):
            called = self.called or Called(self.step.action.name, {})
            return CallMade(self.step.name, self.step.action, called, self.invocation)
        return self.done_in_store()

    def done_in_store(self) -> Done:
        """What a step of a store changed."""
        return Done(self.origin, self.changes, self.known)

    @property
    def origin(self) -> Step:
        """The step, which is one of a store."""
        if isinstance(self.step, CallStep):
            raise TypeError(f"{self.step.name} is a call")
        return self.step

    def rows(self) -> list[Record]:
        """The records of the step's result, whole."""
        if self.called is not None:
            return list(self.called.output or ())
        if self.done is None:
            return []
        return [change.visible for change in self.done.changes if not change.dependent]


@dataclass(slots=True)
class OpenUnit:
    """A participant's open unit, and the steps it executed."""

    participant: Participant
    unit: Unit
    context: AbstractAsyncContextManager[Unit]
    steps: list[StepState] = field(default_factory=list)
    locked: tuple[EntityInfo, Key] | None = None
    """A record that was read under lock."""
    prepared: bool = False

    @property
    def holds(self) -> bool:
        return self.participant.adapter.capabilities.holds

    @property
    def changed(self) -> bool:
        """Whether anything was changed here."""
        return any(state.done is not None and state.done.changes for state in self.steps)


def locks(states: Iterable[StepState]) -> dict[Lock, tuple[StepState, Entity, Key]]:
    """The locks of these steps, each once, with what it stands for."""
    return {
        item: (state, entity, key)
        for state in states
        if state.done is not None
        for item, (entity, key) in step_locks(state.step.store, state.done.changes).items()
    }


def returned(step: AnyStep) -> list[str] | None:
    """The fields that the step's result is to have; None for all."""
    fields = step.operation.returning if isinstance(step, Step) else None
    return None if fields is None else list(fields)
