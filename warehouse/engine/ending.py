"""Bringing a transaction that was taken over to its end, from what the journal and the stores say of it."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from warehouse.actions import Actions, Called
from warehouse.adapter import EntityInfo, Outcome, PreparedId, Unit, UnitSettings
from warehouse.engine.compensate import (
    Done,
    NothingWritten,
    Origin,
    Terms,
    Unreachable,
    kept,
    place,
    redo,
    undo,
)
from warehouse.engine.durable import goes_backward
from warehouse.engine.retry import insist
from warehouse.engine.takeback import CallMade
from warehouse.errors import InvalidOperation, StoreError, TransientError, WarehouseError
from warehouse.journal.base import Entry, EntryStep, Journal, Superseded
from warehouse.records import Absent, Entity, same_image
from warehouse.registry import Participant, Registry
from warehouse.results import Recovered, Residue, Status
from warehouse.undo import combine

_log = logging.getLogger("warehouse")


class NotYet(WarehouseError):
    """The transaction cannot be ended now; it can be later."""


@dataclass(frozen=True, slots=True)
class Journaled:
    """A step as the journal has it: the origin of its changes."""

    entry: EntryStep
    participant: Participant

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def tag(self) -> str:
        return self.participant.tag

    async def describe(self, entity: Entity) -> EntityInfo:
        return await self.participant.adapter.describe(entity)


async def reach(registry: Registry, step: EntryStep) -> Participant:
    """Who reaches the store that a step was made in: the tag of then, or another. Raises NotYet."""
    problem = f"no adapter reaches the store of step {step.name!r}, which had the tag {step.tag!r}"
    for tag in sorted(registry.tags, key=lambda tag: tag != step.tag):
        try:
            participant = await registry.connected(tag)
        except Exception as error:  # noqa: BLE001 - whatever it is, it cannot be reached now
            if tag == step.tag:
                problem = f"{tag} cannot be reached: {error}"
            continue
        if participant.identity == step.store:
            return participant
        if tag == step.tag:
            problem = f"{tag} now reaches another store than the one that step {step.name!r} changed"
    raise NotYet(problem, step=step.name, tag=step.tag)


class Ending:
    """The end of one transaction, which is ours by `entry.claim`.

    Raises NotYet, Superseded, or what the journal raises; then it can be run again, by whoever owns it.
    """

    def __init__(
        self,
        registry: Registry,
        actions: Actions,
        journal: Journal,
        entry: Entry,
        *,
        grace: float,
        lock_timeout: float,
    ) -> None:
        self._registry = registry
        self._actions = actions
        self._journal = journal
        self._entry = entry
        self._steps: list[Journaled] = []
        self._untouched: set[str] = set()  # the stores in which nothing was written, as we know
        self._terms = Terms(
            transaction_id=entry.transaction_id, grace=grace, lock_timeout=lock_timeout, keep=self._keep
        )

    async def _keep(self) -> None:
        if not await self._journal.is_mine(self._entry.claim):
            raise Superseded(f"transaction {self._entry.transaction_id} was taken over")

    async def run(self, *, settled: bool = False) -> Recovered:
        """End it: forward where it was decided, backward where it was not, or where forward is impossible.

        `settled`: no write of anybody's can be on its way any more.
        """
        self._steps = [await self._reached(step) for step in self._entry.steps if step.called is None]
        self._untouched = {step.entry.store for step in self._steps} if settled else set()
        if not settled:
            settle = (step.participant.adapter.capabilities.settle for step in self._steps)
            await anyio.sleep(max(settle, default=0))
        if self._entry.state == "committing" and await self._forward():
            return await self._finish("completed", [])
        return await self._backward()

    async def _reached(self, step: EntryStep) -> Journaled:
        """A step whose store is reached, and has described what was changed. Raises NotYet."""
        found = Journaled(step, await reach(self._registry, step))
        with _reaching(found):
            for entity in step.entities:
                await found.describe(entity)
        return found

    # Forward

    async def _forward(self) -> bool:
        """Make what is missing. False where that is impossible.

        Guarded writes come before any commit: if one participant has committed, all of them had been made, and
        what is different there now was changed since. What is prepared comes last, since it cannot fail.
        """
        held, guarded = self._by_store(holds=True), self._by_store(holds=False)
        waiting = await self._still_prepared(held)
        committed = {
            store: store not in waiting and await self._has_committed(steps) for store, steps in held.items()
        }
        if not any(committed.values()):
            for steps in guarded.values():
                if not await self._redo(steps):
                    return False
        for store, steps in held.items():
            if store not in waiting and not committed[store] and not await self._redo(steps):
                return False
        for store in waiting:
            await self._end_prepared(held[store][0], commit=True)
        return True

    async def _still_prepared(self, held: Mapping[str, Sequence[Journaled]]) -> list[str]:
        """The stores in which it is prepared, and has been neither committed nor rolled back."""
        out = []
        for store in [name for name in held if name in self._entry.prepared]:
            with _reaching(held[store][0]):
                if self._prepared_id in await held[store][0].participant.adapter.prepared():
                    out.append(store)
        return out

    async def _end_prepared(self, step: Journaled, *, commit: bool) -> None:
        with _reaching(step):
            await step.participant.adapter.finish(self._prepared_id, commit=commit)

    @property
    def _prepared_id(self) -> PreparedId:
        return PreparedId(self._journal.uid, self._entry.prepared_by, self._entry.transaction_id)

    def _by_store(self, *, holds: bool) -> dict[str, list[Journaled]]:
        out: dict[str, list[Journaled]] = {}
        for step in self._steps:
            if step.participant.adapter.capabilities.holds is holds:
                out.setdefault(step.entry.store, []).append(step)
        return out

    async def _redo(self, steps: Sequence[Journaled]) -> bool:
        """Make what is missing in one store; whether that was possible.

        Where each write stands for itself, one may have been sent when others had ended the transaction: it is then
        taken back (COUNTEREXAMPLES, C6).
        """
        done = [Done(step, step.entry.changes, known=False) for step in steps]
        guarded = not steps[0].participant.adapter.capabilities.holds
        try:
            try:
                return await self._make(steps, done)
            finally:
                if guarded:
                    await insist(self._keep, self._terms.grace)
        except Superseded:
            if guarded:
                await self._take_back(done)
            raise

    async def _take_back(self, late: Sequence[Done]) -> None:
        """Undo what was written too late, if whoever took over goes, or went, backward."""
        give_up = time.monotonic() + self._terms.grace
        if await goes_backward(self._journal, self._entry.transaction_id, give_up):
            for item in await undo(self._terms.too_late(self._journal), list(late)):
                _log.warning("what was made again too late is left in %s", item)

    async def _make(self, steps: Sequence[Journaled], done: Sequence[Done]) -> bool:
        try:
            problem = await redo(self._terms, steps[0].participant, done)
        except Unreachable as error:
            raise NotYet(f"{steps[0].tag}: {error}", tag=steps[0].tag) from error
        if problem is None or not isinstance(problem, NothingWritten):
            self._untouched.discard(steps[0].entry.store)
        if problem is not None and problem.outcome_unknown:
            raise NotYet(f"{steps[0].tag}: {problem}", tag=steps[0].tag) from problem
        return problem is None

    async def _has_committed(self, steps: Sequence[Journaled]) -> bool:
        """Whether a held participant committed: its own answer, else its records, read under lock."""
        asked = await self._ask(steps)
        if asked is not None:
            return asked
        if steps[0].entry.store in self._entry.prepared:
            return True  # nobody rolls back what was decided
        changes = combine([change for step in steps for change in step.entry.changes], place)
        ulps = steps[0].participant.adapter.capabilities.float_ulps
        async with self._unit(steps[0]) as unit:
            for change in changes:
                if same_image(change.before, change.after, change.written, ulps=ulps):
                    continue
                info = await steps[0].describe(change.entity)
                (current,) = await unit.read(info, [change.key])
                return same_image(current, change.after, change.written, ulps=ulps)
        return False

    async def _ask(self, steps: Sequence[Journaled]) -> bool | None:
        """What the store says of its own transaction; None where it cannot tell. NotYet while it is open."""
        adapter, token = steps[0].participant.adapter, self._entry.tokens.get(steps[0].entry.store)
        if token is None or not adapter.capabilities.asks:
            return None
        with _reaching(steps[0]):
            outcome = await adapter.outcome(token)
        if outcome is Outcome.OPEN:
            raise NotYet("the store still has the transaction open", step=steps[0].name, tag=steps[0].tag)
        return None if outcome is Outcome.UNKNOWN else outcome is Outcome.COMMITTED

    @asynccontextmanager
    async def _unit(self, step: Origin) -> AsyncIterator[Unit]:
        settings = UnitSettings(
            transaction_id=self._entry.transaction_id, lock_timeout=self._terms.lock_timeout
        )
        with _reaching(step):
            async with step.participant.adapter.unit(settings) as unit:
                yield unit

    # Backward

    async def _backward(self) -> Recovered:
        """Undo what was made, or may have been; what cannot be undone is the residue."""
        if self._entry.state != "compensating":
            detail: dict[str, Any] = {"expired": True} if self._entry.state == "held" else {}
            if self._untouched or self._entry.state == "held":
                detail["made"] = self._made()
            await self._journal.change_state(self._entry.claim, "compensating", detail)
            self._entry = replace(self._entry, detail={**self._entry.detail, **detail})
        held = self._by_store(holds=True)
        for store in await self._still_prepared(held):
            await self._end_prepared(held[store][0], commit=False)
        made = {step.index for step, changes in self._entry.made() if changes}
        for steps in held.values():
            if await self._ask(steps) is None:
                await self._meet_inserts([step for step in steps if step.entry.index in made])
        stays = set(self._entry.detail.get("kept", self._entry.detail.get("keep", ())))
        residue = kept(
            [done for index, done in self._last_first() if index in stays and await self._is_there(done)]
        )
        residue += await undo(self._terms, [done for index, done in self._last_first() if index not in stays])
        away = [item for item in residue if item.reason == "unreachable"]
        if away:
            raise NotYet(away[0].detail, step=away[0].step, tag=away[0].tag)
        return await self._finish("failed" if residue else "compensated", residue)

    async def _is_there(self, done: Done | CallMade) -> bool:
        """Whether anything of what is to stay was made: its owner may have died before that."""
        if isinstance(done, CallMade) or "kept" in self._entry.detail:
            return True
        origin, ulps = done.origin, done.origin.participant.adapter.capabilities.float_ulps
        async with self._unit(origin) as unit:
            for change in done.changes:
                (current,) = await unit.read(await origin.describe(change.entity), [change.key])
                if same_image(current, change.after, change.written, ulps=ulps):
                    return True
        return False

    def _made(self) -> dict[str, int]:
        """How many changes of each step may have been made."""
        if self._entry.state == "held":
            return {}
        return {
            str(step.entry.index): len(step.entry.changes)
            for step in self._steps
            if step.entry.store not in self._untouched
        }

    def _last_first(self) -> list[tuple[int, Done | CallMade]]:
        """What to undo, by place, in order."""
        changes = {step.index: made for step, made in self._entry.made()}
        out: list[tuple[EntryStep, Done | CallMade]] = [
            (step.entry, Done(step, changes[step.entry.index], known=False))
            for step in self._steps
            if changes[step.entry.index]
        ]
        out += [
            (step, self._call(step, step.called))
            for step in self._entry.steps
            if step.called is not None and step.called.counts
        ]
        out.sort(key=lambda item: (item[0].priority, item[0].index), reverse=True)
        return [(step.index, done) for step, done in out]

    def _call(self, step: EntryStep, called: Called) -> CallMade:
        """The call of a step; NotYet where the action is not known here."""
        name = called.action
        if not self._actions.knows(name):
            raise NotYet(f"no action is registered as {name!r} in this process", step=step.name)
        return CallMade(step.name, self._actions.get(name), called)

    async def _meet_inserts(self, steps: Sequence[Journaled]) -> None:
        """Make sure that no insert of a paused owner can still be committed: ours would have to wait for it.

        A record that is not there has no lock. So it is inserted, and rolled back.
        """
        for step in steps:
            for change in step.entry.changes:
                if not isinstance(change.before, Absent):
                    continue
                async with self._unit(step) as unit:
                    info = await step.describe(change.entity)
                    (current,) = await unit.read(info, [change.key])
                    if isinstance(current, Absent):
                        (written,) = await unit.write([change])
                        if isinstance(written.error, TransientError):
                            raise written.error

    async def _finish(self, state: Status, residue: list[Residue]) -> Recovered:
        detail = {"residue": [item.model_dump(mode="json") for item in residue]} if residue else {}
        await self._journal.finish(self._entry.claim, state, detail)
        return Recovered(
            transaction_id=self._entry.transaction_id, name=self._entry.name, status=state, residue=residue
        )


@contextmanager
def _reaching(step: Origin) -> Iterator[None]:
    """What goes wrong in a store here says nothing of the transaction: it is looked at again later."""
    try:
        yield
    except (StoreError, InvalidOperation) as error:
        raise NotYet(f"{step.tag}: {error.message}", step=step.name, tag=step.tag) from error
