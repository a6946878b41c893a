"""A pooled connection, used by its driver's own calls: SQLAlchemy's execution would double their cost.

All connections are in autocommit mode; a unit's transaction is begun and ended by statements of ours, so that
nothing costs a round trip that does not have to.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import anyio
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from warehouse.errors import StoreError, StoreOutcomeUnknown, StoreUnavailable
from warehouse_adapters.sql.errors import translate
from warehouse_adapters.sql.tables import Sql

Rows: TypeAlias = Sequence[Sequence[Any]]
_AGE = "warehouse.age"
_TIMEOUT = "warehouse.timeout"
# How long SQLite waits for a lock at a time.
_SLICE_MS = 50


class Link(ABC):
    """One connection of the pool while somebody has it.

    Every method raises the store errors of `warehouse.errors`. `lost`: the connection is gone.
    `last_id`: the number that the last INSERT generated (MySQL).
    """

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        self._pooled = pooled
        self._driver: Any = pooled.driver_connection
        self.lost = False
        self.last_id = 0

    async def prepare(self, age: int) -> bool:
        """Set the connection up, the first time that it is used; False if it is of another age."""
        known = self._pooled.info.get(_AGE)
        if known is None:
            await self._setup()
            self._pooled.info[_AGE] = age
        return known in {None, age}

    async def run(self, sql: Sql) -> Rows:
        """Execute one statement; its rows, if it returns any."""
        try:
            return await self._execute(sql.text, sql.params)
        except Exception as error:
            raise self._translated(error) from error

    async def many(self, text: str, params: Sequence[Sequence[Any]]) -> list[Rows]:
        """Execute one statement once for each of `params`, in as few round trips as the driver can."""
        try:
            return await self._execute_many(text, params)
        except Exception as error:
            raise self._translated(error) from error

    async def begin(self, lock_timeout: float) -> str | None:
        """Begin a transaction; the token by which its outcome can be asked for, where there is one."""
        try:
            return await self._begin(lock_timeout)
        except Exception as error:
            raise self._translated(error) from error

    async def commit(self) -> None:
        """Commit; StoreOutcomeUnknown where the connection was lost on the way."""
        try:
            await self._commit()
        except Exception as error:
            found = self._translated(error)
            raise (StoreOutcomeUnknown(found.message) if self.lost else found) from error

    async def rollback(self) -> bool:
        """Give the transaction up; False where the connection does not do even that."""
        if self.lost:
            return False
        try:
            await self._execute("ROLLBACK", ())
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no use any more
            return False
        return True

    def release(self) -> None:
        """Give the connection back to the pool."""
        self._pooled.close()  # nothing is reset, so this waits for nothing

    async def discard(self) -> None:
        """Close the connection, whatever state it is in."""
        await greenlet_spawn(self._pooled.invalidate)
        await greenlet_spawn(self._pooled.close)

    def _translated(self, error: Exception) -> StoreError:
        found = translate(error)
        self.lost = self.lost or isinstance(found, StoreUnavailable)
        return found

    async def _execute_many(self, text: str, params: Sequence[Sequence[Any]]) -> list[Rows]:
        return [await self._execute(text, each) for each in params]

    async def _commit(self) -> None:
        await self._execute("COMMIT", ())

    @abstractmethod
    async def _setup(self) -> None: ...

    @abstractmethod
    async def _execute(self, text: str, params: Sequence[Any]) -> Rows: ...

    @abstractmethod
    async def _begin(self, lock_timeout: float) -> str | None: ...


class PsycopgLink(Link):
    """psycopg: many statements are pipelined."""

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        super().__init__(pooled)
        self._cursor: Any = self._driver.cursor()

    async def _setup(self) -> None:
        from warehouse_adapters.sql.loaders import register

        register(self._driver)
        self._cursor = self._driver.cursor()

    async def _execute(self, text: str, params: Sequence[Any]) -> Rows:
        cursor = self._cursor
        await cursor.execute(text, params)
        return await cursor.fetchall() if cursor.pgresult.nfields else ()

    async def _execute_many(self, text: str, params: Sequence[Sequence[Any]]) -> list[Rows]:
        cursor = self._cursor
        await cursor.executemany(text, params, returning=True)
        out: list[Rows] = []
        while True:
            out.append(await cursor.fetchall() if cursor.pgresult.nfields else ())
            if not cursor.nextset():
                return out

    async def _begin(self, lock_timeout: float) -> str | None:
        cursor, wait = self._cursor, max(1, round(lock_timeout * 1000))
        # One round trip: several statements may go together where none has parameters.
        await cursor.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {wait};"
            " SELECT pg_current_xact_id()::text"
        )
        cursor.nextset()
        cursor.nextset()
        return str((await cursor.fetchone())[0])

    async def _commit(self) -> None:
        await self._cursor.execute("COMMIT")
        if self._cursor.statusmessage != "COMMIT":
            raise StoreError("the transaction had failed before, and was rolled back")


class AsyncmyLink(Link):
    """asyncmy, for MariaDB and MySQL: it sends no statement before the last is answered."""

    async def _setup(self) -> None:
        await self._execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", ())
        await self._execute("SET SESSION time_zone = '+00:00'", ())
        # Its way to escape bytes is unsafe in this mode.
        await self._execute("SET SESSION sql_mode = REPLACE(@@sql_mode, 'NO_BACKSLASH_ESCAPES', '')", ())

    async def _execute(self, text: str, params: Sequence[Any]) -> Rows:
        cursor = self._driver.cursor()
        await cursor.execute(text, tuple(params))
        self.last_id = cursor.lastrowid
        return await cursor.fetchall() if cursor.description else ()

    async def _begin(self, lock_timeout: float) -> str | None:
        wait = max(1, round(lock_timeout))
        if self._pooled.info.get(_TIMEOUT) != wait:
            await self._execute(f"SET SESSION innodb_lock_wait_timeout = {wait}", ())
            self._pooled.info[_TIMEOUT] = wait
        await self._execute("START TRANSACTION", ())
        return None


class AiosqliteLink(Link):
    """aiosqlite: a thread each connection.

    SQLite waits for a lock inside of its thread, where no cancellation reaches it; so it waits briefly there,
    and the rest of the time here.
    """

    _wait = 5.0

    async def _setup(self) -> None:
        await self._execute("PRAGMA foreign_keys = ON", ())
        await self._execute(f"PRAGMA busy_timeout = {_SLICE_MS}", ())

    async def _execute(self, text: str, params: Sequence[Any]) -> Rows:
        end = anyio.current_time() + self._wait
        while True:
            try:
                rows: Rows = await self._driver.execute_fetchall(text, params)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or anyio.current_time() > end:
                    raise
                await anyio.sleep(_SLICE_MS / 10_000)
            else:
                return rows

    async def _begin(self, lock_timeout: float) -> str | None:
        self._wait = lock_timeout
        await self._execute("BEGIN IMMEDIATE", ())
        return None
