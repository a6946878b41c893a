"""MongoDB's wire protocol, server side: OP_MSG, and OP_QUERY for the first hello. Served from a thread."""

from __future__ import annotations

import asyncio
import itertools
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Final

import bson

from servers.mongo_data import OPTIONS, Document

_OP_MSG, _OP_QUERY, _OP_REPLY = 2013, 2004, 1
_HEADER: Final = struct.Struct("<iiii")


class Lost(Exception):
    """The connection breaks here."""


class WireServer:
    """Answers every command with what `answer` makes of it, on a free loopback port."""

    def __init__(self, answer: Callable[[Document], Awaitable[Document]]) -> None:
        self.port = 0
        self._answer = answer
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mongo peer", daemon=True)
        self._listening = threading.Event()
        self._stopped: asyncio.Event

    def start(self) -> None:
        self._thread.start()
        self._listening.wait()

    def stop(self) -> bool:
        """Whether it was still serving."""
        if not self._thread.is_alive():
            return False
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        return True

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopped.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size, request, _, code = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                body = await reader.readexactly(size - _HEADER.size)
                command = _query(body) if code == _OP_QUERY else _message(body)
                document = bson.encode(await self._answer(command), codec_options=OPTIONS)
                if code == _OP_QUERY:
                    code, payload = _OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + document
                else:
                    payload = struct.pack("<IB", 0, 0) + document
                header = _HEADER.pack(_HEADER.size + len(payload), next(self._numbers), request, code)
                writer.write(header + payload)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, Lost):
            pass
        finally:
            writer.close()


def _query(body: bytes) -> Document:
    """The command of an OP_QUERY: flags, the name of a collection, two numbers, a document."""
    return bson.decode(body[body.index(b"\0", 4) + 9 :], OPTIONS)


def _message(body: bytes) -> Document:
    """The command of an OP_MSG, with its lists of documents: flags, then sections of two kinds."""
    command: Document = {}
    position = 4
    while position < len(body):
        kind, size = body[position], struct.unpack_from("<i", body, position + 1)[0]
        section = body[position + 1 : position + 1 + size]
        if kind == 0:
            command = {**bson.decode(section, OPTIONS), **command}
        else:
            end = section.index(b"\0", 4)
            command[section[4:end].decode()] = bson.decode_all(section[end + 1 :], OPTIONS)
        position += 1 + size
    return command
