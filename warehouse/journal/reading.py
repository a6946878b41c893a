"""The journal's reads in SQL, as functions of an open (synchronous) connection, and what a row means."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import sqlalchemy as sa

from warehouse.journal import parts, schema
from warehouse.journal.base import FINAL, Claim, Entry, EntryStep, Heartbeat, Keyed, Lock, RecordLocked
from warehouse.journal.codec import decode, encode
from warehouse.journal.prepared import Prepared
from warehouse.journal.rows import mapping, undamaged, unpack
from warehouse.journal.seal import Seal
from warehouse.records import Change, Entity
from warehouse.results import State

# Of a long list, as many go into one IN (...) as every server takes.
CHUNK: Final = 500
# Marks the row that keeps a transaction from being recorded any more.
TOMBSTONE: Final = "tombstone"

MINE: sa.BindParameter[Any] = sa.bindparam("mine")
# Built once: to build a statement costs more than to run it.
SEQUENCE: Final = Prepared(sa.select(schema.meta.c.sequence))
ROW: Final = sa.select(schema.transactions).where(schema.transactions.c.id == MINE)
STEPS: Final = (
    sa.select(schema.steps).where(schema.steps.c.transaction_id == MINE).order_by(schema.steps.c.position)
)
# Under which name a connection knows the journal's seal.
SEAL: Final = "warehouse.seal"


def seal_of(connection: sa.Connection) -> Seal:
    return cast("Seal", connection.info[SEAL])


def body_of(connection: sa.Connection, body: bytes) -> bytes:
    """What a step changed, as bytes, from how it is kept."""
    return seal_of(connection).open(parts.whole(connection, bytes(body)))


def keep_detail(connection: sa.Connection, detail: Mapping[str, Any]) -> bytes:
    return seal_of(connection).close(encode(detail))


def detail_of(connection: sa.Connection, detail: bytes) -> dict[str, Any]:
    return mapping(seal_of(connection).open(bytes(detail)))


def sequence(connection: sa.Connection) -> int:
    found = SEQUENCE.row(connection, {})
    return int(found[0]) if found else 0


def touched(connection: sa.Connection, since: int) -> frozenset[tuple[str, Entity]]:
    columns = schema.steps.c
    recent = (
        sa.select(columns.store, columns.entities).distinct().where(schema.transactions.c.sequence > since)
    )
    found = connection.execute(
        recent.join(schema.transactions, schema.transactions.c.id == columns.transaction_id)
    )
    return frozenset((row.store, entity) for row in found for entity in _entities(row.entities))


def unfinished(
    connection: sa.Connection, store: str, entity: Entity, ignoring: Collection[str]
) -> list[Change]:
    columns, transaction = schema.steps.c, schema.transactions.c
    query = (
        sa.select(columns.transaction_id, columns.entities, columns.body)
        .join(schema.transactions, transaction.id == columns.transaction_id)
        .where(columns.store == store, transaction.state.not_in(sorted(FINAL)))
        .order_by(transaction.started, transaction.id, columns.position)
    )
    out: list[Change] = []
    for row in connection.execute(query).all():
        with undamaged(row.transaction_id):
            elsewhere = row.entities is not None and entity not in _entities(row.entities)
            if row.transaction_id not in ignoring and not elsewhere:
                changes, _ = unpack(body_of(connection, row.body))
                out += [change for change in changes if change.entity == entity]
    return out


def _entities(body: bytes | None) -> list[Entity]:
    """The entities of a step; none is told by what an earlier layout left."""
    with undamaged():
        return [] if body is None else [Entity(name, kind) for kind, name in decode(bytes(body))]


def locked(connection: sa.Connection, locks: Sequence[Lock]) -> RecordLocked | None:
    for start in range(0, len(locks), CHUNK):
        for item, owner in rows_of(connection, schema.locks, locks[start : start + CHUNK]):
            return RecordLocked(owner, item)
    return None


def entries(connection: sa.Connection, states: Iterable[State] | None) -> list[Entry]:
    query = sa.select(schema.transactions).order_by(schema.transactions.c.started, schema.transactions.c.id)
    if states is not None:
        query = query.where(schema.transactions.c.state.in_(list(states)))
    out = []
    for row in connection.execute(query).all():
        entry = _entry(connection, row, _steps(connection, row.id))
        if TOMBSTONE not in entry.detail:
            out.append(entry)
    return out


def entry(connection: sa.Connection, transaction_id: str) -> Entry | None:
    row = connection.execute(ROW, {"mine": transaction_id}).first()
    if row is None:
        return None
    found = _entry(connection, row, _steps(connection, transaction_id))
    return None if TOMBSTONE in found.detail else found


def is_mine(connection: sa.Connection, claim: Claim) -> bool:
    row = connection.execute(ROW, {"mine": claim.transaction_id}).first()
    return row is not None and row.state not in FINAL and row.epoch == claim.epoch


def recent(connection: sa.Connection, states: Iterable[State] | None, limit: int) -> list[Entry]:
    columns = schema.transactions.c
    query = sa.select(schema.transactions).order_by(columns.started.desc(), columns.id).limit(limit)
    if states is not None:
        query = query.where(columns.state.in_(list(states)))
    found = [_entry(connection, row, []) for row in connection.execute(query)]
    return [entry for entry in found if TOMBSTONE not in entry.detail]


def latest(connection: sa.Connection, name: str) -> Entry | None:
    columns = schema.transactions.c
    query = sa.select(schema.transactions).where(columns.name == name, columns.state.in_(sorted(FINAL)))
    row = connection.execute(query.order_by(columns.started.desc()).limit(1)).first()
    return None if row is None else _entry(connection, row, [])


def of_record(connection: sa.Connection, lock: Lock, limit: int) -> list[Entry]:
    columns = schema.transactions.c
    touched = sa.select(schema.records.c.transaction_id).where(schema.records.c.record == lock)
    query = sa.select(columns.id).where(columns.id.in_(touched)).order_by(columns.started.desc(), columns.id)
    return _entries(connection, query.limit(limit))


def since(connection: sa.Connection, lock: Lock, transaction_id: str) -> list[Entry]:
    columns = schema.transactions.c
    touched = sa.select(schema.records.c.transaction_id).where(schema.records.c.record == lock)
    mine = sa.select(columns.sequence).where(columns.id == transaction_id).scalar_subquery()
    later = sa.or_(columns.sequence > mine, sa.and_(columns.state.not_in(sorted(FINAL)), mine.is_not(None)))
    return _entries(connection, sa.select(columns.id).where(columns.id.in_(touched), later))


def _entries(connection: sa.Connection, ids: sa.Select[Any]) -> list[Entry]:
    names = list(connection.scalars(ids))
    return [found for name in names if (found := entry(connection, name)) is not None]


def claims(connection: sa.Connection) -> dict[Claim, str]:
    columns = schema.transactions.c
    unfinished = sa.select(columns.id, columns.epoch, columns.owner).where(
        columns.state.not_in(sorted(FINAL)),
        sa.or_(columns.state != "held", columns.expires <= time.time()),
    )
    rows = connection.execute(unfinished.order_by(columns.started, columns.id))
    return {Claim(row.id, row.epoch): row.owner for row in rows}


def heartbeats(connection: sa.Connection) -> dict[str, Heartbeat]:
    rows = connection.execute(sa.select(schema.owners))
    return {row.id: Heartbeat(row.heartbeat, row.lease) for row in rows}


def keyed(connection: sa.Connection, key: str) -> Keyed | None:
    columns = schema.keys.c
    valid = sa.select(schema.keys).where(columns.id == key, columns.expires > time.time())
    row = connection.execute(valid).first()
    return None if row is None else Keyed(row.transaction_id, bytes(row.fingerprint))


def _steps(connection: sa.Connection, transaction_id: str) -> list[EntryStep]:
    rows = connection.execute(STEPS, {"mine": transaction_id}).all()
    return [step_of(connection, row) for row in rows]


def step_of(connection: sa.Connection, row: Any) -> EntryStep:
    with undamaged(row.transaction_id):
        changes, called = unpack(body_of(connection, row.body))
    return EntryStep(
        index=row.position,
        name=row.name,
        tag=row.tag,
        store=row.store,
        changes=changes,
        priority=row.priority,
        called=called,
    )


def _entry(connection: sa.Connection, row: Any, steps: list[EntryStep]) -> Entry:
    with undamaged(row.id):
        tokens, detail = mapping(bytes(row.tokens)), detail_of(connection, row.detail)
    return Entry(
        transaction_id=row.id,
        name=row.name,
        pattern=row.pattern,
        state=row.state,
        steps=tuple(steps),
        tokens=tokens,
        detail=detail,
        owner=row.owner,
        epoch=row.epoch,
        expires=row.expires,
        started=row.started,
        finished=row.finished,
    )


def rows_of(connection: sa.Connection, table: sa.Table, records: Sequence[Lock]) -> list[tuple[Lock, Any]]:
    """What the table says of these records. By the driver itself: every transaction asks this."""
    cursor = connection.connection.cursor()
    cursor.execute(_query_of(table.name, connection.dialect.paramstyle, len(records)), tuple(records))
    rows = [(bytes(record), said) for record, said in cursor.fetchall()]
    cursor.close()
    return rows


@lru_cache(maxsize=CHUNK)
def _query_of(table: str, paramstyle: str, count: int) -> str:
    marks = ", ".join(["?" if paramstyle == "qmark" else "%s"] * count)
    return f"SELECT * FROM {table} WHERE record IN ({marks})"  # noqa: S608 - a name and marks only
