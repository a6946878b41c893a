"""Guarded writes: each locks its record, compares it with the before image, and writes if they agree.

The comparison happens here and not in SQL: it is exact for every type, and the lock keeps it true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from warehouse.adapter import WriteStatus, Written
from warehouse.errors import ConstraintViolated, StoreError, TransientError
from warehouse.records import ABSENT, Absent, Change, Image, Record, get, put, same_image
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.cascades import has_dependants
from warehouse_adapters.sql.inserts import set_rows
from warehouse_adapters.sql.tables import Table
from warehouse_adapters.sql.work import Work, identify

_APPLIED = Written(WriteStatus.APPLIED)
_CONFLICT = Written(WriteStatus.CONFLICT)


async def write(work: Work, changes: Sequence[Change]) -> list[Written]:
    """Make the changes in order; the list ends with the first that is not applied."""
    out: list[Written] = []
    for table, some in _runs(work, changes):
        images = await work.read(table, [change.key for change in some], lock=True)
        for change, current in zip(some, images, strict=True):
            out.append(await _write_one(work, table, change, current))
            if out[-1].status is not WriteStatus.APPLIED:
                return out
    return out


def _runs(work: Work, changes: Sequence[Change]) -> Iterator[tuple[Table, list[Change]]]:
    """The changes cut into runs on one table that meet no record twice, so that each run is read at once."""
    run: list[Change] = []
    seen: set[object] = set()
    for change in changes:
        mark = identify(change.key)
        if run and (change.entity != run[0].entity or mark in seen):
            yield work.table(run[0].entity.name), run
            run, seen = [], set()
        run.append(change)
        seen.add(mark)
    if run:
        yield work.table(run[0].entity.name), run


async def _write_one(work: Work, table: Table, change: Change, current: Image) -> Written:
    if not same_image(current, change.before, change.written | change.guard):
        return _CONFLICT
    try:
        await _make(work, table, change, current)
    except TransientError:
        raise
    except ConstraintViolated as error:
        if change.before is ABSENT and table.is_about(error, table.key):
            return Written(WriteStatus.CONFLICT, error)
        return Written(WriteStatus.REFUSED, error)
    except StoreError as error:
        return Written(WriteStatus.REFUSED, error)
    return _APPLIED


async def _make(work: Work, table: Table, change: Change, current: Image) -> None:
    if isinstance(change.after, Absent):
        if not isinstance(current, Absent):
            await _delete(work, table, current)
    elif isinstance(current, Absent):
        await _insert(work, table, change.after)
    else:
        target, heads = current, {path.partition(".")[0] for path in change.written}
        for path in sorted(change.written):
            target = put(target, path, get(change.after, path))
        names = [name for name in table.names if name in heads and not table.columns[name].computed]
        await set_rows(work, table, [current], [target], names)


async def _delete(work: Work, table: Table, current: Record) -> None:
    reference = await has_dependants(work, table, current)
    if reference is not None:
        raise ConstraintViolated(
            f"rows of {reference.child!r} refer to the record, and would go or change with it"
            f" ({reference.constraint})",
            constraint=reference.constraint,
        )
    await work.delete(table, [current])


async def _insert(work: Work, table: Table, record: Record) -> None:
    """Insert the whole record again, with the numbers that the store once gave it."""
    columns = [table.column(name) for name in record]
    names = [column.name for column in columns if not column.computed]
    override = any(column.always for column in columns)
    await work.link.run(statements.insert(work.dialect, table, names, [record], override=override))
