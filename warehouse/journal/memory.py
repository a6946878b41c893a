"""A journal that lives as long as its process: for tests, and where nothing must survive a crash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from warehouse.errors import JournalUnavailable
from warehouse.journal.base import FINAL, Entry, EntryStep, Lock, RecordLocked, State


class MemoryJournal:
    """A `Journal` in dictionaries. No method awaits, so that each is atomic among tasks."""

    description = "memory"
    identity: str | None = None

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._tombstones: set[str] = set()
        self._locks: dict[Lock, str] = {}
        self._finished: dict[Lock, int] = {}
        self._sequence = 0

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Keep everything: the same journal may be opened again."""

    async def sequence(self) -> int:
        return self._sequence

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        return next((RecordLocked(self._locks[item], item) for item in locks if item in self._locks), None)

    async def decide(self, entry: Entry, since: int) -> None:
        if entry.transaction_id in self._entries or entry.transaction_id in self._tombstones:
            raise JournalUnavailable(f"the journal has an entry {entry.transaction_id} already")
        self._take(entry.transaction_id, list(entry.locks()), since)
        self._entries[entry.transaction_id] = entry

    async def append(self, transaction_id: str, step: EntryStep, since: int, tokens: dict[str, str]) -> None:
        entry = self._entry(transaction_id)
        self._take(transaction_id, list(step.locks()), since)
        steps = [item for item in entry.steps if item.index != step.index]
        self._entries[transaction_id] = replace(
            entry, steps=(*steps, step), tokens={**entry.tokens, **tokens}
        )

    def _take(self, transaction_id: str, locks: Sequence[Lock], since: int) -> None:
        for item in locks:
            holder = self._locks.get(item)
            if holder not in {None, transaction_id} or self._finished.get(item, 0) > since:
                raise RecordLocked(holder, item)
        self._locks.update(dict.fromkeys(locks, transaction_id))

    async def settle(self, transaction_id: str) -> bool:
        if transaction_id not in self._entries:
            self._tombstones.add(transaction_id)
        return transaction_id in self._entries

    async def change_state(self, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
        entry = self._entry(transaction_id)
        self._entries[transaction_id] = replace(entry, state=state, detail={**entry.detail, **detail})

    async def finish(self, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
        await self.change_state(transaction_id, state, detail)
        self._sequence += 1
        for item in [item for item, owner in self._locks.items() if owner == transaction_id]:
            del self._locks[item]
            self._finished[item] = self._sequence

    def _entry(self, transaction_id: str) -> Entry:
        entry = self._entries.get(transaction_id)
        if entry is None or entry.state in FINAL:
            raise JournalUnavailable(f"the journal has no open transaction {transaction_id}")
        return entry

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        wanted = None if states is None else set(states)
        return [entry for entry in self._entries.values() if wanted is None or entry.state in wanted]
