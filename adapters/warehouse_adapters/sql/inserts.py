"""Insert and upsert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from warehouse.adapter import Request
from warehouse.errors import ConstraintViolated, StoreContention, StoreError
from warehouse.records import Change, Key, Record
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.tables import Sql, Table
from warehouse_adapters.sql.work import Work, claims, identify, inserted


async def insert(work: Work, table: Table, request: Request) -> list[Change]:
    """The changes of an insert, in the order of its records."""
    after = await insert_records(work, table, request.records)
    return [inserted(table, given, made) for given, made in zip(request.records, after, strict=True)]


def is_plain(table: Table, request: Request) -> bool:
    """Whether the request is an insert of one record, by one statement whose row is what the store keeps."""
    return request.operation == "insert" and len(request.records) == 1 and not table.rereads


def statement(dialect: Dialect, table: Table, request: Request) -> Sql:
    """The statement of a plain insert."""
    return statements.insert(dialect, table, tuple(request.records[0]), request.records)


def change(table: Table, request: Request, made: Sequence[Record]) -> Change:
    """The change of a plain insert that returned `made`."""
    if len(made) != 1:
        raise StoreError("a trigger kept rows from being inserted", entity=table.name)
    return inserted(table, request.records[0], made[0])


async def insert_records(work: Work, table: Table, records: Sequence[Record]) -> list[Record]:
    """Insert `records`: those with the same fields by one statement. Their rows, as the store has them."""
    if len(records) == 1:
        return await _insert_alike(work, table, tuple(records[0]), records)
    groups: dict[frozenset[str], list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(frozenset(record), []).append(index)
    out: dict[int, Record] = {}
    for indices in groups.values():
        names = tuple(records[indices[0]])
        for some in statements.chunks(work.dialect, indices, len(names)):
            made = await _insert_alike(work, table, names, [records[index] for index in some])
            out.update(zip(some, made, strict=True))
    return [out[index] for index in range(len(records))]


async def _insert_alike(
    work: Work, table: Table, names: tuple[str, ...], records: Sequence[Record]
) -> list[Record]:
    if not work.dialect.returning:
        return await _insert_and_read(work, table, names, records)
    made = await work.rows(table, statements.insert(work.dialect, table, names, records))
    if len(made) != len(records):
        raise StoreError("a trigger kept rows from being inserted", entity=table.name)
    return await work.reread(table, made) if table.rereads else made


async def _insert_and_read(
    work: Work, table: Table, names: tuple[str, ...], records: Sequence[Record]
) -> list[Record]:
    """Without RETURNING: rows with a key of their own together, numbered ones one by one."""
    missing = [name for name in table.key if name not in names]
    if not missing:
        await work.link.run(statements.insert(work.dialect, table, names, records))
        return await work.reread(table, records)
    if len(missing) > 1:
        raise StoreError(f"the key fields {missing} must be given", entity=table.name)
    keyed = []
    for record in records:
        await work.link.run(statements.insert(work.dialect, table, names, [record]))
        if not work.link.last_id:
            raise StoreError(f"the key field {missing[0]!r} must be given", entity=table.name)
        keyed.append(record | {missing[0]: work.link.last_id})
    return await work.reread(table, keyed)


async def upsert(work: Work, table: Table, request: Request) -> list[Change]:
    """The changes of an upsert: each record the insert or the update that it became."""
    changes: list[Change] = []
    for records in _runs(records=request.records, names=request.conflict_keys):
        changes += await _upsert_distinct(work, table, request, records)
    return changes


def _runs(records: Sequence[Record], names: Sequence[str]) -> Iterator[list[Record]]:
    """`records` cut so that none meets the same conflict keys twice: the second has to see the first."""
    run: list[Record] = []
    seen: set[object] = set()
    for record in records:
        mark = identify({name: record.get(name) for name in names})
        if mark in seen:
            yield run
            run, seen = [], set()
        run.append(record)
        seen.add(mark)
    yield run


async def _upsert_distinct(
    work: Work, table: Table, request: Request, records: Sequence[Record]
) -> list[Change]:
    found = await _locked_by(work, table, request.conflict_keys, records)
    fresh = [index for index, before in enumerate(found) if before is None]
    made = await _insert_fresh(work, table, request.conflict_keys, [records[index] for index in fresh])
    out = {index: inserted(table, records[index], after) for index, after in zip(fresh, made, strict=True)}
    old = [(index, before) for index, before in enumerate(found) if before is not None]
    out |= await _update_found(work, table, request, records, old)
    return [out[index] for index in range(len(records))]


async def _locked_by(
    work: Work, table: Table, names: Sequence[str], records: Sequence[Record]
) -> list[Record | None]:
    """For each record, the row with the same values of `names`, locked; by the store's own equality.

    What the store takes for equal, as texts in another case, may be one row for several records: whoever
    found none asks again, without those that found theirs.
    """
    out: list[Record | None] = [None] * len(records)
    columns = [table.column(name) for name in names]
    # Null conflicts with nothing, nor does what the store has yet to generate.
    asked = [
        index for index, record in enumerate(records) if all(record.get(name) is not None for name in names)
    ]
    while asked:
        met = False
        for some in statements.branches(work.dialect, asked, 2 * len(columns)):
            values = [tuple(records[index][name] for name in names) for index in some]
            for number, *row in await work.link.run(
                statements.select_each(work.dialect, table, columns, values)
            ):
                index, met = some[number], True
                if out[index] is not None:
                    raise ConstraintViolated(f"several records match the conflict_keys {list(names)}")
                out[index] = table.record(row)
        asked = [index for index in asked if met and out[index] is None]
    return out


async def _insert_fresh(
    work: Work, table: Table, names: Sequence[str], records: Sequence[Record]
) -> list[Record]:
    """Insert rows that were not there; StoreContention where somebody else was quicker.

    A conflict on anything but `names` is a violation like any other.
    """
    if not records:
        return []
    try:
        return await insert_records(work, table, records)
    except ConstraintViolated as error:
        if table.is_about(error, names):
            raise StoreContention("somebody else inserted the record meanwhile") from error.__cause__
        raise


async def _update_found(
    work: Work, table: Table, request: Request, records: Sequence[Record], old: Sequence[tuple[int, Record]]
) -> dict[int, Change]:
    """Update the rows that were there; by index, the changes. Rows with the same fields go together."""
    groups: dict[tuple[str, ...], list[tuple[int, Record]]] = {}
    for index, before in old:
        groups.setdefault(_updated(table, request, records[index]), []).append((index, before))
    out: dict[int, Change] = {}
    for names, members in groups.items():
        rows = [before for _, before in members]
        after = await set_rows(work, table, rows, [records[index] for index, _ in members], names)
        for (index, before), made in zip(members, after, strict=True):
            out[index] = Change(
                entity=table.info.entity,
                key=table.key_of(before),
                before=before,
                after=made,
                written=frozenset(names),
                claims=claims(table, made, frozenset(names)),
            )
    return out


def _updated(table: Table, request: Request, record: Record) -> tuple[str, ...]:
    """The fields that an upsert writes where the record exists."""
    fields = request.update_fields if request.update_fields is not None else tuple(record)
    return tuple(
        name
        for name in fields
        if name in record and name not in request.conflict_keys and name not in table.key
    )


async def set_rows(
    work: Work, table: Table, rows: Sequence[Record], new: Sequence[Record], names: Sequence[str]
) -> list[Record]:
    """Give each of `rows`, which are locked, the values that its like in `new` has for `names`; the rows then."""
    if not names:
        return list(rows)
    dialect = work.dialect
    shows = dialect.one_statement and not table.rereads
    keys = [table.key_of(row) for row in rows]
    shown: dict[object, Record] = {}
    for some in statements.branches(dialect, range(len(rows)), len(names) * (len(table.key) + 1) * 2):
        sql = _set_to(work, table, [keys[index] for index in some], [new[index] for index in some], names)
        returning = f" RETURNING {table.shown}" if shows else ""
        for record in table.records(await work.link.run(Sql(sql.text + returning, sql.params))):
            shown[identify(table.key_of(record))] = record
    if shows and len(shown) == len(rows):
        return [shown[identify(key)] for key in keys]
    return await work.reread(table, rows)


def _set_to(
    work: Work, table: Table, keys: Sequence[Key], records: Sequence[Record], names: Sequence[str]
) -> Sql:
    if len(keys) > 1:
        return statements.update_each(work.dialect, table, keys, records, names)
    assignments = statements.set_to(records[0], names)
    return statements.update(work.dialect, table, assignments, statements.keyed(work.dialect, table, keys[0]))
