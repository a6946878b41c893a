"""A journal that lives as long as its process: for tests, and where nothing must survive a crash."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from warehouse.errors import JournalUnavailable
from warehouse.journal.base import (
    FINAL,
    PRUNED,
    Claim,
    Entry,
    EntryStep,
    Heartbeat,
    Keyed,
    KeyTaken,
    Lock,
    RecordLocked,
    Superseded,
    name_key,
)
from warehouse.records import Change, Entity
from warehouse.results import State


class MemoryJournal:
    """A `Journal` in dictionaries. No method awaits, so that each is atomic among tasks."""

    description = "memory"
    identity: str | None = None

    def __init__(self) -> None:
        self.uid = uuid4().hex[:16]
        self._entries: dict[str, Entry] = {}
        self._tombstones: set[str] = set()
        self._locks: dict[Lock, str] = {}
        self._finished: dict[Lock, int] = {}
        self._sequence = 0
        self._ended: dict[str, int] = {}
        self._keys: dict[str, tuple[Keyed, float]] = {}
        self._heartbeats: dict[str, Heartbeat] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Keep everything: the same journal may be opened again."""

    async def sequence(self) -> int:
        return self._sequence

    async def touched(self, since: int) -> frozenset[tuple[str, Entity]]:
        recent = (self._entries[name] for name, number in self._ended.items() if number > since)
        return frozenset(
            (step.store, entity) for entry in recent for step in entry.steps for entity in step.entities
        )

    async def unfinished(
        self, store: str, entity: Entity, ignoring: Collection[str] = frozenset()
    ) -> list[Change]:
        return [
            change
            for entry in self._entries.values()
            if entry.state not in FINAL and entry.transaction_id not in ignoring
            for step in sorted(entry.steps, key=lambda step: step.index)
            if step.store == store
            for change in step.changes
            if change.entity == entity
        ]

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        taken = ((self._locks.get(item), item) for item in locks)
        return next((RecordLocked(holder, item) for holder, item in taken if holder), None)

    async def decide(
        self,
        entry: Entry,
        since: int,
        *,
        carried: Sequence[Claim] = (),
        seen: Collection[str] = frozenset(),
    ) -> None:
        if entry.transaction_id in self._entries or entry.transaction_id in self._tombstones:
            raise JournalUnavailable(f"the journal has an entry {entry.transaction_id} already")
        idempotency = entry.idempotency
        if idempotency is not None and await self.keyed(idempotency.key) is not None:
            raise KeyTaken(f"the idempotency key {idempotency.key!r} is taken")
        name = name_key(str(entry.name)) if entry.state == "held" else None
        if name is not None and await self.keyed(name) is not None:
            raise KeyTaken(f"a transaction is held under the name {entry.name!r}")
        leaving = {claim.transaction_id for claim in carried if self._is_open(claim)}
        self._check(entry.transaction_id, list(entry.locks()), since, seen, leaving)
        await self.complete(carried)
        self._locks.update(dict.fromkeys(entry.locks(), entry.transaction_id))
        if name is not None:
            self._keys[name] = (Keyed(entry.transaction_id, b"name"), math.inf)
        if idempotency is not None:
            self._keys[idempotency.key] = (
                Keyed(entry.transaction_id, idempotency.fingerprint),
                idempotency.expires,
            )
        self._entries[entry.transaction_id] = entry

    async def keyed(self, key: str) -> Keyed | None:
        keyed, expires = self._keys.get(key, (None, 0.0))
        return keyed if expires > time.time() else None

    async def held(self, name: str) -> str | None:
        keyed = await self.keyed(name_key(name))
        return None if keyed is None else keyed.transaction_id

    async def latest(self, name: str) -> Entry | None:
        found = [entry for entry in self._entries.values() if entry.name == name and entry.state in FINAL]
        last = max(found, key=lambda entry: entry.started, default=None)
        return None if last is None else replace(last, steps=())

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
        entry = self._claimed(claim)
        locks = list({item: None for step in steps for item in step.locks()})
        self._check(claim.transaction_id, locks, since, seen)
        self._locks.update(dict.fromkeys(locks, claim.transaction_id))
        new = {step.index for step in steps}
        kept = [item for item in entry.steps if item.index not in new]
        entry = replace(entry, steps=(*kept, *steps), tokens={**entry.tokens, **tokens})
        if change is not None:
            entry = replace(entry, state=change[0], detail={**entry.detail, **change[1]})
        self._entries[claim.transaction_id] = entry

    def _check(
        self,
        transaction_id: str,
        locks: Sequence[Lock],
        since: int,
        seen: Collection[str],
        leaving: Collection[str] = frozenset(),
    ) -> None:
        """Raise RecordLocked, as `decide` says; those `leaving` are about to finish."""
        known = {self._ended.get(name) for name in seen}
        for item in locks:
            holder, number = self._locks.get(item), self._finished.get(item, 0)
            if holder in leaving:
                if holder not in seen:
                    raise RecordLocked(None, item)
            elif holder not in {None, transaction_id}:
                raise RecordLocked(holder, item)
            if number > since and number not in known:
                raise RecordLocked(None, item)

    async def settle(self, transaction_id: str) -> bool:
        if transaction_id not in self._entries:
            self._tombstones.add(transaction_id)
        return transaction_id in self._entries

    async def change_state(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        entry = self._claimed(claim)
        self._entries[claim.transaction_id] = replace(entry, state=state, detail={**entry.detail, **detail})

    async def finish(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        entry = replace(self._claimed(claim), finished=time.time())
        self._entries[claim.transaction_id] = replace(entry, state=state, detail={**entry.detail, **detail})
        self._keys = {
            key: value
            for key, value in self._keys.items()
            if value[0].transaction_id != claim.transaction_id
            or (state == "completed" and key != name_key(str(entry.name)))
        }
        self._sequence += 1
        self._ended[claim.transaction_id] = self._sequence
        for item in [item for item, owner in self._locks.items() if owner == claim.transaction_id]:
            del self._locks[item]
            self._finished[item] = self._sequence

    async def complete(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if self._is_open(claim):
                await self.finish(claim, "completed", {})

    def _claimed(self, claim: Claim) -> Entry:
        entry = self._entries.get(claim.transaction_id)
        if entry is not None and entry.epoch != claim.epoch:
            raise Superseded(f"transaction {claim.transaction_id} was taken over")
        if entry is None or entry.state in FINAL:
            raise JournalUnavailable(f"the journal has no open transaction {claim.transaction_id}")
        return entry

    async def take_over(
        self, claim: Claim, owner: str, change: tuple[State, dict[str, Any]] | None = None
    ) -> Claim | None:
        if not await self.is_mine(claim):
            return None
        taken = replace(self._entries[claim.transaction_id], owner=owner, epoch=claim.epoch + 1)
        if change is not None:
            if taken.state != "held":
                return None
            taken = replace(taken, state=change[0], detail={**taken.detail, **change[1]})
        self._entries[claim.transaction_id] = taken
        return taken.claim

    async def is_mine(self, claim: Claim) -> bool:
        return self._is_open(claim)

    def _is_open(self, claim: Claim) -> bool:
        entry = self._entries.get(claim.transaction_id)
        return entry is not None and entry.state not in FINAL and entry.epoch == claim.epoch

    async def entry(self, transaction_id: str) -> Entry | None:
        return self._entries.get(transaction_id)

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        wanted = None if states is None else set(states)
        return [entry for entry in self._entries.values() if wanted is None or entry.state in wanted]

    async def recent(self, states: Iterable[State] | None, limit: int) -> list[Entry]:
        found = sorted(await self.entries(states), key=lambda entry: entry.started, reverse=True)
        return [replace(entry, steps=()) for entry in found[:limit]]

    async def of_record(self, lock: Lock, limit: int) -> list[Entry]:
        found = [entry for entry in self._entries.values() if lock in entry.locks()]
        return sorted(found, key=lambda entry: entry.started, reverse=True)[:limit]

    async def since(self, lock: Lock, transaction_id: str) -> list[Entry]:
        mine = self._ended.get(transaction_id, math.inf)
        return [
            entry
            for name, entry in self._entries.items()
            if mine < self._ended.get(name, 0 if entry.state in FINAL else math.inf) and lock in entry.locks()
        ]

    async def note(self, entries: Sequence[Entry]) -> None:
        self._entries.update({entry.transaction_id: entry for entry in entries})

    async def resolve(self, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
        entry = self._entries.get(transaction_id)
        if entry is None or entry.state != "failed":
            return False
        self._entries[transaction_id] = replace(entry, state=state, detail={**entry.detail, **detail})
        return True

    async def forget(self, lock: Lock) -> tuple[int, list[str]]:
        forgotten, kept = 0, []
        for name, entry in self._entries.items():
            if lock not in entry.locks():
                continue
            if entry.state not in PRUNED:
                kept.append(name)
                continue
            steps = tuple(step.without(lock) for step in entry.steps)
            self._entries[name] = replace(entry, steps=steps, detail={**entry.detail, "forgotten": True})
            forgotten += 1
        return forgotten, kept

    async def claims(self) -> dict[Claim, str]:
        now = time.time()
        return {
            entry.claim: entry.owner
            for entry in self._entries.values()
            if entry.state not in FINAL and (entry.state != "held" or (entry.expires or 0) <= now)
        }

    async def beat(self, owner: str, lease: float) -> None:
        self._heartbeats[owner] = Heartbeat.new(lease)

    async def heartbeats(self) -> dict[str, Heartbeat]:
        return dict(self._heartbeats)

    async def retire(self, owner: str, seen: Heartbeat | None = None) -> None:
        if seen is None or self._heartbeats.get(owner) == seen:
            self._heartbeats.pop(owner, None)

    async def prune(self, *, finished: float, images: float) -> None:
        self._keys = {key: value for key, value in self._keys.items() if value[1] > time.time()}
        needed = {keyed.transaction_id for keyed, _ in self._keys.values()}
        for transaction_id, entry in list(self._entries.items()):
            if entry.state not in PRUNED or entry.finished is None or transaction_id in needed:
                continue
            if entry.finished < finished:
                del self._entries[transaction_id]
                self._ended.pop(transaction_id, None)
            elif entry.finished < images:
                self._entries[transaction_id] = replace(entry, steps=())
