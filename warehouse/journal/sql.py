"""The journal in a SQL database, through SQLAlchemy: SQLite (an embedded file) or PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from warehouse.errors import ConfigError, JournalUnavailable
from warehouse.journal.base import FINAL, Entry, EntryStep, Lock, RecordLocked, ReplyLost, State
from warehouse.journal.codec import decode, encode
from warehouse.journal.rows import unpack

VERSION: Final = 1
_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mysql+asyncmy",
}
_BYTES: Final = sa.LargeBinary().with_variant(sa.VARBINARY(16), "mysql", "mariadb")
_BLOB: Final = sa.LargeBinary(2**32 - 1)
_TEXT: Final = sa.String(120)

_metadata = sa.MetaData()
_meta = sa.Table(
    "warehouse_meta",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
_transactions = sa.Table(
    "warehouse_transactions",
    _metadata,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("name", _TEXT),
    sa.Column("pattern", _TEXT, nullable=False),
    sa.Column("state", _TEXT, nullable=False, index=True),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("finished", sa.Double),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("tokens", _BLOB, nullable=False),
    sa.Column("detail", _BLOB, nullable=False),
)
_steps = sa.Table(
    "warehouse_steps",
    _metadata,
    sa.Column("transaction_id", _TEXT, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("tag", sa.Text, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("body", _BLOB, nullable=False),
)
_locks = sa.Table(
    "warehouse_locks",
    _metadata,
    sa.Column("record", _BYTES, primary_key=True),
    sa.Column("transaction_id", _TEXT, nullable=False, index=True),
)
_finished = sa.Table(
    "warehouse_finished",
    _metadata,
    sa.Column("record", _BYTES, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
# Of a long list, as many go into one IN (...) as every server takes.
_CHUNK: Final = 500


class SqlJournal:
    """A `Journal` in tables of its own, `warehouse_*`, made when it is first opened."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigError("journal.url is not a database URL") from error
        backend = parsed.get_backend_name()
        if "+" not in parsed.drivername:
            parsed = parsed.set(drivername=_DRIVERS[backend])
        self._url = parsed
        self._engine: AsyncEngine | None = None
        self.description = parsed.render_as_string(hide_password=True)

    # Life

    async def open(self) -> None:
        """Create what is missing; see `Journal.open`."""
        if self._url.get_backend_name() == "sqlite":
            self._engine = self._open_sqlite()
        else:
            self._engine = create_async_engine(self._url, pool_pre_ping=True)
        try:
            async with self._engine.begin() as connection:
                await connection.run_sync(_metadata.create_all)
                version = await connection.scalar(sa.select(_meta.c.version))
                if version is None:
                    await connection.execute(_meta.insert().values(id=1, version=VERSION, sequence=0))
        except (DBAPIError, OSError) as error:
            await self.close()
            raise JournalUnavailable(
                f"the journal {self.description} cannot be opened: {_said(error)}"
            ) from error
        if version not in {None, VERSION}:
            await self.close()
            raise ConfigError(f"the journal {self.description} has the layout {version}, not {VERSION}")

    def _open_sqlite(self) -> AsyncEngine:
        path = self._url.database
        if path and path != ":memory:":
            try:
                os.close(os.open(Path(path), os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise JournalUnavailable(f"the journal {path} cannot be opened: {error.strerror}") from error
        engine = create_async_engine(self._url, pool_size=4, max_overflow=0)
        sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        sa.event.listen(engine.sync_engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    # Reading

    async def sequence(self) -> int:
        async with self._reading() as connection:
            return int(await connection.scalar(sa.select(_meta.c.sequence)) or 0)

    async def locked(self, locks: Sequence[Lock]) -> RecordLocked | None:
        async with self._reading() as connection:
            for start in range(0, len(locks), _CHUNK):
                part = locks[start : start + _CHUNK]
                row = (await connection.execute(sa.select(_locks).where(_locks.c.record.in_(part)))).first()
                if row is not None:
                    return RecordLocked(row.transaction_id, bytes(row.record))
        return None

    async def entries(self, states: Iterable[State] | None = None) -> list[Entry]:
        query = sa.select(_transactions).order_by(_transactions.c.started, _transactions.c.id)
        if states is not None:
            query = query.where(_transactions.c.state.in_(list(states)))
        async with self._reading() as connection:
            out = []
            for row in (await connection.execute(query)).all():
                steps = await connection.execute(
                    sa.select(_steps).where(_steps.c.transaction_id == row.id).order_by(_steps.c.position)
                )
                out.append(_entry(row, [_entry_step(step) for step in steps]))
            return out

    # Writing

    async def decide(self, entry: Entry, since: int) -> None:
        async with self._writing(entry.transaction_id, ReplyLost) as connection:
            await connection.execute(
                _transactions.insert().values(
                    id=entry.transaction_id,
                    name=entry.name,
                    pattern=entry.pattern,
                    state=entry.state,
                    started=time.time(),
                    tokens=encode(entry.tokens),
                    detail=encode(entry.detail),
                )
            )
            await _take(connection, entry.transaction_id, list(entry.locks()), since)
            await _add_steps(connection, entry.transaction_id, entry.steps)

    async def append(self, transaction_id: str, step: EntryStep, since: int, tokens: dict[str, str]) -> None:
        async with self._writing(transaction_id, ReplyLost) as connection:
            row = await _open_row(connection, transaction_id)
            await _take(connection, transaction_id, list(step.locks()), since)
            await connection.execute(
                _steps.delete().where(
                    _steps.c.transaction_id == transaction_id, _steps.c.position == step.index
                )
            )
            await _add_steps(connection, transaction_id, [step])
            if tokens:
                merged = encode({**decode(row.tokens), **tokens})
                await connection.execute(
                    _transactions.update().where(_transactions.c.id == transaction_id).values(tokens=merged)
                )

    async def settle(self, transaction_id: str) -> bool:
        try:
            async with self._writing(transaction_id, JournalUnavailable) as connection:
                await connection.execute(
                    _transactions.insert().values(
                        id=transaction_id,
                        pattern="staged",
                        state="compensated",
                        started=time.time(),
                        finished=time.time(),
                        tokens=encode({}),
                        detail=encode({"tombstone": True}),
                    )
                )
        except _Duplicate:
            return True
        return False

    async def change_state(self, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
        async with self._writing(transaction_id, ReplyLost) as connection:
            await _update(connection, transaction_id, state, detail)

    async def finish(self, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
        async with self._writing(transaction_id, ReplyLost) as connection:
            await connection.execute(_meta.update().values(sequence=_meta.c.sequence + 1))
            number = await connection.scalar(sa.select(_meta.c.sequence))
            held = sa.select(_locks.c.record).where(_locks.c.transaction_id == transaction_id)
            await connection.execute(_finished.delete().where(_finished.c.record.in_(held)))
            await connection.execute(
                _finished.insert().from_select(["record", "sequence"], held.add_columns(sa.literal(number)))
            )
            await connection.execute(_locks.delete().where(_locks.c.transaction_id == transaction_id))
            ended = {"finished": time.time(), "sequence": number}
            await _update(connection, transaction_id, state, detail, **ended)

    # Connections

    def _open_engine(self) -> AsyncEngine:
        if self._engine is None:
            raise JournalUnavailable(f"the journal {self.description} is not open")
        return self._engine

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        engine = self._open_engine().execution_options(isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                yield connection
        except (DBAPIError, OSError) as error:
            raise JournalUnavailable(
                f"the journal {self.description} cannot be read: {_said(error)}"
            ) from error

    @asynccontextmanager
    async def _writing(self, transaction_id: str, lost: type[Exception]) -> AsyncIterator[AsyncConnection]:
        """One transaction. A failed commit raises `lost`; any earlier failure: nothing was written."""
        committing = False
        try:
            async with self._open_engine().connect() as connection:
                transaction = await connection.begin()
                yield connection
                committing = True
                await transaction.commit()
        except IntegrityError as error:
            raise _Duplicate(f"the journal has an entry {transaction_id} already") from error
        except (SQLAlchemyError, OSError, asyncio.IncompleteReadError) as error:
            kind = lost if committing else JournalUnavailable
            raise kind(f"the journal {self.description} cannot be written: {_said(error)}") from error


class _Duplicate(JournalUnavailable):
    """The row is there already."""


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Durable, concurrent, and with transactions begun by us alone."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _said(error: BaseException) -> str:
    """What the driver said, without the statement and its values."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__


async def _take(connection: AsyncConnection, transaction_id: str, locks: Sequence[Lock], since: int) -> None:
    for start in range(0, len(locks), _CHUNK):
        part = locks[start : start + _CHUNK]
        rows = await connection.execute(
            sa.select(_locks.c.record, _locks.c.transaction_id).where(_locks.c.record.in_(part))
        )
        held = {bytes(row.record): row.transaction_id for row in rows}
        for item, owner in held.items():
            if owner != transaction_id:
                raise RecordLocked(owner, item)
        stale = await connection.scalar(
            sa.select(_finished.c.record)
            .where(_finished.c.record.in_(part), _finished.c.sequence > since)
            .limit(1)
        )
        if stale is not None:
            raise RecordLocked(None, bytes(stale))
        new = [{"record": item, "transaction_id": transaction_id} for item in part if item not in held]
        if new:
            try:
                await connection.execute(_locks.insert(), new)
            except IntegrityError as error:
                raise RecordLocked(None, part[0]) from error


async def _add_steps(connection: AsyncConnection, transaction_id: str, steps: Sequence[EntryStep]) -> None:
    rows = [
        {
            "transaction_id": transaction_id,
            "position": step.index,
            "name": step.name,
            "tag": step.tag,
            "store": step.store,
            "body": step.body,
        }
        for step in steps
    ]
    if rows:
        await connection.execute(_steps.insert(), rows)


async def _open_row(connection: AsyncConnection, transaction_id: str) -> Any:
    row = (
        await connection.execute(sa.select(_transactions).where(_transactions.c.id == transaction_id))
    ).first()
    if row is None or row.state in FINAL:
        raise JournalUnavailable(f"the journal has no open transaction {transaction_id}")
    return row


async def _update(
    connection: AsyncConnection, transaction_id: str, state: State, detail: dict[str, Any], **values: Any
) -> None:
    row = await _open_row(connection, transaction_id)
    merged = encode({**decode(row.detail), **detail})
    await connection.execute(
        _transactions.update()
        .where(_transactions.c.id == transaction_id)
        .values(state=state, detail=merged, **values)
    )


def _entry_step(row: Any) -> EntryStep:
    changes = unpack(bytes(row.body))
    return EntryStep(index=row.position, name=row.name, tag=row.tag, store=row.store, changes=changes)


def _entry(row: Any, steps: list[EntryStep]) -> Entry:
    return Entry(
        transaction_id=row.id,
        name=row.name,
        pattern=row.pattern,
        state=row.state,
        steps=tuple(steps),
        tokens=decode(bytes(row.tokens)),
        detail=decode(bytes(row.detail)),
    )
