"""Update and delete, with the rows that a delete reaches by foreign keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from warehouse import conditions, updates
from warehouse.adapter import Request
from warehouse.errors import StoreError
from warehouse.records import ABSENT, Change, Record
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.conditions import among, by_key, render
from warehouse_adapters.sql.inserts import set_rows
from warehouse_adapters.sql.tables import Reference, Table
from warehouse_adapters.sql.work import Work, claims, identify


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
    before = await work.locked(table, render(dialect, table, request.where))
    if dialect.dynamic:
        _compute(request, before)  # a number is to be changed only where there is one
    keys = [table.key_of(record) for record in before]
    for some in statements.chunks(dialect, keys, len(table.key)):
        where = by_key(dialect, table, some)
        await work.link.run(statements.update(dialect, table, request.assignments, where))
    return list(zip(before, await work.reread(table, before), strict=True))


async def _update_computed(work: Work, table: Table, request: Request) -> list[tuple[Record, Record]]:
    """Lists inside of columns: lock the rows, compute the new values by the reference, write them."""
    before = await work.locked(table, render(work.dialect, table, request.where))
    names = [item.path for item in request.assignments]
    after = await set_rows(work, table, before, _compute(request, before), names) if before else []
    return list(zip(before, after, strict=True))


def _compute(request: Request, records: Sequence[Record]) -> list[Record]:
    try:
        return [updates.apply(request.assignments, record) for record in records]
    except TypeError as error:
        raise StoreError(str(error)) from error


async def delete(work: Work, table: Table, request: Request) -> list[Change]:
    """The changes of a delete: first the rows of other tables that go or change with it, then its own.

    Later rows refer to none of the earlier ones, so that undo, from the end, finds what it refers to.
    """
    where = render(work.dialect, table, request.where)
    if work.dialect.one_statement and not table.references:
        gone = await work.rows(table, statements.delete(table, where, returning=True))
        return [_deleted(table, record, request) for record in gone]
    gone = await work.locked(table, where)
    reached = _Reached(work)
    await reached.follow(table, gone)
    deleted, changed = reached.deleted(), reached.changed()
    await work.delete(table, gone)
    changes = await _cut_off(work, changed)
    changes += [
        Change(
            entity=owner.info.entity,
            key=owner.key_of(record),
            before=record,
            after=ABSENT,
            written=frozenset(record) - owner.info.generated,
            dependent=True,
        )
        for owner, record in deleted
    ]
    return changes + [_deleted(table, record, request) for record in gone]


def _deleted(table: Table, record: Record, request: Request) -> Change:
    return Change(
        entity=table.info.entity,
        key=table.key_of(record),
        before=record,
        after=ABSENT,
        written=frozenset(record) - table.info.generated,
        guard=conditions.paths(request.where),
    )


async def _cut_off(work: Work, cut: Sequence[_Cut]) -> list[Change]:
    """The rows whose reference was set to null, or to its default, when what it referred to went."""
    out: list[Change] = []
    for row in cut:
        after = await work.reread(row.table, [row.record])
        out.append(
            Change(
                entity=row.table.info.entity,
                key=row.table.key_of(row.record),
                before=row.record,
                after=after[0],
                written=frozenset(row.columns),
                dependent=True,
            )
        )
    return out


async def dependants(
    work: Work, table: Table, reference: Reference, rows: Sequence[Record]
) -> tuple[Table, list[Record]]:
    """The rows, locked, that refer to one of `rows` by `reference`."""
    child = work.table(reference.child)
    if not child.key:
        raise StoreError(
            f"the delete reaches {child.name!r} by {reference.constraint!r}, whose rows nothing identifies",
            entity=table.name,
            hint=f"configure a key for {child.name!r}",
        )
    values = [tuple(row[name] for name in reference.parents) for row in rows]
    columns = [child.columns[name] for name in reference.columns]
    out: list[Record] = []
    for some in statements.chunks(work.dialect, values, len(columns)):
        out += await work.locked(child, among(work.dialect, columns, some))
    return child, out


async def has_dependants(work: Work, table: Table, row: Record) -> Reference | None:
    """A foreign key by which deleting `row` would reach other rows."""
    for reference in table.references:
        child = work.table(reference.child)
        columns = [child.columns[name] for name in reference.columns]
        where = among(work.dialect, columns, [tuple(row[name] for name in reference.parents)])
        if await work.link.run(statements.probe(child, where)):
            return reference
    return None


@dataclass(frozen=True, slots=True)
class _Cut:
    """A row that stays, and the columns by which it referred to one that goes."""

    table: Table
    record: Record
    columns: set[str]


class _Reached:
    """What a delete reaches by its foreign keys, level by level."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._gone: dict[Any, tuple[Table, Record]] = {}
        self._parents: dict[Any, set[Any]] = {}
        self._cut: dict[Any, _Cut] = {}
        self._roots: set[Any] = set()

    async def follow(self, table: Table, rows: Sequence[Record]) -> None:
        """Begin with `rows`, which are to be deleted."""
        self._roots = {_mark(table, row) for row in rows}
        frontier = [(table, list(rows))]
        while frontier:
            owner, some = frontier.pop()
            for reference in owner.references if some else ():
                child, found = await dependants(self._work, owner, reference, some)
                frontier.append((child, self._meet(owner, some, reference, child, found)))

    def _meet(
        self, owner: Table, rows: Sequence[Record], reference: Reference, child: Table, found: list[Record]
    ) -> list[Record]:
        """Note the rows found; those that have to be followed in turn."""
        by_value = {tuple(row[name] for name in reference.parents): _mark(owner, row) for row in rows}
        fresh = []
        for record in found:
            mark = _mark(child, record)
            if mark in self._roots:
                continue
            if not reference.cascades:
                self._cut.setdefault(mark, _Cut(child, record, set())).columns.update(reference.columns)
                continue
            parent = by_value.get(tuple(record[name] for name in reference.columns))
            self._parents.setdefault(mark, set()).add(parent)
            if mark not in self._gone:
                self._gone[mark] = (child, record)
                fresh.append(record)
        return fresh

    def deleted(self) -> list[tuple[Table, Record]]:
        """The rows that go too, each before those it refers to."""
        try:
            order = list(TopologicalSorter(self._parents).static_order())
        except CycleError as error:
            raise StoreError("rows that refer to each other in a circle cannot be deleted") from error
        return [self._gone[mark] for mark in reversed(order) if mark in self._gone]

    def changed(self) -> list[_Cut]:
        """The rows that stay but lose a reference."""
        return [cut for mark, cut in self._cut.items() if mark not in self._gone]


def _mark(table: Table, record: Record) -> Any:
    return table.name, identify(table.key_of(record))
