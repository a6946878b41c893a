"""Exact counts: round trips by a proxy on loopback, durable writes by asking PostgreSQL and the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class RoundTrips:
    """Counts how often a client waited for its server: every change from sending to receiving."""

    def __init__(self) -> None:
        self.count = 0
        self._sending: dict[int, bool] = {}

    def sent(self, connection: int) -> None:
        self._sending[connection] = True

    def received(self, connection: int) -> None:
        if self._sending.get(connection):
            self.count += 1
        self._sending[connection] = False


@asynccontextmanager
async def proxy(host: str, port: int, trips: RoundTrips) -> AsyncIterator[int]:
    """The port of a proxy to `host`:`port` that counts into `trips`."""

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Any, connection: int
    ) -> None:
        try:
            while data := await reader.read(65536):
                note(connection)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(
            pump(reader, up_writer, trips.sent, id(writer)),
            pump(up_reader, writer, trips.received, id(writer)),
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class CountingJournal:
    """Counts the durable writes (and the reads) of a journal: each of its writing methods makes one."""

    _WRITES = frozenset({"decide", "append", "settle", "change_state", "finish", "note"})
    _READS = frozenset({"sequence", "locked", "entries"})

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self.writes = 0
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        self.writes += name in self._WRITES
        self.reads += name in self._READS
        return getattr(self._journal, name)
