"""The journal in Redis. Every write is one script there: all of its checks hold, and then all of it is made.

What a transaction is, is one value (`row`) with a revision; who changes it says which revision it has read, so that
a change in between is noticed and the write made anew. Redis must write each reply to disk first (`appendonly yes`,
`appendfsync always`): where it says that it does not, a warning is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from warehouse.errors import ConfigError, JournalUnavailable
from warehouse.journal.base import (
    FINAL,
    PRUNED,
    Claim,
    Entry,
    EntryStep,
    Heartbeat,
    Idempotency,
    KeyTaken,
    Lock,
    RecordLocked,
    ReplyLost,
    Superseded,
    name_key,
)
from warehouse.journal.codec import decode, encode
from warehouse.journal.redis_reading import TOMBSTONE, RedisReading, keyed_of
from warehouse.journal.redis_store import (
    ALL,
    CHUNK,
    ENDED,
    FINISHED,
    IMAGES,
    KEYS,
    LAST,
    LOCKS,
    META,
    NUMBER,
    OPEN,
    ORDER,
    OWNERS,
    Command,
    checks,
    each,
    ended,
    place,
)
from warehouse.journal.seal import PROOF
from warehouse.results import State

_log = logging.getLogger("warehouse")
_VERSION: Final = b"1"
_NEVER: Final = 1e15
_CONDITIONS: Final = {"absent", "equal", "free", "unmoved"}


class RedisJournal(RedisReading):
    """A `Journal` in the keys `warehouse:*` of one Redis database. Not for a cluster."""

    # Life

    async def open(self) -> None:
        """See `Journal.open`."""
        self._store.opened = True
        try:
            async with self._store.errors("opened"):
                await self._open()
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        await self._client.hsetnx(META, "version", _VERSION)
        await self._client.hsetnx(META, "uid", uuid4().hex[:16])
        meta = await self._client.hgetall(META)
        if meta[b"version"] != _VERSION:
            found = meta[b"version"].decode()
            raise ConfigError(
                f"the journal has the layout {found}, and this program needs {_VERSION.decode()}"
            )
        self.uid = meta[b"uid"].decode()
        self._seal.check(meta.get(b"proof"))
        if self._seal.encrypts:
            await self._client.hset(META, "proof", self._seal.close(PROOF))
        await self._check_durable()

    async def _check_durable(self) -> None:
        from redis.exceptions import ResponseError

        try:
            found = await self._client.config_get("append*")
        except ResponseError:  # not permitted: whoever runs it knows
            return
        if found.get("appendonly") != "yes" or found.get("appendfsync") != "always":
            _log.warning(
                "the journal %s loses what it has promised in a crash: set appendonly yes and appendfsync always",
                self.description,
            )

    async def close(self) -> None:
        """See `Journal.close`."""
        self._store.opened = False
        await self._client.aclose()

    # Writing

    async def decide(
        self,
        entry: Entry,
        since: int,
        *,
        carried: Sequence[Claim] = (),
        seen: Collection[str] = frozenset(),
    ) -> None:
        while True:
            ends = await self._completions(carried)
            said = await self._decide(entry, since, ends, seen)
            if said[0] != b"changed":
                break  # otherwise what is carried was taken over, or the key has just been taken
        if said[0] == b"present":
            raise JournalUnavailable(f"the journal has a transaction {entry.transaction_id} already")
        _raise_locked(said)

    async def _decide(
        self, entry: Entry, since: int, ends: Mapping[str, Sequence[Command]], seen: Collection[str]
    ) -> list[bytes]:
        name = entry.transaction_id
        keys = [] if entry.idempotency is None else [entry.idempotency]
        if entry.state == "held":
            keys.append(Idempotency(name_key(str(entry.name)), b"name", _NEVER))
        conditions: list[Command] = [("absent", place("transaction", name))]
        writes = [command for end in ends.values() for command in end]
        conditions += [command for command in writes if command[0] in _CONDITIONS]
        writes = [command for command in writes if command[0] not in _CONDITIONS]
        for wanted in keys:
            before = await self._free_key(wanted)
            conditions.append(("equal", KEYS, wanted.key, before))
            content = encode([name, wanted.fingerprint, wanted.expires])
            writes.append(("HSET", KEYS, wanted.key, content))
            writes.append(("SADD", place("keysof", name), wanted.key))
        locks = list(entry.locks())
        conditions += checks([name, *(ends.keys() & seen)], locks, since, await self._numbers(seen))
        writes += self._new(entry, locks)
        writes += each("HSET", LOCKS, [(item, name) for item in locks])
        writes.append(("ZADD", OPEN, entry.started, name))
        return await self._store.write([*conditions, *writes])

    async def _numbers(self, transactions: Collection[str]) -> list[int]:
        """The numbers with which these finished."""
        if not transactions:
            return []
        async with self._store.errors("read"):
            found = await self._client.zmscore(ORDER, list(transactions))
        return [int(number) for number in found if number is not None]

    async def _free_key(self, wanted: Idempotency) -> bytes:
        """What the key has now: nothing, or what has expired. Raises KeyTaken."""
        async with self._store.errors("read"):
            found = await self._client.hget(KEYS, wanted.key)
        if keyed_of(found) is not None:
            raise KeyTaken(f"the idempotency key {wanted.key!r} is taken")
        return found or b""

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
        known = await self._numbers(seen)
        locks = list({item: None for step in steps for item in step.locks()})

        def changed(entry: Entry) -> tuple[Entry, list[Command]]:
            name = claim.transaction_id
            writes = checks([name], locks, since, known) + self._steps(name, steps)
            writes += self._records(replace(entry, steps=tuple(steps)), locks)
            writes += each("HSET", LOCKS, [(item, name) for item in locks])
            entry = replace(entry, tokens={**entry.tokens, **tokens})
            if change is not None:
                entry = replace(entry, state=change[0], detail={**entry.detail, **change[1]})
            return entry, writes

        await self._change(claim, changed)

    async def settle(self, transaction_id: str) -> bool:
        while True:
            found = await self._read(transaction_id)
            if found is not None:
                return TOMBSTONE not in found[0].detail
            entry = Entry(
                transaction_id=transaction_id,
                name=None,
                pattern="staged",
                state="compensated",
                detail={TOMBSTONE: True},
                finished=time.time(),
            )
            where = place("transaction", transaction_id)
            end = ("ZADD", ENDED, entry.finished, transaction_id)
            try:
                said = await self._store.write([("absent", where), *self._row(entry, b"1"), end])
            except ReplyLost as error:
                raise JournalUnavailable(error.message) from error
            if said[0] == b"done":
                return False

    async def change_state(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        await self._change(
            claim,
            lambda entry: (replace(entry, state=state, detail={**entry.detail, **detail}), []),
        )

    async def finish(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        await self._change(claim, await self._finishing(claim.transaction_id, state, detail))

    async def _finishing(
        self, name: str, state: State, detail: dict[str, Any]
    ) -> Callable[[Entry], tuple[Entry, list[Command]]]:
        now = time.time()
        async with self._store.errors("read"):
            keys = [item.decode() for item in await self._client.smembers(place("keysof", name))]
            locks = list(await self._client.smembers(place("records", name)))

        def finished(entry: Entry) -> tuple[Entry, list[Command]]:
            given_back = [item for item in keys if state != "completed" or item == name_key(str(entry.name))]
            writes: list[Command] = [("number", META), ("ZADD", ORDER, NUMBER, name)]
            writes += each("HDEL", LOCKS, [(item,) for item in locks])
            writes += each("HSET", FINISHED, [(item, NUMBER) for item in locks])
            writes += each("ZADD", LAST, [(NUMBER, item) for item in locks])
            writes += [("HDEL", KEYS, item) for item in given_back]
            writes += [("SREM", place("keysof", name), item) for item in given_back]
            writes.append(("ZREM", OPEN, name))
            writes += ended(name, state, now)
            return replace(entry, state=state, detail={**entry.detail, **detail}, finished=now), writes

        return finished

    async def complete(self, claims: Sequence[Claim]) -> None:
        while True:
            ends = await self._completions(claims)
            commands = [command for end in ends.values() for command in end]
            commands.sort(key=lambda command: command[0] not in _CONDITIONS)
            if not commands or (await self._store.write(commands))[0] == b"done":
                return

    async def _completions(self, claims: Sequence[Claim]) -> dict[str, list[Command]]:
        """How to finish as completed, by id, those of them that are still as claimed."""
        out: dict[str, list[Command]] = {}
        for claim in claims:
            found = await self._read(claim.transaction_id)
            if found is None or found[0].state in FINAL or found[0].epoch != claim.epoch:
                continue
            entry, writes = (await self._finishing(claim.transaction_id, "completed", {}))(found[0])
            out[claim.transaction_id] = self._swapping(entry, found[1], writes)
        return out

    async def note(self, entries: Sequence[Entry]) -> None:
        writes: list[Command] = []
        for entry in entries:
            writes += self._new(entry, list(entry.locks()))
            writes += ended(entry.transaction_id, entry.state, entry.finished or time.time())
        await self._store.write(writes)

    async def resolve(self, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
        while True:
            found = await self._read(transaction_id)
            if found is None or found[0].state != "failed":
                return False
            entry, revision = found
            end = ended(transaction_id, state, entry.finished or time.time())
            entry = replace(entry, state=state, detail={**entry.detail, **detail})
            if await self._swap(entry, revision, end):
                return True

    async def take_over(
        self, claim: Claim, owner: str, change: tuple[State, dict[str, Any]] | None = None
    ) -> Claim | None:
        found = await self._read(claim.transaction_id)
        if found is None or found[0].state in FINAL or found[0].epoch != claim.epoch:
            return None
        entry, revision = found
        if change is not None:
            if entry.state != "held":
                return None
            entry = replace(entry, state=change[0], detail={**entry.detail, **change[1]})
        entry = replace(entry, owner=owner, epoch=claim.epoch + 1)
        return entry.claim if await self._swap(entry, revision, []) else None

    async def forget(self, lock: Lock) -> tuple[int, list[str]]:
        forgotten, kept = 0, []
        async with self._store.errors("read"):
            names = await self._client.zrange(place("record", lock), 0, -1)
        for name in (item.decode() for item in names):
            while (found := await self._read(name, whole=True)) is not None:
                entry, revision = found
                if entry.state not in PRUNED:
                    kept.append(name)
                    break
                writes = self._steps(name, [step.without(lock) for step in entry.steps])
                writes += [("ZREM", place("record", lock), name), ("SREM", place("records", name), lock)]
                if await self._swap(
                    replace(entry, detail={**entry.detail, "forgotten": True}), revision, writes
                ):
                    forgotten += 1
                    break
        return forgotten, kept

    async def beat(self, owner: str, lease: float) -> None:
        await self._store.write([("HSET", OWNERS, owner, _heartbeat(Heartbeat.new(lease)))])

    async def retire(self, owner: str, seen: Heartbeat | None = None) -> None:
        unchanged = [] if seen is None else [("equal", OWNERS, owner, _heartbeat(seen))]
        await self._store.write([*unchanged, ("HDEL", OWNERS, owner)])

    async def prune(self, *, finished: float, images: float) -> None:
        await self._prune_keys()
        for where, before, whole in ((ENDED, finished, True), (IMAGES, images, False)):
            start = 0
            while True:
                async with self._store.errors("read"):
                    names = await self._client.zrangebyscore(
                        where, "-inf", f"({before}", start=start, num=CHUNK
                    )
                if not names:
                    break
                for name in (item.decode() for item in names):
                    start += 0 if await self._prune(name, whole=whole) else 1

    async def _prune(self, name: str, *, whole: bool) -> bool:
        """Remove a transaction, or its images; false where a key needs it."""
        async with self._store.errors("read"):
            needed = await self._client.exists(place("keysof", name))
            records = await self._client.smembers(place("records", name))
            last = await self._client.zscore(ORDER, name)
            row = await self._read(name)
        if needed:
            return False
        writes: list[Command] = [("ZREM", place("record", record), name) for record in records]
        writes += [("DEL", place("steps", name)), ("DEL", place("records", name)), ("ZREM", IMAGES, name)]
        if whole:
            writes.append(("DEL", place("transaction", name)))
            writes += [("ZREM", where, name) for where in (ALL, ENDED, ORDER)]
            if row is not None and row[0].name is not None:
                writes.append(("ZREM", place("name", row[0].name), name))
            if last is not None:
                async with self._store.errors("read"):
                    old = await self._client.zrangebyscore(LAST, "-inf", last)
                writes += each("HDEL", FINISHED, [(item,) for item in old])
                writes.append(("ZREMRANGEBYSCORE", LAST, "-inf", last))
        await self._store.write(writes)
        return True

    async def _prune_keys(self) -> None:
        async with self._store.errors("read"):
            found = await self._client.hgetall(KEYS)
        for item, content in found.items():
            if keyed_of(content) is None:
                owner = decode(content)[0]
                await self._store.write([("HDEL", KEYS, item), ("SREM", place("keysof", owner), item)])

    # The parts of a write

    def _row(self, entry: Entry, revision: bytes) -> list[Command]:
        content = {
            name: getattr(entry, name)
            for name in (
                "name", "pattern", "state", "tokens", "detail", "owner", "epoch", "expires", "started", "finished"
            )
        }  # fmt: skip
        kept = self._seal.close(encode(content))
        return [("HSET", place("transaction", entry.transaction_id), "row", kept, "revision", revision)]

    def _new(self, entry: Entry, locks: Sequence[Lock]) -> list[Command]:
        """A transaction that was not there, for whoever lists and looks."""
        name = entry.transaction_id
        writes = self._row(entry, b"1") + self._steps(name, entry.steps) + self._records(entry, locks)
        writes.append(("ZADD", ALL, entry.started, name))
        if entry.name is not None:
            writes.append(("ZADD", place("name", entry.name), entry.started, name))
        return writes

    def _steps(self, name: str, steps: Sequence[EntryStep]) -> list[Command]:
        return [
            (
                "HSET",
                place("steps", name),
                step.index,
                self._seal.close(encode([step.name, step.tag, step.store, step.priority, step.body])),
            )
            for step in steps
        ]

    def _records(self, entry: Entry, locks: Sequence[Lock]) -> list[Command]:
        name = entry.transaction_id
        writes: list[Command] = [("ZADD", place("record", item), entry.started, name) for item in locks]
        return writes + each("SADD", place("records", name), [(item,) for item in locks])

    async def _change(self, claim: Claim, change: Callable[[Entry], tuple[Entry, list[Command]]]) -> None:
        """Change an open transaction that is still as `claim` says. Raises Superseded, RecordLocked."""
        while True:
            found = await self._read(claim.transaction_id)
            if found is not None and found[0].epoch != claim.epoch:
                raise Superseded(f"transaction {claim.transaction_id} was taken over")
            if found is None or found[0].state in FINAL:
                raise JournalUnavailable(f"the journal has no open transaction {claim.transaction_id}")
            entry, writes = change(found[0])
            if await self._swap(entry, found[1], writes):
                return

    async def _swap(self, entry: Entry, revision: bytes, commands: Sequence[Command]) -> bool:
        """Write, if the transaction still has this revision; whether it had. Raises RecordLocked."""
        said = await self._store.write(self._swapping(entry, revision, commands))
        if said[0] == b"changed":
            return False
        _raise_locked(said)
        return True

    def _swapping(self, entry: Entry, revision: bytes, commands: Sequence[Command]) -> list[Command]:
        """The commands of `_swap`; its conditions come first."""
        where = place("transaction", entry.transaction_id)
        after = str(int(revision) + 1).encode()
        conditions = [command for command in commands if command[0] in _CONDITIONS]
        writes = [command for command in commands if command[0] not in _CONDITIONS]
        return [("equal", where, "revision", revision), *conditions, *self._row(entry, after), *writes]


def _heartbeat(heartbeat: Heartbeat) -> bytes:
    return encode([heartbeat.mark, heartbeat.lease])


def _raise_locked(said: Sequence[bytes]) -> None:
    if said[0] == b"locked":
        raise RecordLocked(said[2].decode() or None, said[1])
