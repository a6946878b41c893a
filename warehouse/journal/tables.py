"""The journal's tables, and its reads and writes as functions of an open (synchronous) connection."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from warehouse.errors import ConfigError, JournalUnavailable
from warehouse.journal.base import FINAL, Entry, EntryStep, Lock, RecordLocked, State
from warehouse.journal.codec import decode, encode
from warehouse.journal.rows import unpack

VERSION: Final = 1
_TEXT: Final = sa.String(120)
# Of a long list, as many go into one IN (...) as every server takes.
_CHUNK: Final = 500
# What whoever creates the tables locks: a number of ours.
_CREATING: Final = 0x5748
# Marks the row that keeps a transaction from being recorded any more.
_TOMBSTONE: Final = "tombstone"

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
    sa.Column("name", sa.Text),
    sa.Column("pattern", _TEXT, nullable=False),
    sa.Column("state", _TEXT, nullable=False, index=True),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("finished", sa.Double),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("tokens", sa.LargeBinary, nullable=False),
    sa.Column("detail", sa.LargeBinary, nullable=False),
)
_steps = sa.Table(
    "warehouse_steps",
    _metadata,
    sa.Column("transaction_id", _TEXT, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("tag", sa.Text, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_locks = sa.Table(
    "warehouse_locks",
    _metadata,
    sa.Column("record", sa.LargeBinary, primary_key=True),
    sa.Column("transaction_id", _TEXT, nullable=False, index=True),
)
_finished = sa.Table(
    "warehouse_finished",
    _metadata,
    sa.Column("record", sa.LargeBinary, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)

_mine: sa.BindParameter[Any] = sa.bindparam("mine")
# Built once: to build a statement costs more than to run it.
_SEQUENCE: Final = sa.select(_meta.c.sequence)
_NEXT: Final = _meta.update().values(sequence=_meta.c.sequence + 1)
_ROW: Final = sa.select(_transactions).where(_transactions.c.id == _mine)
_STEPS: Final = sa.select(_steps).where(_steps.c.transaction_id == _mine).order_by(_steps.c.position)
_HELD: Final = sa.select(_locks.c.record).where(_locks.c.transaction_id == _mine)
_FORGET: Final = _finished.delete().where(_finished.c.record.in_(_HELD))
_REMEMBER: Final = _finished.insert().from_select(
    ["record", "sequence"], _HELD.add_columns(sa.bindparam("number", type_=sa.BigInteger))
)
_RELEASE: Final = _locks.delete().where(_locks.c.transaction_id == _mine)


class Duplicate(JournalUnavailable):
    """The journal has a transaction of this id already."""


def create(connection: sa.Connection) -> None:
    """Create what is missing; ConfigError if the tables are of another version."""
    if connection.dialect.name == "postgresql":  # where two that create a table at once fail
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
    _metadata.create_all(connection)
    version = connection.scalar(sa.select(_meta.c.version))
    if version is None:
        connection.execute(_meta.insert().values(id=1, version=VERSION, sequence=0))
    elif version != VERSION:
        raise ConfigError(f"the journal has the layout {version}, and this program needs {VERSION}")


# Reading


def sequence(connection: sa.Connection) -> int:
    return int(connection.scalar(_SEQUENCE) or 0)


def locked(connection: sa.Connection, locks: Sequence[Lock]) -> RecordLocked | None:
    for start in range(0, len(locks), _CHUNK):
        for item, owner in _rows_of(connection, _locks, locks[start : start + _CHUNK]):
            return RecordLocked(owner, item)
    return None


def entries(connection: sa.Connection, states: Iterable[State] | None) -> list[Entry]:
    query = sa.select(_transactions).order_by(_transactions.c.started, _transactions.c.id)
    if states is not None:
        query = query.where(_transactions.c.state.in_(list(states)))
    out = []
    for row in connection.execute(query).all():
        entry = _entry(row, [_entry_step(step) for step in connection.execute(_STEPS, {"mine": row.id})])
        if _TOMBSTONE not in entry.detail:
            out.append(entry)
    return out


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


# Writing


def decide(connection: sa.Connection, entry: Entry, since: int) -> None:
    values = {
        "id": entry.transaction_id,
        "name": entry.name,
        "pattern": entry.pattern,
        "state": entry.state,
        "started": time.time(),
        "tokens": encode(entry.tokens),
        "detail": encode(entry.detail),
    }
    _insert_transaction(connection, values)
    _take(connection, entry.transaction_id, list(entry.locks()), since)
    _add_steps(connection, entry.transaction_id, entry.steps)


def append(
    connection: sa.Connection, transaction_id: str, step: EntryStep, since: int, tokens: dict[str, str]
) -> None:
    row = _open_row(connection, transaction_id)
    _take(connection, transaction_id, list(step.locks()), since)
    same_step = sa.and_(_steps.c.transaction_id == transaction_id, _steps.c.position == step.index)
    connection.execute(_steps.delete().where(same_step))
    _add_steps(connection, transaction_id, [step])
    if tokens:
        merged = encode({**decode(bytes(row.tokens)), **tokens})
        connection.execute(
            _transactions.update().where(_transactions.c.id == transaction_id).values(tokens=merged)
        )


def entomb(connection: sa.Connection, transaction_id: str) -> None:
    """Insert a tombstone; Duplicate if the transaction is there."""
    now = time.time()
    values = {
        "id": transaction_id,
        "pattern": "staged",
        "state": "compensated",
        "started": now,
        "finished": now,
        "tokens": encode({}),
        "detail": encode({_TOMBSTONE: True}),
    }
    _insert_transaction(connection, values)


def change_state(
    connection: sa.Connection, transaction_id: str, state: State, detail: dict[str, Any], **values: Any
) -> None:
    row = _open_row(connection, transaction_id)
    if detail:
        values["detail"] = encode({**decode(bytes(row.detail)), **detail})
    mine = _transactions.c.id == transaction_id
    connection.execute(_transactions.update().where(mine).values(state=state, **values))


def finish(connection: sa.Connection, transaction_id: str, state: State, detail: dict[str, Any]) -> None:
    connection.execute(_NEXT)
    number = sequence(connection)
    mine = {"mine": transaction_id}
    connection.execute(_FORGET, mine)
    connection.execute(_REMEMBER, {**mine, "number": number})
    connection.execute(_RELEASE, mine)
    change_state(connection, transaction_id, state, detail, finished=time.time(), sequence=number)


def _insert_transaction(connection: sa.Connection, values: dict[str, Any]) -> None:
    try:
        connection.execute(_transactions.insert().values(values))
    except IntegrityError as error:
        raise Duplicate(f"the journal has a transaction {values['id']} already") from error


def _take(connection: sa.Connection, transaction_id: str, locks: Sequence[Lock], since: int) -> None:
    """Lock records: none may be another's, nor have been finished by another since it was read.

    All take them in one order, so that no two wait for each other. What finished is looked at last, when nobody
    can come and go any more.
    """
    locks = sorted(locks)
    for start in range(0, len(locks), _CHUNK):
        part = locks[start : start + _CHUNK]
        held = dict(_rows_of(connection, _locks, part))
        for item, owner in held.items():
            if owner != transaction_id:
                raise RecordLocked(owner, item)
        new = [{"record": item, "transaction_id": transaction_id} for item in part if item not in held]
        if new:
            try:
                connection.execute(_locks.insert(), new)
            except IntegrityError as error:
                raise RecordLocked(None, part[0]) from error
        for item, number in _rows_of(connection, _finished, part):
            if number > since:
                raise RecordLocked(None, item)


def _rows_of(connection: sa.Connection, table: sa.Table, records: Sequence[Lock]) -> list[tuple[Lock, Any]]:
    """What the table says of these records. By the driver itself: every transaction asks this."""
    cursor = connection.connection.cursor()
    cursor.execute(_query_of(table.name, connection.dialect.paramstyle, len(records)), tuple(records))
    rows = [(bytes(record), said) for record, said in cursor.fetchall()]
    cursor.close()
    return rows


@lru_cache(maxsize=_CHUNK)
def _query_of(table: str, paramstyle: str, count: int) -> str:
    marks = ", ".join(["?" if paramstyle == "qmark" else "%s"] * count)
    return f"SELECT * FROM {table} WHERE record IN ({marks})"  # noqa: S608 - a name and marks only


def _add_steps(connection: sa.Connection, transaction_id: str, steps: Sequence[EntryStep]) -> None:
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
        connection.execute(_steps.insert(), rows)


def _open_row(connection: sa.Connection, transaction_id: str) -> Any:
    row = connection.execute(_ROW, {"mine": transaction_id}).first()
    if row is None or row.state in FINAL:
        raise JournalUnavailable(f"the journal has no open transaction {transaction_id}")
    return row
