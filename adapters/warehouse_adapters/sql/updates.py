"""Update and delete, with the rows that a delete reaches by foreign keys."""

from __future__ import annotations

from collections.abc import Sequence

from warehouse import conditions, updates
from warehouse.adapter import Request
from warehouse.errors import StoreError
from warehouse.records import Change, Record
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.cascades import Reached, deleted
from warehouse_adapters.sql.conditions import by_key, render
from warehouse_adapters.sql.inserts import set_rows
from warehouse_adapters.sql.tables import Table
from warehouse_adapters.sql.work import Work, claims


async def update(work: Work, table: Table, request: Request) -> list[Change]:
    """The changes of an update, one for each row that matched, by key."""
    if statements.computes(request.assignments):
        pairs = await _update_computed(work, table, request)
    elif work.dialect.one_statement:
        pairs = await _update_at_once(work, table, request)
    else:
        pairs = await _update_locked(work, table, request)
    written = frozenset(item.path for item in request.assignments)
    guard, effects = conditions.paths(request.where), updates.effects(request.assignments)
    return [
        Change(
            entity=table.info.entity,
            key=table.key_of(before),
            before=before,
            after=after,
            written=written,
            guard=guard,
            effects=effects,
            claims=claims(table, after, written),
        )
        for before, after in pairs
    ]


async def _update_at_once(work: Work, table: Table, request: Request) -> list[tuple[Record, Record]]:
    sql = statements.update_with_images(work.dialect, table, request.assignments, request.where)
    width = len(table.names)
    rows = await work.link.run(sql)
    if any(row[width + table.names.index(table.key[0])] is None for row in rows):
        raise StoreError("a trigger kept rows from being updated", entity=table.name)
    before = [table.record(row[:width]) for row in rows]
    after = [table.record(row[width:]) for row in rows]
    return list(zip(before, await work.reread(table, after) if table.rereads else after, strict=True))


async def _update_locked(work: Work, table: Table, request: Request) -> list[tuple[Record, Record]]:
    dialect = work.dialect
    before = await work.matching(table, request.where)
    if dialect.dynamic:
        _check_sums(request, _compute(request, before))
    keys = [table.key_of(record) for record in before]
    for some in statements.chunks(dialect, keys, len(table.key)):
        where = by_key(dialect, table, some)
        await work.link.run(statements.update(dialect, table, request.assignments, where))
    return list(zip(before, await work.reread(table, before), strict=True))


async def _update_computed(work: Work, table: Table, request: Request) -> list[tuple[Record, Record]]:
    """Lists inside of columns: lock the rows, compute the new values by the reference, write them."""
    before = await work.matching(table, request.where)
    names = list(dict.fromkeys(item.path.partition(".")[0] for item in request.assignments))
    after = await set_rows(work, table, before, _compute(request, before), names) if before else []
    return list(zip(before, after, strict=True))


def _check_sums(request: Request, records: Sequence[Record]) -> None:
    """SQLite counts on in doubles beyond 64 bits, and with text as with 0: neither is to happen."""
    for item in request.assignments:
        for record in records:
            value = record.get(item.path)
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise StoreError(f"{item.operator} leads beyond 64 bits", field=item.path)


def _compute(request: Request, records: Sequence[Record]) -> list[Record]:
    try:
        return [updates.apply(request.assignments, record) for record in records]
    except TypeError as error:
        raise StoreError(str(error)) from error


async def delete(work: Work, table: Table, request: Request) -> list[Change]:
    """The changes of a delete, with the rows of other tables that change or go with it.

    None refers to an earlier one, so that undo, from the end, finds whatever a row refers to.
    """
    guard = conditions.paths(request.where)
    if work.dialect.one_statement and not table.references:
        where = render(work.dialect, table, request.where)
        gone = await work.rows(table, statements.delete(table, where, returning=True))
        return [deleted(table, record, guard) for record in gone]
    gone = await work.matching(table, request.where)
    reached = Reached(work)
    await reached.follow(table, gone)
    await work.delete(table, gone)
    return await reached.changes(guard)
