"""The journal's reads and writes in SQL, as functions of an open (synchronous) connection."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from warehouse.errors import JournalUnavailable
from warehouse.journal import parts, schema
from warehouse.journal.base import (
    FINAL,
    PRUNED,
    Claim,
    Entry,
    EntryStep,
    Heartbeat,
    Idempotency,
    Keyed,
    KeyTaken,
    Lock,
    RecordLocked,
    Superseded,
    name_key,
)
from warehouse.journal.codec import decode, encode
from warehouse.journal.rows import unpack
from warehouse.journal.seal import Seal
from warehouse.records import Change, Entity
from warehouse.results import State

# Of a long list, as many go into one IN (...) as every server takes.
_CHUNK: Final = 500
# Marks the row that keeps a transaction from being recorded any more.
_TOMBSTONE: Final = "tombstone"

_mine: sa.BindParameter[Any] = sa.bindparam("mine")
# Built once: to build a statement costs more than to run it.
_SEQUENCE: Final = sa.select(schema.meta.c.sequence)
_NEXT: Final = schema.meta.update().values(sequence=schema.meta.c.sequence + 1)
_ROW: Final = sa.select(schema.transactions).where(schema.transactions.c.id == _mine)
_STEPS: Final = (
    sa.select(schema.steps).where(schema.steps.c.transaction_id == _mine).order_by(schema.steps.c.position)
)
_HELD: Final = sa.select(schema.locks.c.record).where(schema.locks.c.transaction_id == _mine)
_FORGET: Final = schema.finished.delete().where(schema.finished.c.record.in_(_HELD))
_REMEMBER: Final = schema.finished.insert().from_select(
    ["record", "sequence"], _HELD.add_columns(sa.bindparam("number", type_=sa.BigInteger))
)
_GIVE_BACK: Final = schema.keys.delete().where(schema.keys.c.transaction_id == _mine)
# What marks the key that is the name of a held transaction, and does not expire.
_NAME: Final = b"name"
_NEVER: Final = 1e15
_GIVE_NAME_BACK: Final = schema.keys.delete().where(
    schema.keys.c.transaction_id == _mine, schema.keys.c.expires == _NEVER
)
_RELEASE: Final = schema.locks.delete().where(schema.locks.c.transaction_id == _mine)


# What stands for the bodies of steps that are kept in parts, by transaction and place.
Bodies: TypeAlias = Mapping[tuple[str, int], bytes]
# Under which name a connection knows the journal's seal.
SEAL: Final = "warehouse.seal"


def _seal(connection: sa.Connection) -> Seal:
    return cast("Seal", connection.info[SEAL])


def _opened(connection: sa.Connection, body: bytes) -> bytes:
    """What a step changed, as bytes, from how it is kept."""
    return _seal(connection).open(parts.whole(connection, bytes(body)))


def _close(connection: sa.Connection, detail: Mapping[str, Any]) -> bytes:
    return _seal(connection).close(encode(detail))


def _open(connection: sa.Connection, detail: bytes) -> dict[str, Any]:
    found: dict[str, Any] = decode(_seal(connection).open(bytes(detail)))
    return found


class Duplicate(JournalUnavailable):
    """The journal has a transaction of this id already."""


# Reading


def sequence(connection: sa.Connection) -> int:
    return int(connection.scalar(_SEQUENCE) or 0)


def touched(connection: sa.Connection, since: int) -> frozenset[tuple[str, Entity]]:
    columns = schema.steps.c
    recent = (
        sa.select(columns.store, columns.entities).distinct().where(schema.transactions.c.sequence > since)
    )
    found = connection.execute(
        recent.join(schema.transactions, schema.transactions.c.id == columns.transaction_id)
    )
    return frozenset((row.store, entity) for row in found for entity in _entities(row.entities))


def unfinished(connection: sa.Connection, store: str, entity: Entity) -> list[Change]:
    columns, transaction = schema.steps.c, schema.transactions.c
    query = (
        sa.select(columns.entities, columns.body)
        .join(schema.transactions, transaction.id == columns.transaction_id)
        .where(columns.store == store, transaction.state.not_in(sorted(FINAL)))
        .order_by(transaction.started, transaction.id, columns.position)
    )
    return [
        change
        for row in connection.execute(query)
        if row.entities is None or entity in _entities(row.entities)
        for change in unpack(_opened(connection, row.body))[0]
        if change.entity == entity
    ]


def _entities(body: bytes | None) -> list[Entity]:
    """The entities of a step; none is told by what an earlier layout left."""
    return [] if body is None else [Entity(name, kind) for kind, name in decode(bytes(body))]


def locked(connection: sa.Connection, locks: Sequence[Lock]) -> RecordLocked | None:
    for start in range(0, len(locks), _CHUNK):
        for item, owner in _rows_of(connection, schema.locks, locks[start : start + _CHUNK]):
            return RecordLocked(owner, item)
    return None


def entries(connection: sa.Connection, states: Iterable[State] | None) -> list[Entry]:
    query = sa.select(schema.transactions).order_by(schema.transactions.c.started, schema.transactions.c.id)
    if states is not None:
        query = query.where(schema.transactions.c.state.in_(list(states)))
    out = []
    for row in connection.execute(query).all():
        entry = _entry(
            connection,
            row,
            [_entry_step(connection, step) for step in connection.execute(_STEPS, {"mine": row.id})],
        )
        if _TOMBSTONE not in entry.detail:
            out.append(entry)
    return out


def entry(connection: sa.Connection, transaction_id: str) -> Entry | None:
    row = connection.execute(_ROW, {"mine": transaction_id}).first()
    if row is None:
        return None
    found = _entry(
        connection,
        row,
        [_entry_step(connection, step) for step in connection.execute(_STEPS, {"mine": transaction_id})],
    )
    return None if _TOMBSTONE in found.detail else found


def is_mine(connection: sa.Connection, claim: Claim) -> bool:
    row = connection.execute(_ROW, {"mine": claim.transaction_id}).first()
    return row is not None and row.state not in FINAL and row.epoch == claim.epoch


def recent(connection: sa.Connection, states: Iterable[State] | None, limit: int) -> list[Entry]:
    columns = schema.transactions.c
    query = sa.select(schema.transactions).order_by(columns.started.desc(), columns.id).limit(limit)
    if states is not None:
        query = query.where(columns.state.in_(list(states)))
    found = [_entry(connection, row, []) for row in connection.execute(query)]
    return [entry for entry in found if _TOMBSTONE not in entry.detail]


def latest(connection: sa.Connection, name: str) -> Entry | None:
    columns = schema.transactions.c
    query = sa.select(schema.transactions).where(columns.name == name, columns.state.in_(sorted(FINAL)))
    row = connection.execute(query.order_by(columns.started.desc()).limit(1)).first()
    return None if row is None else _entry(connection, row, [])


def of_record(connection: sa.Connection, lock: Lock, limit: int) -> list[Entry]:
    columns = schema.transactions.c
    touched = sa.select(schema.records.c.transaction_id).where(schema.records.c.record == lock)
    query = sa.select(columns.id).where(columns.id.in_(touched)).order_by(columns.started.desc(), columns.id)
    names = list(connection.scalars(query.limit(limit)))
    return [found for name in names if (found := entry(connection, name)) is not None]


def resolve(connection: sa.Connection, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
    row = connection.execute(_ROW, {"mine": transaction_id}).first()
    if row is None or row.state != "failed":
        return False
    columns = schema.transactions.c
    failed = schema.transactions.update().where(columns.id == transaction_id, columns.state == "failed")
    merged = _close(connection, {**_open(connection, row.detail), **detail})
    return connection.execute(failed.values(state=state, detail=merged)).rowcount == 1


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
    rows = connection.execute(_STEPS, {"mine": transaction_id})
    return [_entry_step(connection, row) for row in rows]


def _entry_step(connection: sa.Connection, row: Any) -> EntryStep:
    changes, called = unpack(_opened(connection, row.body))
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
    return Entry(
        transaction_id=row.id,
        name=row.name,
        pattern=row.pattern,
        state=row.state,
        steps=tuple(steps),
        tokens=decode(bytes(row.tokens)),
        detail=_open(connection, row.detail),
        owner=row.owner,
        epoch=row.epoch,
        expires=row.expires,
        started=row.started,
        finished=row.finished,
    )


# Writing


def decide(connection: sa.Connection, entry: Entry, since: int, bodies: Bodies) -> None:
    _insert_transaction(connection, _values(connection, entry))
    if entry.idempotency is not None:
        _claim_key(connection, entry.transaction_id, entry.idempotency)
    if entry.state == "held":
        _claim_key(connection, entry.transaction_id, Idempotency(name_key(str(entry.name)), _NAME, _NEVER))
    locks = list(entry.locks())
    _take(connection, entry.transaction_id, locks, since)
    _add_steps(connection, entry.transaction_id, entry.steps, bodies)
    _add_records(connection, entry.transaction_id, locks)


def note(connection: sa.Connection, entries: Sequence[Entry], bodies: Bodies) -> None:
    connection.execute(
        schema.transactions.insert(),
        [{**_values(connection, entry), "finished": entry.finished} for entry in entries],
    )
    connection.execute(
        schema.steps.insert(),
        [
            _step_values(connection, entry.transaction_id, step, bodies)
            for entry in entries
            for step in entry.steps
        ],
    )
    connection.execute(
        schema.records.insert(),
        [
            {"record": item, "transaction_id": entry.transaction_id}
            for entry in entries
            for item in entry.locks()
        ],
    )


def _values(connection: sa.Connection, entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.transaction_id,
        "name": entry.name,
        "pattern": entry.pattern,
        "state": entry.state,
        "started": entry.started,
        "tokens": encode(entry.tokens),
        "detail": _close(connection, entry.detail),
        "owner": entry.owner,
        "epoch": entry.epoch,
        "expires": entry.expires,
    }


def _add_records(connection: sa.Connection, transaction_id: str, locks: Sequence[Lock]) -> None:
    """Remember by record which transactions changed it."""
    rows = [{"record": item, "transaction_id": transaction_id} for item in locks]
    if rows:
        connection.execute(schema.records.insert(), rows)


def _claim_key(connection: sa.Connection, transaction_id: str, idempotency: Idempotency) -> None:
    columns = schema.keys.c
    expired = sa.and_(columns.id == idempotency.key, columns.expires <= time.time())
    connection.execute(schema.keys.delete().where(expired))
    row = {
        "id": idempotency.key,
        "transaction_id": transaction_id,
        "fingerprint": idempotency.fingerprint,
        "expires": idempotency.expires,
    }
    try:
        connection.execute(schema.keys.insert().values(row))
    except IntegrityError as error:
        raise KeyTaken(f"the idempotency key {idempotency.key!r} is taken") from error


def append(  # noqa: PLR0917 - the arguments of `Journal.append`
    connection: sa.Connection,
    claim: Claim,
    steps: Sequence[EntryStep],
    since: int,
    tokens: dict[str, str],
    change: tuple[State, dict[str, Any]] | None,
    bodies: Bodies,
) -> None:
    row = _claimed_row(connection, claim)
    wanted = list({item: None for step in steps for item in step.locks()})
    _take(connection, claim.transaction_id, wanted, since)
    columns = schema.steps.c
    same = columns.position.in_([step.index for step in steps])
    mine = columns.transaction_id == claim.transaction_id
    parts.drop(connection, map(bytes, connection.scalars(sa.select(columns.body).where(mine, same))))
    connection.execute(schema.steps.delete().where(mine, same))
    _add_steps(connection, claim.transaction_id, steps, bodies)
    known = sa.select(schema.records.c.record).where(schema.records.c.transaction_id == claim.transaction_id)
    before = {bytes(record) for record in connection.scalars(known)}
    _add_records(connection, claim.transaction_id, [item for item in wanted if item not in before])
    values: dict[str, Any] = {}
    if tokens:
        values["tokens"] = encode({**decode(bytes(row.tokens)), **tokens})
    if change is not None:
        values |= {
            "state": change[0],
            "detail": _close(connection, {**_open(connection, row.detail), **change[1]}),
        }
    if values:
        _update(connection, claim, **values)


def entomb(connection: sa.Connection, transaction_id: str) -> bool:
    """Insert a tombstone, unless one is there; true if the transaction is there. Duplicate: look again."""
    row = connection.execute(_ROW, {"mine": transaction_id}).first()
    if row is not None:
        return _TOMBSTONE not in _open(connection, row.detail)
    now = time.time()
    values = {
        "id": transaction_id,
        "pattern": "staged",
        "state": "compensated",
        "started": now,
        "finished": now,
        "tokens": encode({}),
        "detail": _close(connection, {_TOMBSTONE: True}),
    }
    _insert_transaction(connection, values)
    return False


def change_state(
    connection: sa.Connection, claim: Claim, state: State, detail: dict[str, Any], **values: Any
) -> None:
    row = _claimed_row(connection, claim)
    if detail:
        values["detail"] = _close(connection, {**_open(connection, row.detail), **detail})
    _update(connection, claim, state=state, **values)


def finish(connection: sa.Connection, claim: Claim, state: State, detail: dict[str, Any]) -> None:
    connection.execute(_NEXT)
    number = sequence(connection)
    mine = {"mine": claim.transaction_id}
    connection.execute(_FORGET, mine)
    connection.execute(_REMEMBER, {**mine, "number": number})
    connection.execute(_RELEASE, mine)
    connection.execute(_GIVE_BACK if state != "completed" else _GIVE_NAME_BACK, mine)
    change_state(connection, claim, state, detail, finished=time.time(), sequence=number)


def forget(connection: sa.Connection, record: Lock) -> tuple[int, list[str]]:
    """See `Journal.forget`. The transactions are taken one after the other, the steps of each as a whole."""
    touched = sa.select(schema.records.c.transaction_id).where(schema.records.c.record == record)
    forgotten, kept = 0, []
    for name in list(connection.scalars(touched)):
        row = connection.execute(_ROW, {"mine": name}).first()
        if row is not None and row.state not in PRUNED:
            kept.append(name)
            continue
        for step in connection.execute(_STEPS, {"mine": name}).all():
            left = _entry_step(connection, step).without(record)
            columns = schema.steps.c
            same = schema.steps.update().where(
                columns.transaction_id == name, columns.position == step.position
            )
            parts.drop(connection, [bytes(step.body)])
            connection.execute(same.values(body=_seal(connection).close(left.body)))
        mine = schema.records.c.transaction_id == name
        connection.execute(schema.records.delete().where(mine, schema.records.c.record == record))
        if row is not None:
            marked = _close(connection, {**_open(connection, row.detail), "forgotten": True})
            columns = schema.transactions.c
            connection.execute(schema.transactions.update().where(columns.id == name).values(detail=marked))
            forgotten += 1
    return forgotten, kept


def take_over(
    connection: sa.Connection,
    claim: Claim,
    owner: str,
    change: tuple[State, dict[str, Any]] | None,
) -> Claim | None:
    state = schema.transactions.c.state
    values: dict[str, Any] = {"owner": owner, "epoch": claim.epoch + 1}
    if change is not None:
        row = connection.execute(_ROW, {"mine": claim.transaction_id}).first()
        detail = {} if row is None else _open(connection, row.detail)
        values |= {"state": change[0], "detail": _close(connection, {**detail, **change[1]})}
    open_now = state.not_in(sorted(FINAL)) if change is None else state == "held"
    taken = connection.execute(schema.transactions.update().where(*_is(claim), open_now).values(values))
    return Claim(claim.transaction_id, claim.epoch + 1) if taken.rowcount == 1 else None


def beat(connection: sa.Connection, owner: str, lease: float) -> None:
    mine = schema.owners.update().where(schema.owners.c.id == owner)
    changed = connection.execute(mine.values(heartbeat=schema.owners.c.heartbeat + 1, lease=lease))
    if changed.rowcount == 0:
        connection.execute(schema.owners.insert().values(id=owner, heartbeat=1, lease=lease))


def retire(connection: sa.Connection, owners: Sequence[str]) -> None:
    connection.execute(schema.owners.delete().where(schema.owners.c.id.in_(owners)))


def prune(connection: sa.Connection, finished: float, images: float) -> bool:
    """Remove some of what `Journal.prune` says; whether there may be more."""
    connection.execute(schema.keys.delete().where(schema.keys.c.expires <= time.time()))
    columns = schema.transactions.c
    ended = sa.and_(
        columns.state.in_(sorted(PRUNED)), columns.id.not_in(sa.select(schema.keys.c.transaction_id))
    )
    old = sa.select(columns.id, columns.sequence).where(ended, columns.finished < finished).limit(_CHUNK)
    rows = connection.execute(old).all()
    if rows:
        connection.execute(schema.transactions.delete().where(columns.id.in_([row.id for row in rows])))
        last = max(row.sequence or 0 for row in rows)
        connection.execute(schema.finished.delete().where(schema.finished.c.sequence <= last))
    bare = list(
        connection.scalars(
            sa.select(schema.steps.c.transaction_id)
            .distinct()
            .join(schema.transactions, columns.id == schema.steps.c.transaction_id, isouter=True)
            .where(sa.or_(columns.id.is_(None), sa.and_(ended, columns.finished < images)))
            .limit(_CHUNK)
        )
    )
    parts.drop_stale(connection)
    if bare:
        parts.drop_of(connection, bare)
        connection.execute(schema.steps.delete().where(schema.steps.c.transaction_id.in_(bare)))
        connection.execute(schema.records.delete().where(schema.records.c.transaction_id.in_(bare)))
    return _CHUNK in {len(rows), len(bare)}


def _is(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    columns = schema.transactions.c
    return columns.id == claim.transaction_id, columns.epoch == claim.epoch


def _update(connection: sa.Connection, claim: Claim, **values: Any) -> None:
    """Change the row of a transaction that is still as `claim` says, whoever else is at it. Raises Superseded."""
    if connection.execute(schema.transactions.update().where(*_is(claim)).values(values)).rowcount == 0:
        raise _superseded(claim)


def _superseded(claim: Claim) -> Superseded:
    return Superseded(f"transaction {claim.transaction_id} was taken over")


def _insert_transaction(connection: sa.Connection, values: dict[str, Any]) -> None:
    try:
        connection.execute(schema.transactions.insert().values(values))
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
        held = dict(_rows_of(connection, schema.locks, part))
        for item, owner in held.items():
            if owner != transaction_id:
                raise RecordLocked(owner, item)
        new = [{"record": item, "transaction_id": transaction_id} for item in part if item not in held]
        if new:
            try:
                connection.execute(schema.locks.insert(), new)
            except IntegrityError as error:
                raise RecordLocked(None, part[0]) from error
        for item, number in _rows_of(connection, schema.finished, part):
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


def _add_steps(
    connection: sa.Connection, transaction_id: str, steps: Sequence[EntryStep], bodies: Bodies
) -> None:
    if steps:
        rows = [_step_values(connection, transaction_id, step, bodies) for step in steps]
        connection.execute(schema.steps.insert(), rows)


def _step_values(
    connection: sa.Connection, transaction_id: str, step: EntryStep, bodies: Bodies
) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "position": step.index,
        "name": step.name,
        "tag": step.tag,
        "store": step.store,
        "priority": step.priority,
        "entities": encode(sorted([entity.kind, entity.name] for entity in step.entities)),
        "body": bodies.get((transaction_id, step.index)) or _seal(connection).close(step.body),
    }


def _claimed_row(connection: sa.Connection, claim: Claim) -> Any:
    row = connection.execute(_ROW, {"mine": claim.transaction_id}).first()
    if row is not None and row.epoch != claim.epoch:
        raise _superseded(claim)
    if row is None or row.state in FINAL:
        raise JournalUnavailable(f"the journal has no open transaction {claim.transaction_id}")
    return row
