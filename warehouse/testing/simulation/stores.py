"""The servers of a simulation: in-process stores whose sessions end as those of a server do, and their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

import anyio

from warehouse.adapter import (
    Adapter,
    EntityInfo,
    Outcome,
    PreparedId,
    Query,
    Request,
    StepChanges,
    Unit,
    UnitSettings,
    Written,
)
from warehouse.client import AsyncWarehouse
from warehouse.errors import StoreUnavailable
from warehouse.journal.base import Journal
from warehouse.records import Change, Image, Key, Record
from warehouse.testing.faults import FaultyAdapter, FaultyJournal, FaultyUnit
from warehouse.testing.simulation.network import LATEST, Process

T = TypeVar("T")


class Server:
    """A store: its adapter, the sessions that are open in it, and the outcomes that it remembers."""

    def __init__(self, tag: str, adapter: Adapter, *, asks: bool) -> None:
        self.tag = tag
        self.adapter = adapter
        self.asks = asks
        self.committed: set[str] = set()
        self.open: dict[str, Session] = {}

    def outcome(self, token: str) -> Outcome:
        """What became of a session."""
        if token in self.committed:
            return Outcome.COMMITTED
        return Outcome.OPEN if token in self.open else Outcome.ROLLED_BACK

    async def restart(self) -> None:
        """Crash, and come back: what was neither committed nor prepared is gone, and so is every connection."""
        for session in list(self.open.values()):
            await session.hang_up()


class Session:
    """A held unit as its server sees it: one message after the other, and nothing after its end."""

    def __init__(self, server: Server, unit: Unit) -> None:
        self.name = uuid4().hex
        self._server = server
        self._unit = unit
        self._turn = anyio.Lock()
        self._prepared = False
        server.open[self.name] = self

    @property
    def token(self) -> str | None:
        return self.name if self._server.asks else None

    async def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turn:
            if self.name not in self._server.open:
                raise StoreUnavailable("the connection is gone")
            return await work()

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        return await self._do(lambda: self._unit.execute(request, savepoint=savepoint))

    async def find(self, query: Query) -> list[Record]:
        return await self._do(lambda: self._unit.find(query))

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        return await self._do(lambda: self._unit.read(info, keys))

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        return await self._do(lambda: self._unit.write(changes))

    async def prepare(self) -> None:
        await self._do(self._unit.prepare)
        self._prepared = True

    async def commit(self) -> None:
        await self._do(self._commit)

    async def _commit(self) -> None:
        await self._unit.commit()
        self._server.committed.add(self.name)
        del self._server.open[self.name]

    async def rollback(self) -> None:
        """Roll back, and end, what has not ended yet."""
        async with self._turn:
            if self._server.open.pop(self.name, None) is not None:
                await self._unit.rollback()

    async def hang_up(self) -> None:
        """The client, or the server, is gone: roll back, but for what was prepared."""
        if self._prepared:
            self._server.open.pop(self.name, None)
        else:
            await self.rollback()


class Client(FaultyAdapter):
    """A process's adapter of a server."""

    def __init__(self, process: Process, server: Server) -> None:
        super().__init__(server.tag, server.adapter, process)
        self._process = process
        self._server = server

    def unit(self, settings: UnitSettings) -> AbstractAsyncContextManager[Unit]:
        return self._session(settings) if self.capabilities.holds else super().unit(settings)

    @asynccontextmanager
    async def _session(self, settings: UnitSettings) -> AsyncIterator[Unit]:
        await self._process.awake()
        inner: Any = self.inner.unit(settings)
        session = Session(self._server, inner)
        self._process.connections.append(session.hang_up)
        try:
            yield FaultyUnit(self._tag, session, self._process, self.capabilities)
        finally:
            self._process.connections.remove(session.hang_up)
            # A server reads what was sent before it sees that nobody is there any more.
            self._process.network.after(LATEST, session.hang_up)

    async def outcome(self, token: str) -> Outcome:
        async def ask() -> Outcome:
            return self._server.outcome(token)

        return await self._through("outcome", ask)

    async def finish(self, prepared: PreparedId, *, commit: bool) -> None:
        await self._through("finish", lambda: self.inner.finish(prepared, commit=commit))


def attach(warehouse: AsyncWarehouse, process: Process, servers: Sequence[Server], journal: Journal) -> None:
    """Have a warehouse (not opened yet) speak to these servers and this journal, over the network."""
    registry = warehouse._registry  # noqa: SLF001 - made for this
    for server in servers:
        registry.get(server.tag).adapter = Client(process, server)
    lease = warehouse._engine.lease  # noqa: SLF001
    warehouse._journal = lease.journal = lease.trailing.journal = FaultyJournal(journal, process)  # noqa: SLF001
