"""A TCP proxy before each server, which now and then cuts, halves or delays what passes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from servers.base import HOST

_CHUNK = 1 << 16

REQUEST_LOST = "connection cut before a request"
REQUEST_TORN = "connection cut within a request"
REPLY_LOST = "connection cut after a request, before its reply"
REPLY_TORN = "connection cut within a reply"
HALF_CLOSED = "connection half closed"
DELAYED = "reply delayed"
KINDS = (REQUEST_LOST, REQUEST_TORN, REPLY_LOST, REPLY_TORN, HALF_CLOSED, DELAYED)


@dataclass
class Weather:
    """How often something happens to a chunk that a client sends, and what has happened."""

    chance: float
    random: random.Random
    delays: tuple[float, float] = (0.3, 3.0)  # seconds
    happened: Counter[str] = field(default_factory=Counter)

    def strike(self) -> str | None:
        if self.random.random() >= self.chance:
            return None
        kind = self.random.choice(KINDS)
        self.happened[kind] += 1
        return kind


@dataclass
class _Pair:
    """A client and the server that it speaks with."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    reply: str | None = None
    """What happens to the next reply."""
    halved: bool = False
    """The client was told that nothing more comes."""

    def cut(self) -> None:
        for side in (self.client, self.server):
            side.transport.abort()


class Proxies:
    """Proxies that run in a thread of their own."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def before(self, host: str, port: int) -> int:
        """A new port that leads to this one."""
        return asyncio.run_coroutine_threadsafe(self._listen(host, port), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, host: str, port: int) -> int:
        server = await asyncio.start_server(lambda r, w: self._accepted(r, w, host, port), HOST, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _accepted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        task = self._loop.create_task(self._serve(reader, writer, host, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(host, port)
        except OSError:  # the server is down
            to_client.transport.abort()
            return
        pair = _Pair(to_client, to_server)
        requests = _pump(from_client, to_server, lambda chunk: self._request(pair, chunk))
        replies = _pump(from_server, to_client, lambda chunk: self._reply(pair, chunk))
        try:
            await asyncio.gather(requests, replies)
        except OSError:
            pass
        finally:
            pair.cut()

    async def _request(self, pair: _Pair, chunk: bytes) -> bytes:
        kind = self.weather.strike()
        if kind == REQUEST_LOST:
            pair.cut()
            return b""
        if kind == REQUEST_TORN:
            pair.server.write(chunk[: self.weather.random.randrange(len(chunk))])
            with contextlib.suppress(OSError):
                await pair.server.drain()
            await asyncio.sleep(0.05)  # so that it arrives
            pair.cut()
            return b""
        if kind == HALF_CLOSED and pair.client.can_write_eof():
            pair.halved = True
            with contextlib.suppress(OSError):
                pair.client.write_eof()
        elif kind is not None:
            pair.reply = kind
        return chunk

    async def _reply(self, pair: _Pair, chunk: bytes) -> bytes:
        kind, pair.reply = pair.reply, None
        if pair.halved:
            return b""
        if kind == DELAYED:
            await asyncio.sleep(self.weather.random.uniform(*self.weather.delays))
        elif kind == REPLY_LOST:
            pair.cut()
            return b""
        elif kind == REPLY_TORN:
            pair.client.write(chunk[: self.weather.random.randrange(len(chunk))])
            with contextlib.suppress(OSError):
                await pair.client.drain()
            await asyncio.sleep(0.05)
            pair.cut()
            return b""
        return chunk


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, passing: Callable[[bytes], Awaitable[bytes]]
) -> None:
    while chunk := await source.read(_CHUNK):
        passed = await passing(chunk)
        if sink.transport.is_closing():
            return
        if passed:
            sink.write(passed)
            await sink.drain()
    with contextlib.suppress(OSError):
        if sink.can_write_eof() and not sink.transport.is_closing():
            sink.write_eof()
