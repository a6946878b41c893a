"""The journal's writes in SQL, as functions of an open (synchronous) connection."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

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
    KeyTaken,
    Lock,
    RecordLocked,
    Superseded,
    name_key,
)
from warehouse.journal.codec import encode
from warehouse.journal.prepared import Prepared
from warehouse.journal.reading import (
    CHUNK,
    MINE,
    ROW,
    STEPS,
    TOMBSTONE,
    detail_of,
    keep_detail,
    rows_of,
    seal_of,
    sequence,
    step_of,
)
from warehouse.journal.rows import mapping
from warehouse.results import State

_NEXT: Final = Prepared(schema.meta.update().values(sequence=schema.meta.c.sequence + 1))
_HELD: Final = sa.select(schema.locks.c.record).where(schema.locks.c.transaction_id == MINE)
_FORGET: Final = Prepared(schema.finished.delete().where(schema.finished.c.record.in_(_HELD)))
_REMEMBER: Final = Prepared(
    schema.finished.insert().from_select(
        ["record", "sequence"], _HELD.add_columns(sa.bindparam("number", type_=sa.BigInteger))
    )
)
_GIVE_BACK: Final = Prepared(schema.keys.delete().where(schema.keys.c.transaction_id == MINE))
# What marks the key that is the name of a held transaction, and does not expire.
_NAME: Final = b"name"
_NEVER: Final = 1e15
_GIVE_NAME_BACK: Final = Prepared(
    schema.keys.delete().where(
        schema.keys.c.transaction_id == MINE, schema.keys.c.expires == sa.bindparam("never", type_=sa.Double)
    )
)
_RELEASE: Final = Prepared(schema.locks.delete().where(schema.locks.c.transaction_id == MINE))
_OPEN: Final = Prepared(
    sa.select(*(schema.transactions.c[name] for name in ("state", "epoch", "tokens", "detail"))).where(
        schema.transactions.c.id == MINE
    )
)
_STARTED: Final = (
    "id",
    "name",
    "pattern",
    "state",
    "started",
    "tokens",
    "detail",
    "owner",
    "epoch",
    "expires",
)
_ADD_TRANSACTION: Final = Prepared(schema.transactions.insert(), _STARTED)
_ADD_LOCK: Final = Prepared(schema.locks.insert(), ("record", "transaction_id"))
_ADD_RECORD: Final = Prepared(schema.records.insert(), ("record", "transaction_id"))
_STEP: Final = ("transaction_id", "position", "name", "tag", "store", "priority", "entities", "body")
_ADD_STEP: Final = Prepared(schema.steps.insert(), _STEP)


# What stands for the bodies of steps that are kept in parts, by transaction and place.
Bodies: TypeAlias = Mapping[tuple[str, int], bytes]


class Duplicate(JournalUnavailable):
    """The journal has a transaction of this id already."""


def resolve(connection: sa.Connection, transaction_id: str, state: State, detail: dict[str, Any]) -> bool:
    row = connection.execute(ROW, {"mine": transaction_id}).first()
    if row is None or row.state != "failed":
        return False
    columns = schema.transactions.c
    failed = schema.transactions.update().where(columns.id == transaction_id, columns.state == "failed")
    merged = keep_detail(connection, {**detail_of(connection, row.detail), **detail})
    return connection.execute(failed.values(state=state, detail=merged)).rowcount == 1


def decide(  # noqa: PLR0917 - the arguments of `Journal.decide`
    connection: sa.Connection,
    entry: Entry,
    since: int,
    seen: Collection[str],
    carried: Sequence[Claim],
    bodies: Bodies,
) -> None:
    complete(connection, carried)
    _insert_transaction(connection, _values(connection, entry))
    if entry.idempotency is not None:
        _claim_key(connection, entry.transaction_id, entry.idempotency)
    if entry.state == "held":
        _claim_key(connection, entry.transaction_id, Idempotency(name_key(str(entry.name)), _NAME, _NEVER))
    locks = list(entry.locks())
    _take(connection, entry.transaction_id, locks, since, seen)
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
        "detail": keep_detail(connection, entry.detail),
        "owner": entry.owner,
        "epoch": entry.epoch,
        "expires": entry.expires,
    }


def _add_records(connection: sa.Connection, transaction_id: str, locks: Sequence[Lock]) -> None:
    """Remember by record which transactions changed it."""
    rows = [{"record": item, "transaction_id": transaction_id} for item in locks]
    if rows:
        _ADD_RECORD.run_many(connection, rows)


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
    seen: Collection[str],
    tokens: dict[str, str],
    change: tuple[State, dict[str, Any]] | None,
    bodies: Bodies,
) -> None:
    row = _claimed_row(connection, claim)
    wanted = list({item: None for step in steps for item in step.locks()})
    _take(connection, claim.transaction_id, wanted, since, seen)
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
        values["tokens"] = encode({**mapping(bytes(row.tokens)), **tokens})
    if change is not None:
        values |= {
            "state": change[0],
            "detail": keep_detail(connection, {**detail_of(connection, row.detail), **change[1]}),
        }
    if values:
        _update(connection, claim, **values)


def entomb(connection: sa.Connection, transaction_id: str) -> bool:
    """Insert a tombstone, unless one is there; true if the transaction is there. Duplicate: look again."""
    row = connection.execute(ROW, {"mine": transaction_id}).first()
    if row is not None:
        return TOMBSTONE not in detail_of(connection, row.detail)
    now = time.time()
    values = {
        "id": transaction_id,
        "name": None,
        "pattern": "staged",
        "state": "compensated",
        "started": now,
        "tokens": encode({}),
        "detail": keep_detail(connection, {TOMBSTONE: True}),
        "owner": "",
        "epoch": 1,
        "expires": None,
    }
    _insert_transaction(connection, values)
    _update(connection, Claim(transaction_id), finished=now)
    return False


def change_state(
    connection: sa.Connection, claim: Claim, state: State, detail: dict[str, Any], **values: Any
) -> None:
    row = _claimed_row(connection, claim)
    if detail:
        values["detail"] = keep_detail(connection, {**detail_of(connection, row.detail), **detail})
    _update(connection, claim, state=state, **values)


def finish(connection: sa.Connection, claim: Claim, state: State, detail: dict[str, Any]) -> None:
    _NEXT.run(connection, {})
    number = sequence(connection)
    mine = {"mine": claim.transaction_id}
    _FORGET.run(connection, mine)
    _REMEMBER.run(connection, {**mine, "number": number})
    _RELEASE.run(connection, mine)
    if state == "completed":
        _GIVE_NAME_BACK.run(connection, {**mine, "never": _NEVER})
    else:
        _GIVE_BACK.run(connection, mine)
    change_state(connection, claim, state, detail, finished=time.time(), sequence=number)


def complete(connection: sa.Connection, claims: Sequence[Claim]) -> None:
    columns = schema.transactions.c
    for claim in claims:
        still = sa.select(columns.id).where(*_is(claim), columns.state.not_in(sorted(FINAL)))
        if connection.execute(still.with_for_update()).first() is not None:
            finish(connection, claim, "completed", {})


def forget(connection: sa.Connection, record: Lock) -> tuple[int, list[str]]:
    """See `Journal.forget`. The transactions are taken one after the other, the steps of each as a whole."""
    touched = sa.select(schema.records.c.transaction_id).where(schema.records.c.record == record)
    forgotten, kept = 0, []
    for name in list(connection.scalars(touched)):
        row = connection.execute(ROW, {"mine": name}).first()
        if row is not None and row.state not in PRUNED:
            kept.append(name)
            continue
        for step in connection.execute(STEPS, {"mine": name}).all():
            left = step_of(connection, step).without(record)
            columns = schema.steps.c
            same = schema.steps.update().where(
                columns.transaction_id == name, columns.position == step.position
            )
            parts.drop(connection, [bytes(step.body)])
            connection.execute(same.values(body=seal_of(connection).close(left.body)))
        mine = schema.records.c.transaction_id == name
        connection.execute(schema.records.delete().where(mine, schema.records.c.record == record))
        if row is not None:
            marked = keep_detail(connection, {**detail_of(connection, row.detail), "forgotten": True})
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
        row = connection.execute(ROW, {"mine": claim.transaction_id}).first()
        detail = {} if row is None else detail_of(connection, row.detail)
        values |= {"state": change[0], "detail": keep_detail(connection, {**detail, **change[1]})}
    open_now = state.not_in(sorted(FINAL)) if change is None else state == "held"
    taken = connection.execute(schema.transactions.update().where(*_is(claim), open_now).values(values))
    return Claim(claim.transaction_id, claim.epoch + 1) if taken.rowcount == 1 else None


def beat(connection: sa.Connection, owner: str, heartbeat: Heartbeat) -> None:
    values = {"heartbeat": heartbeat.mark, "lease": heartbeat.lease}
    changed = connection.execute(schema.owners.update().where(schema.owners.c.id == owner).values(values))
    if changed.rowcount == 0:
        connection.execute(schema.owners.insert().values(id=owner, **values))


def retire(connection: sa.Connection, owner: str, seen: Heartbeat | None) -> None:
    gone = schema.owners.delete().where(schema.owners.c.id == owner)
    connection.execute(gone if seen is None else gone.where(schema.owners.c.heartbeat == seen.mark))


def prune(connection: sa.Connection, finished: float, images: float) -> bool:
    """Remove some of what `Journal.prune` says; whether there may be more."""
    connection.execute(schema.keys.delete().where(schema.keys.c.expires <= time.time()))
    columns = schema.transactions.c
    ended = sa.and_(
        columns.state.in_(sorted(PRUNED)), columns.id.not_in(sa.select(schema.keys.c.transaction_id))
    )
    old = sa.select(columns.id, columns.sequence).where(ended, columns.finished < finished).limit(CHUNK)
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
            .limit(CHUNK)
        )
    )
    parts.drop_stale(connection)
    if bare:
        parts.drop_of(connection, bare)
        connection.execute(schema.steps.delete().where(schema.steps.c.transaction_id.in_(bare)))
        connection.execute(schema.records.delete().where(schema.records.c.transaction_id.in_(bare)))
    return CHUNK in {len(rows), len(bare)}


def _is(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    columns = schema.transactions.c
    return columns.id == claim.transaction_id, columns.epoch == claim.epoch


def _update(connection: sa.Connection, claim: Claim, **values: Any) -> None:
    """Change the row of a transaction that is still as `claim` says, whoever else is at it. Raises Superseded."""
    own = {"own_id": claim.transaction_id, "own_epoch": claim.epoch}
    if _setting(tuple(sorted(values))).run(connection, {**values, **own}) == 0:
        raise _superseded(claim)


@lru_cache(maxsize=32)
def _setting(names: tuple[str, ...]) -> Prepared:
    """The update of these columns of one transaction, as it is claimed."""
    columns = schema.transactions.c
    own = columns.id == sa.bindparam("own_id"), columns.epoch == sa.bindparam("own_epoch")
    return Prepared(schema.transactions.update().where(*own), names)


def _superseded(claim: Claim) -> Superseded:
    return Superseded(f"transaction {claim.transaction_id} was taken over")


def _insert_transaction(connection: sa.Connection, values: dict[str, Any]) -> None:
    try:
        _ADD_TRANSACTION.run(connection, values)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        raise Duplicate(f"the journal has a transaction {values['id']} already") from error


def _take(
    connection: sa.Connection, transaction_id: str, locks: Sequence[Lock], since: int, seen: Collection[str]
) -> None:
    """Lock records: none may be another's, nor have been finished by another since it was read.

    All take them in one order, so that no two wait for each other. What finished is looked at last, when nobody
    can come and go any more.
    """
    locks = sorted(locks)
    for start in range(0, len(locks), CHUNK):
        part = locks[start : start + CHUNK]
        held = dict(rows_of(connection, schema.locks, part))
        for item, owner in held.items():
            if owner != transaction_id:
                raise RecordLocked(owner, item)
        new = [{"record": item, "transaction_id": transaction_id} for item in part if item not in held]
        if new:
            try:
                _ADD_LOCK.run_many(connection, new)
            except connection.dialect.loaded_dbapi.IntegrityError as error:
                raise RecordLocked(None, part[0]) from error
        for item, number in rows_of(connection, schema.finished, part):
            if number > since and number not in _numbers(connection, seen):
                raise RecordLocked(None, item)


def _numbers(connection: sa.Connection, transactions: Collection[str]) -> set[int]:
    """The numbers with which these finished."""
    columns = schema.transactions.c
    return set(connection.scalars(sa.select(columns.sequence).where(columns.id.in_(transactions))))


def _add_steps(
    connection: sa.Connection, transaction_id: str, steps: Sequence[EntryStep], bodies: Bodies
) -> None:
    if steps:
        rows = [_step_values(connection, transaction_id, step, bodies) for step in steps]
        _ADD_STEP.run_many(connection, rows)


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
        "body": bodies.get((transaction_id, step.index)) or seal_of(connection).close(step.body),
    }


class _Open(NamedTuple):
    """What is asked of a transaction that is open."""

    state: str
    epoch: int
    tokens: bytes
    detail: bytes


def _claimed_row(connection: sa.Connection, claim: Claim) -> _Open:
    found = _OPEN.row(connection, {"mine": claim.transaction_id})
    row = None if found is None else _Open(*found)
    if row is not None and row.epoch != claim.epoch:
        raise _superseded(claim)
    if row is None or row.state in FINAL:
        raise JournalUnavailable(f"the journal has no open transaction {claim.transaction_id}")
    return row
