"""What is read of the journal in Redis."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from warehouse.journal.base import (
    FINAL,
    Claim,
    Entry,
    EntryStep,
    Heartbeat,
    Keyed,
    Lock,
    RecordLocked,
    name_key,
)
from warehouse.journal.codec import decode
from warehouse.journal.redis_store import (
    ALL,
    CHUNK,
    KEYS,
    LOCKS,
    META,
    OPEN,
    ORDER,
    OWNERS,
    Store,
    place,
)
from warehouse.journal.rows import mapping, undamaged, unpack
from warehouse.journal.seal import Seal
from warehouse.records import Change, Entity
from warehouse.results import State

# In the detail of an entry that says: this transaction was never decided, and must not be.
TOMBSTONE: Final = "tombstone"


class RedisReading:
    """The half of a `Journal` that changes nothing, in the keys `warehouse:*` of one Redis database."""

    identity: str | None = None

    def __init__(self, url: str, seal: Seal | None = None) -> None:
        """Take a URL as `redis://host:6379/0`; ConfigError where it is none, or redis is not installed."""
        self._store = Store(url)
        self._client = self._store.client
        self.description = self._store.description
        self.uid = ""
        self._seal = seal or Seal()

    async def sequence(self) -> int:
        async with self._store.errors("read"):
            return int(await self._client.hget(META, "sequence") or 0)

    async def touched(self, since: int) -> frozenset[tuple[str, Entity]]:
        async with self._store.errors("read"):
            names = await self._client.zrangebyscore(ORDER, f"({since}", "+inf")
        found = await self._entries(names)
        return frozenset(
            (step.store, entity) for entry in found for step in entry.steps for entity in step.entities
        )

    async def unfinished(
        self, store: str, entity: Entity, ignoring: Collection[str] = frozenset()
    ) -> list[Change]:
        return [
            change
            for entry in await self._range(OPEN)
            if entry.transaction_id not in ignoring
            for step in entry.steps
            if step.store == store
            for change in step.changes
            if change.entity == entity
        ]

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        for start in range(0, len(locks), CHUNK):
            part = list(locks[start : start + CHUNK])
            async with self._store.errors("read"):
                holders = await self._client.hmget(LOCKS, part)
            for item, holder in zip(part, holders, strict=True):
                if holder is not None:
                    return RecordLocked(holder.decode(), item)
        return None

    async def keyed(self, key: str) -> Keyed | None:
        async with self._store.errors("read"):
            found = await self._client.hget(KEYS, key)
        return keyed_of(found)

    async def held(self, name: str) -> str | None:
        keyed = await self.keyed(name_key(name))
        return None if keyed is None else keyed.transaction_id

    async def latest(self, name: str) -> Entry | None:
        found = [
            entry for entry in await self._range(place("name", name), whole=False) if entry.state in FINAL
        ]
        return found[-1] if found else None

    async def is_mine(self, claim: Claim) -> bool:
        found = await self._read(claim.transaction_id)
        return found is not None and found[0].state not in FINAL and found[0].epoch == claim.epoch

    async def entry(self, transaction_id: str) -> Entry | None:
        found = await self._read(transaction_id, whole=True)
        return None if found is None or TOMBSTONE in found[0].detail else found[0]

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        wanted = None if states is None else set(states)
        found = await self._range(ALL)
        return [entry for entry in found if wanted is None or entry.state in wanted]

    async def recent(self, states: Iterable[State] | None, limit: int) -> list[Entry]:
        wanted = None if states is None else set(states)
        out: list[Entry] = []
        start = 0
        while len(out) < limit:
            async with self._store.errors("read"):
                names = await self._client.zrevrange(ALL, start, start + CHUNK - 1)
            if not names:
                break
            start += len(names)
            found = await self._entries(names, whole=False)
            out += [entry for entry in found if wanted is None or entry.state in wanted]
        return out[:limit]

    async def of_record(self, lock: Lock, limit: int) -> list[Entry]:
        async with self._store.errors("read"):
            names = await self._client.zrevrange(place("record", lock), 0, limit - 1)
        return await self._entries(names)

    async def since(self, lock: Lock, transaction_id: str) -> list[Entry]:
        async with self._store.errors("read"):
            mine = await self._client.zscore(ORDER, transaction_id)
            names = [] if mine is None else await self._client.zrange(place("record", lock), 0, -1)
        names = [
            name for name, number in (await self._ended_as(names)).items() if number is None or number > mine
        ]
        found = await self._entries(names)
        ended = await self._ended_as(names)  # once more: one may have finished before it was read
        return [
            entry
            for entry in found
            if entry.state not in FINAL or (ended[entry.transaction_id.encode()] or 0) > mine
        ]

    async def _ended_as(self, names: Sequence[bytes]) -> dict[bytes, float | None]:
        """As which transaction each of these finished; None for one that has not."""
        async with self._store.errors("read"):
            return dict(zip(names, await self._client.zmscore(ORDER, names) if names else (), strict=True))

    async def claims(self) -> dict[Claim, str]:
        now = time.time()
        return {
            entry.claim: entry.owner
            for entry in await self._range(OPEN, whole=False)
            if entry.state != "held" or (entry.expires or 0) <= now
        }

    async def heartbeats(self) -> dict[str, Heartbeat]:
        async with self._store.errors("read"):
            found = await self._client.hgetall(OWNERS)
        return {owner.decode(): Heartbeat(*decode(content)) for owner, content in found.items()}

    async def _range(self, where: bytes, *, whole: bool = True) -> list[Entry]:
        """The entries of a sorted set, in its order."""
        async with self._store.errors("read"):
            names = await self._client.zrange(where, 0, -1)
        return await self._entries(names, whole=whole)

    async def _entries(self, names: Sequence[bytes], *, whole: bool = True) -> list[Entry]:
        """Those of these names that are there (and no tombstones), `whole` with their steps."""
        found = await self._fetch(names, whole=whole)
        return [entry for entry, _ in found if TOMBSTONE not in entry.detail]

    async def _read(self, transaction_id: str, *, whole: bool = False) -> tuple[Entry, bytes] | None:
        """One entry, or tombstone, with its revision."""
        found = await self._fetch([transaction_id.encode()], whole=whole)
        return found[0] if found else None

    async def _fetch(self, names: Sequence[bytes], *, whole: bool) -> list[tuple[Entry, bytes]]:
        out: list[tuple[Entry, bytes]] = []
        for start in range(0, len(names), CHUNK):
            part = names[start : start + CHUNK]
            async with self._store.errors("read"), self._client.pipeline(transaction=True) as pipe:
                for kind in ("transaction", "steps") if whole else ("transaction",):
                    for name in part:
                        pipe.hgetall(place(kind, name))
                replies = await pipe.execute()
            steps = replies[len(part) :] or [{}] * len(part)
            for name, row, mine in zip(part, replies, steps, strict=False):
                if row:
                    out.append((self._entry(name.decode(), row, mine), row[b"revision"]))
        return out

    def _entry(self, transaction_id: str, row: dict[bytes, bytes], steps: dict[bytes, bytes]) -> Entry:
        with undamaged(transaction_id):
            content = mapping(self._seal.open(row[b"row"]))
            found = [self._step(int(place), body) for place, body in steps.items()]
            return Entry(
                transaction_id=transaction_id,
                steps=tuple(sorted(found, key=lambda step: step.index)),
                **content,
            )

    def _step(self, index: int, kept: bytes) -> EntryStep:
        name, tag, store, priority, body = decode(self._seal.open(kept))
        changes, called = unpack(body)
        return EntryStep(
            index=index, name=name, tag=tag, store=store, changes=changes, priority=priority, called=called
        )


def keyed_of(content: bytes | None) -> Keyed | None:
    if content is None:
        return None
    transaction_id, fingerprint, expires = decode(content)
    return Keyed(transaction_id, fingerprint) if expires > time.time() else None
