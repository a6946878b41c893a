"""The rows that a delete reaches by foreign keys: they go too (CASCADE), or lose their reference (SET NULL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from warehouse.errors import StoreError
from warehouse.records import ABSENT, Change, Record
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.conditions import among
from warehouse_adapters.sql.tables import Reference, Table
from warehouse_adapters.sql.work import Work, identify


@dataclass(frozen=True, slots=True)
class _Cut:
    """A row that stays, and the columns by which it referred to one that goes."""

    table: Table
    record: Record
    columns: set[str]


class Reached:
    """What a delete reaches by its foreign keys: `follow` before it, `changes` after it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._gone: dict[Any, tuple[Table, Record]] = {}
        self._parents: dict[Any, set[Any]] = {}
        self._cut: dict[Any, _Cut] = {}
        self._roots: frozenset[Any] = frozenset()
        self._order: list[Any] = []

    async def follow(self, table: Table, rows: Sequence[Record]) -> None:
        """Begin with `rows`, which are to be deleted. Raises StoreError where not all can be captured."""
        self._gone = {_mark(table, row): (table, row) for row in rows}
        self._roots = frozenset(self._gone)
        frontier = [(table, list(rows))]
        while frontier:
            owner, some = frontier.pop()
            for reference in owner.references if some else ():
                child, found = await dependants(self._work, owner, reference, some)
                frontier.append((child, self._meet(owner, some, reference, child, found)))
        self._order = self._sorted()

    def _meet(
        self, owner: Table, rows: Sequence[Record], reference: Reference, child: Table, found: list[Record]
    ) -> list[Record]:
        """Note the rows found; those that have to be followed in turn."""
        by_value = {tuple(row[name] for name in reference.parents): _mark(owner, row) for row in rows}
        fresh = []
        for record in found:
            mark = _mark(child, record)
            if not reference.cascades and mark not in self._roots:
                self._cut.setdefault(mark, _Cut(child, record, set())).columns.update(reference.columns)
                continue
            parent = by_value.get(tuple(record[name] for name in reference.columns))
            if parent != mark:
                self._parents.setdefault(mark, set()).add(parent)
            if mark not in self._gone:
                self._gone[mark] = (child, record)
                fresh.append(record)
        return fresh

    def _sorted(self) -> list[Any]:
        """The rows that go, each before those that it refers to."""
        sorter: TopologicalSorter[Any] = TopologicalSorter()
        for mark in reversed(self._gone):
            sorter.add(mark, *self._parents.get(mark, ()))
        try:
            order = list(sorter.static_order())
        except CycleError as error:
            raise StoreError("rows that refer to each other in a circle cannot be deleted") from error
        return [mark for mark in reversed(order) if mark in self._gone]

    async def changes(self, guard: frozenset[str]) -> list[Change]:
        """First the rows that stay but changed, then those that went; `guard` is that of the delete."""
        cut = [row for mark, row in self._cut.items() if mark not in self._gone]
        return await _cut_off(self._work, cut) + [
            deleted(*self._gone[mark], frozenset(), dependent=True)
            if mark not in self._roots
            else deleted(*self._gone[mark], guard)
            for mark in self._order
        ]


def deleted(table: Table, record: Record, guard: frozenset[str], *, dependent: bool = False) -> Change:
    """The change of one row that went."""
    return Change(
        entity=table.info.entity,
        key=table.key_of(record),
        before=record,
        after=ABSENT,
        written=frozenset(record) - table.info.generated,
        guard=guard,
        dependent=dependent,
    )


def _mark(table: Table, record: Record) -> Any:
    return table.name, identify(table.key_of(record))


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


async def has_dependants(work: Work, table: Table, rows: Sequence[Record]) -> Reference | None:
    """A foreign key by which deleting `rows` would reach other rows."""
    for reference in table.references:
        child = work.table(reference.child)
        columns = [child.columns[name] for name in reference.columns]
        values = [tuple(row[name] for name in reference.parents) for row in rows]
        for some in statements.chunks(work.dialect, values, len(columns)):
            where = among(work.dialect, columns, some)
            if await work.link.run(statements.probe(child, where)):
                return reference
    return None
