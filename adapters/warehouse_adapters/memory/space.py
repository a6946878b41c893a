"""Where the records of an in-process store live, and the locks on them. Safe to share between threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import Future
from typing import ClassVar, Protocol
from uuid import uuid4

from warehouse.adapter import PreparedId
from warehouse.errors import StoreContention
from warehouse.planning import freeze
from warehouse.records import Absent, Entity, Image, Key, Record

Table = dict[Hashable, Record]


class Open(Protocol):
    """A unit that is prepared."""

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class Locks:
    """Exclusive locks by name, each held by one owner until that releases all of its own."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._owners: dict[Hashable, object] = {}
        self._waiting: dict[Hashable, list[Future[None]]] = {}

    async def acquire(self, owner: object, names: Iterable[Hashable], timeout: float) -> None:  # noqa: ASYNC109
        """Lock `names` for `owner`, one after the other; StoreContention once `timeout` seconds are over.

        What was locked until then stays locked.
        """
        deadline = time.monotonic() + timeout
        for name in names:
            while (freed := self._take(owner, name)) is not None:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await asyncio.wrap_future(freed)
                except TimeoutError as error:
                    raise StoreContention(f"a lock was not free within {timeout:g} seconds") from error
                finally:
                    self._forget(name, freed)

    def release(self, owner: object) -> None:
        """Free everything that `owner` has locked."""
        with self._mutex:
            names = [name for name, holder in self._owners.items() if holder is owner]
            woken = [future for name in names for future in self._waiting.pop(name, [])]
            for name in names:
                del self._owners[name]
        for future in woken:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _take(self, owner: object, name: Hashable) -> Future[None] | None:
        """None if `owner` has the lock now, else what will tell when it may try again."""
        with self._mutex:
            if self._owners.setdefault(name, owner) is owner:
                return None
            freed: Future[None] = Future()
            self._waiting.setdefault(name, []).append(freed)
            return freed

    def _forget(self, name: Hashable, freed: Future[None]) -> None:
        with self._mutex:
            waiting = self._waiting.get(name, [])
            if freed in waiting:
                waiting.remove(freed)
                if not waiting:
                    del self._waiting[name]


class Space:
    """The tables of one store. Whoever looks into them or changes them holds `mutex`, and never awaits."""

    _shared: ClassVar[dict[str, Space]] = {}
    _creating: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.mutex = threading.RLock()
        self.locks = Locks()
        self.tables: dict[Entity, Table] = {}
        self.prepared: dict[PreparedId, Open] = {}

    @classmethod
    def open(cls, shared: str | None) -> Space:
        """The process-wide space of that name, or a new one of one's own."""
        if shared is None:
            return cls(f"memory:{uuid4().hex}")
        with cls._creating:
            return cls._shared.setdefault(shared, cls(f"memory:shared:{shared}"))

    def entities(self) -> list[Entity]:
        """The entities that have or had records."""
        return list(self.tables)

    def table(self, entity: Entity) -> Mapping[Hashable, Record]:
        """The records of `entity` by frozen key."""
        return self.tables.get(entity, {})

    def put(self, entity: Entity, key: Key, image: Image) -> None:
        """Make `image` the record of `key`; ABSENT removes it."""
        table = self.tables.setdefault(entity, {})
        if isinstance(image, Absent):
            table.pop(freeze(key), None)
        else:
            table[freeze(key)] = image
