"""The connections of one adapter: taken from the pool, given back, and cut where they cannot be trusted.

What must not be stopped half way (opening a connection, rolling back) runs in a task of its own: a cancelled
caller leaves it to finish alone, so that no connection is lost with its transaction open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import anyio
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from warehouse.errors import StoreError
from warehouse_adapters.sql.errors import translate
from warehouse_adapters.sql.links import ASKED, Link, Rows
from warehouse_adapters.sql.prepared import Prepared
from warehouse_adapters.sql.tables import Sql

T = TypeVar("T")
# Seconds that a rollback may take before the connection is cut instead, and cutting it before it is left.
_GRACE: Final = 5.0
_DRIVERS: Final = ("psycopg", "asyncmy", "sqlite3", "aiosqlite")


class Connections:
    """The pool of `engine`; a connection of it is used as a `link`."""

    def __init__(self, engine: AsyncEngine, link: type[Link]) -> None:
        self._engine = engine
        self._link = link
        self._age = 0
        self._idle: list[Link] = []
        self._waiting = 0
        self._running: set[asyncio.Task[Any]] = set()

    async def acquire(self) -> Link:
        """A connection. Raises StoreUnavailable where there is none in time."""
        while self._idle:
            link = self._idle.pop()
            if link.is_of(self._age):
                return link
            self._start(self._cut(link))
        task = self._start(self._open())
        self._waiting += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._start(self._return(task))
            raise
        finally:
            self._waiting -= 1

    def release(self, link: Link) -> None:
        """Take a connection back: for the next to acquire one, or for the pool where somebody waits there."""
        if self._waiting:
            link.release()
        else:
            self._idle.append(link)

    async def give_up(self, link: Link) -> None:
        """Roll back and give the connection to the pool, or else cut it. Raises nothing but a cancellation."""
        with anyio.CancelScope(shield=True):
            await asyncio.shield(self._start(self._give_up(link)))

    async def roll_back_prepared(self, link: Link, prepared: Prepared) -> None:
        """As `give_up`, for a transaction that is prepared, or may be. Recovery finds what stays so all the same."""
        with anyio.CancelScope(shield=True):
            await asyncio.shield(self._start(self._roll_back_prepared(link, prepared)))

    async def finish(self, prepared: Prepared, *, commit: bool) -> None:
        """Commit what is prepared, or roll it back, by another connection than the one that prepared it."""
        await self._use(lambda link: link.finish(prepared, commit=commit))

    async def once(self, sql: Sql) -> Rows:
        """One statement outside of any transaction."""
        return await self._use(lambda link: link.run(sql))

    async def _use(self, job: Callable[[Link], Awaitable[T]]) -> T:
        link = await self.acquire()
        try:
            done = await job(link)
        except BaseException:
            await self.give_up(link)
            raise
        self.release(link)
        return done

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """What `question` finds out over a connection of SQLAlchemy's."""
        return await asyncio.shield(self._start(self._ask(question)))

    async def close(self) -> None:
        """Close what lies idle, once that which is still running has ended."""
        while self._running:
            await asyncio.wait(self._running)
        while self._idle:
            self._idle.pop().release()
        await self._engine.dispose()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _open(self) -> Link:
        while True:
            with _translated():
                link = self._link(await self._engine.raw_connection())
            try:
                if await link.prepare(self._age):
                    return link
            except BaseException:
                await self._cut(link)
                raise
            await self._cut(link)

    async def _return(self, task: asyncio.Task[Link]) -> None:
        """Give back a connection that nobody waits for any more."""
        with suppress(StoreError):
            self.release(await task)

    async def _give_up(self, link: Link) -> None:
        done = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                done = await link.rollback()
        if done:
            self.release(link)
        else:
            await self._cut(link)

    async def _roll_back_prepared(self, link: Link, prepared: Prepared) -> None:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_GRACE):
                await link.finish(prepared, commit=False)
                self.release(link)
                return
        await self._give_up(link)
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_GRACE):
                await self.finish(prepared, commit=False)

    async def _cut(self, link: Link) -> None:
        if link.lost:
            self._age += 1  # those that lie idle are most likely lost as well
        with suppress(Exception):
            async with asyncio.timeout(_GRACE):
                await link.discard()

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        with _translated():
            async with self._engine.connect() as connection:
                (await connection.get_raw_connection()).info[ASKED] = self._age
                return await connection.run_sync(question)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _DRIVERS:
            raise translate(error) from error
        raise
