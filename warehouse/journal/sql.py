"""The journal in a SQL database, through SQLAlchemy: SQLite (an embedded file), PostgreSQL, MySQL or MariaDB.

Each write is one function run in a worker thread: one hop there and back, whatever it takes in statements. In a file,
which has one writer at a time anyway, those that wait for their turn go together.
SQLite's reads touch a local file that no writer blocks (WAL); they are made where they are asked for.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from warehouse.errors import ConfigError, JournalUnavailable, WarehouseError
from warehouse.journal import parts, reading, schema, tables
from warehouse.journal.base import (
    Claim,
    Entry,
    EntryStep,
    Heartbeat,
    Keyed,
    Lock,
    RecordLocked,
    ReplyLost,
    name_key,
)
from warehouse.journal.group import Group, Member
from warehouse.journal.seal import Seal
from warehouse.records import Change, Entity
from warehouse.results import State

P = ParamSpec("P")
T = TypeVar("T")
_DRIVERS: Final = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_EXTRAS: Final = {"postgresql+psycopg": "postgres", "mysql+pymysql": "mysql"}
# MySQL ends one of those who wait for each other, or who wait too long; nothing of it was written then.
_DEADLOCKS: Final = {1205, 1213}
_TRIES: Final = 20
_NOT_MADE: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
# How long a write waits for another process's write to the same file, in milliseconds.
_BUSY: Final = 10_000
_AGAIN: Final = 0.01


class SqlJournal:
    """A `Journal` in tables of its own, `warehouse_*`, made when it is first opened."""

    def __init__(self, url: str, seal: Seal | None = None) -> None:
        """Take a database URL; ConfigError where it is none, or of a database that cannot be a journal."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigError("journal.url is not a database URL") from None
        backend = parsed.drivername.partition("+")[0]
        if backend not in _DRIVERS:
            raise ConfigError(
                f"journal.url has the scheme {backend!r}", hint="use sqlite, postgresql, mysql or memory"
            )
        self._url = parsed.set(drivername=_DRIVERS[backend])
        self._embedded = backend == "sqlite"
        if self._embedded and parsed.database in {None, "", ":memory:"}:
            raise ConfigError("journal.url names no file", hint="use sqlite:///file, or memory://")
        self.uid = ""
        self._seal = seal or Seal()
        self._engine: sa.Engine | None = None
        self._known_errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
        self._reader: sa.Connection | None = None
        self._limiter: CapacityLimiter | None = None
        self._group: Group | None = None
        self.identity = f"SQLite:{Path(str(parsed.database)).resolve()}" if self._embedded else None
        self.description = self._url.set(query={}).render_as_string(hide_password=True)

    # Life

    async def open(self) -> None:
        """Connect and create what is missing; see `Journal.open`."""
        self._limiter = CapacityLimiter(1 if self._embedded else 8)
        self._group = Group(self._write_together) if self._embedded else None
        await to_thread.run_sync(self._open)

    def _open(self) -> None:
        try:
            self._engine = self._make_engine()
            sa.event.listen(self._engine, "connect", self._note_seal)
            self._known_errors = (SQLAlchemyError, OSError, self._engine.dialect.loaded_dbapi.Error)
            with self._transaction(JournalUnavailable) as connection:
                self.uid = schema.create(connection, self._seal)
            if self._embedded:
                self._reader = self._engine.connect()
        except ImportError as error:
            text = f"the journal {self.description} needs a driver that is not installed: {error}"
            extra = _EXTRAS.get(self._url.drivername, "all")
            raise ConfigError(text, hint=f"pip install 'warehouse[{extra}]'") from error
        except (SQLAlchemyError, OSError, WarehouseError) as error:
            self._close()
            if isinstance(error, ConfigError):
                raise
            raise JournalUnavailable(
                f"the journal {self.description} cannot be opened: {_said(error)}"
            ) from error

    def _note_seal(self, _: Any, record: Any) -> None:
        record.info[reading.SEAL] = self._seal

    def _make_engine(self) -> sa.Engine:
        if not self._embedded:
            return sa.create_engine(self._url, pool_pre_ping=True, isolation_level="READ COMMITTED")
        os.close(os.open(str(self._url.database), os.O_CREAT | os.O_RDWR, 0o600))
        engine = sa.create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.pool.QueuePool,
            connect_args={"check_same_thread": False},
        )
        sa.event.listen(engine, "connect", _prepare)
        return engine

    async def close(self) -> None:
        """Give every connection back."""
        await to_thread.run_sync(self._close)

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    # Reading

    async def sequence(self) -> int:
        return await self._read(reading.sequence)

    async def touched(self, since: int) -> frozenset[tuple[str, Entity]]:
        return await self._read(reading.touched, since)

    async def unfinished(
        self, store: str, entity: Entity, ignoring: Collection[str] = frozenset()
    ) -> list[Change]:
        return await self._read(reading.unfinished, store, entity, ignoring)

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        return await self._read(reading.locked, locks)

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        return await self._read(reading.entries, states)

    async def entry(self, transaction_id: str) -> Entry | None:
        return await self._read(reading.entry, transaction_id)

    async def keyed(self, key: str) -> Keyed | None:
        return await self._read(reading.keyed, key)

    async def held(self, name: str) -> str | None:
        keyed = await self._read(reading.keyed, name_key(name))
        return None if keyed is None else keyed.transaction_id

    async def latest(self, name: str) -> Entry | None:
        return await self._read(reading.latest, name)

    async def is_mine(self, claim: Claim) -> bool:
        return await self._read(reading.is_mine, claim)

    async def recent(self, states: Iterable[State] | None, limit: int) -> list[Entry]:
        return await self._read(reading.recent, states, limit)

    async def of_record(self, lock: Lock, limit: int) -> list[Entry]:
        return await self._read(reading.of_record, lock, limit)

    async def since(self, lock: Lock, transaction_id: str) -> list[Entry]:
        return await self._read(reading.since, lock, transaction_id)

    async def forget(self, lock: Lock) -> tuple[int, list[str]]:
        found = await self._write(tables.forget, lock)
        if self._embedded:
            await to_thread.run_sync(self._wipe, limiter=self._limiter)
        return found

    def _wipe(self) -> None:
        """What was erased is still in the log until it is written back to the file."""
        with self._errors("written"), self._started().connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    async def claims(self) -> dict[Claim, str]:
        return await self._read(reading.claims)

    async def heartbeats(self) -> dict[str, Heartbeat]:
        return await self._read(reading.heartbeats)

    async def _read(
        self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._reader is not None:
            with self._errors("read"):
                return function(self._reader, *args, **kwargs)
        return await to_thread.run_sync(partial(self._read_there, function, *args, **kwargs))

    def _read_there(
        self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with self._errors("read"), self._started().connect() as connection:
            return function(connection, *args, **kwargs)

    # Writing

    async def decide(
        self,
        entry: Entry,
        since: int,
        *,
        carried: Sequence[Claim] = (),
        seen: Collection[str] = frozenset(),
    ) -> None:
        await self._write(tables.decide, entry, since, seen, carried, await self._in_parts([entry]))

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
        large = await self._parts_of(claim.transaction_id, steps)
        await self._write(tables.append, claim, steps, since, seen, tokens, change, large)

    async def settle(self, transaction_id: str) -> bool:
        while True:
            try:
                return await self._write(tables.entomb, transaction_id)
            except tables.Duplicate:
                continue  # it has just been inserted
            except ReplyLost as error:
                raise JournalUnavailable(error.message) from error

    async def change_state(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        await self._write(tables.change_state, claim, state, detail)

    async def finish(self, claim: Claim, state: State, detail: dict[str, Any]) -> None:
        await self._write(tables.finish, claim, state, detail)

    async def complete(self, claims: Sequence[Claim]) -> None:
        await self._write(tables.complete, claims)

    async def note(self, entries: Sequence[Entry]) -> None:
        await self._write(tables.note, entries, await self._in_parts(entries))

    async def resolve(self, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
        return await self._write(tables.resolve, transaction_id, state, detail)

    async def take_over(
        self, claim: Claim, owner: str, change: tuple[State, dict[str, Any]] | None = None
    ) -> Claim | None:
        return await self._write(tables.take_over, claim, owner, change)

    async def beat(self, owner: str, lease: float) -> None:
        await self._write(tables.beat, owner, Heartbeat.new(lease))

    async def retire(self, owner: str, seen: Heartbeat | None = None) -> None:
        await self._write(tables.retire, owner, seen)

    async def prune(self, *, finished: float, images: float) -> None:
        while await self._write(tables.prune, finished, images):
            pass

    async def _in_parts(self, entries: Sequence[Entry]) -> tables.Bodies:
        """Write what is large of these transactions, before they are; what stands for it."""
        out: dict[tuple[str, int], bytes] = {}
        for entry in entries:
            out.update(await self._parts_of(entry.transaction_id, entry.steps))
        return out

    async def _parts_of(self, transaction_id: str, steps: Sequence[EntryStep]) -> tables.Bodies:
        out: dict[tuple[str, int], bytes] = {}
        for step in steps:
            if len(step.body) <= parts.SIZE:
                continue
            kept = await to_thread.run_sync(self._seal.close, step.body)
            if len(kept) <= parts.SIZE:
                continue
            name, pieces = parts.split(kept)
            for number, piece in enumerate(pieces):
                try:
                    await self._write(parts.add, transaction_id, name, number, piece)
                except ReplyLost as error:  # whatever became of it: no step names it
                    raise JournalUnavailable(error.message) from error
            out[transaction_id, step.index] = name
        return out

    async def _write(self, function: Callable[..., T], *args: Any) -> T:
        if self._group is not None:
            return await self._group.write(function, args)
        return await to_thread.run_sync(self._write_there, function, args, limiter=self._limiter)

    def _write_together(self, members: Sequence[Member[Any]]) -> None:
        """One durable write for all of them; what one of them raises takes nothing from the others."""
        with self._transaction(ReplyLost) as connection:
            if len(members) == 1:
                members[0].run(connection)
                return
            for member in members:
                connection.exec_driver_sql("SAVEPOINT member")
                try:
                    with self._errors("written"):
                        member.run(connection)
                except Exception as error:
                    if not _is_open(connection):
                        raise  # a full disk has ended it for all
                    member.fail(error)
                    connection.exec_driver_sql("ROLLBACK TO member")
                connection.exec_driver_sql("RELEASE member")

    def _write_there(self, function: Callable[..., T], args: Sequence[Any]) -> T:
        for attempt in count(1):
            try:
                with self._transaction(ReplyLost) as connection:
                    return function(connection, *args)
            except JournalUnavailable as error:
                if attempt == _TRIES or not _was_deadlock(error.__cause__):
                    raise
            time.sleep(random.uniform(0, _AGAIN * attempt))  # noqa: S311 - no secret
        raise AssertionError  # it returns, or raises

    @contextmanager
    def _transaction(self, lost: type[WarehouseError]) -> Iterator[sa.Connection]:
        """One durable write. A failed commit raises `lost`; any earlier failure: nothing was written."""
        with self._errors("written"), self._started().connect() as connection:
            if self._embedded:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.begin()
            try:
                yield connection
            except BaseException:
                self._end(connection, "ROLLBACK")
                raise
            try:
                self._end(connection, "COMMIT")
            except SQLAlchemyError as error:
                if _was_refused(error):
                    self._end(connection, "ROLLBACK")
                    raise
                raise lost(
                    f"the journal {self.description} did not confirm a write: {_said(error)}"
                ) from error

    def _end(self, connection: sa.Connection, how: str) -> None:
        if self._embedded:
            if how == "COMMIT" or _is_open(connection):
                connection.exec_driver_sql(how)
        elif how == "COMMIT":
            connection.commit()
        else:
            connection.rollback()

    # Errors

    def _started(self) -> sa.Engine:
        if self._engine is None:
            raise JournalUnavailable(f"the journal {self.description} is not open")
        return self._engine

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._known_errors as error:
            raise JournalUnavailable(
                f"the journal {self.description} cannot be {what}: {_said(error)}"
            ) from error


def _prepare(connection: Any, _: Any) -> None:
    """Durable at every commit, and readers that no writer blocks."""
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={_BUSY}", "synchronous=FULL", "secure_delete=FAST"):
        cursor.execute(f"PRAGMA {pragma}")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Have the file written ahead. Where another switches it at the same moment, SQLite refuses without waiting."""
    give_up = time.monotonic() + _BUSY / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                raise
            time.sleep(_AGAIN)
        else:
            return


def _is_open(connection: sa.Connection) -> bool:
    """Whether SQLite still has a transaction: some errors, such as a full disk, have ended it."""
    return bool(getattr(connection.connection.driver_connection, "in_transaction", True))


def _was_refused(error: SQLAlchemyError) -> bool:
    """Whether SQLite says that it has not made the commit: another holds the file, or there is no room."""
    said = error.orig if isinstance(error, DBAPIError) else None
    return getattr(said, "sqlite_errorcode", None) in _NOT_MADE


def _was_deadlock(error: BaseException | None) -> bool:
    """Whether MySQL says that others were in the way, and has rolled everything back."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return type(said).__module__.startswith("pymysql") and said is not None and said.args[0] in _DEADLOCKS


def _said(error: BaseException) -> str:
    """What the driver said, without the statement and its values."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
