"""Guarded writes: the records are locked and compared with the before images, and then written.

The comparison happens here and not in SQL: it is exact for every type, and the lock keeps it true. Changes of
one kind that stand together are made together; where the store refuses them, they are made one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Literal

from warehouse.adapter import WriteStatus, Written, first_failed
from warehouse.errors import ConstraintViolated, StoreError, TransientError
from warehouse.records import ABSENT, Absent, Change, Image, Record, get, put, same_image
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.cascades import has_dependants
from warehouse_adapters.sql.inserts import set_rows
from warehouse_adapters.sql.tables import Table
from warehouse_adapters.sql.work import Work, identify

_APPLIED = Written(WriteStatus.APPLIED)
_CONFLICT = Written(WriteStatus.CONFLICT)


@dataclass(frozen=True, slots=True)
class _Task:
    """A change whose guard holds: of `old`, what is there, to `new`, by writing the columns `names`."""

    change: Change
    kind: Literal["insert", "update", "delete"]
    old: Record
    new: Record
    names: tuple[str, ...]


async def write(work: Work, changes: Sequence[Change]) -> list[Written]:
    """Make the changes in order; the list ends with the first that is not applied."""
    out: list[Written] = []
    for table, some in _runs(work, changes):
        pairs = list(
            zip(some, await work.read(table, [change.key for change in some], lock=True), strict=True)
        )
        sound = list(takewhile(lambda pair: _holds(*pair), pairs))
        for _, tasks in groupby(
            (_task(table, *pair) for pair in sound), key=lambda task: (task.kind, task.names)
        ):
            out += await _make_all(work, table, list(tasks))
            if first_failed(out):
                return out
        if len(sound) < len(pairs):
            return [*out, _CONFLICT]
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


def _holds(change: Change, current: Image) -> bool:
    return same_image(current, change.before, change.written | change.guard)


def _task(table: Table, change: Change, current: Image) -> _Task:
    if isinstance(change.after, Absent):
        return _Task(change, "delete", {} if isinstance(current, Absent) else current, {}, ())
    if isinstance(current, Absent):
        columns = [table.column(name) for name in change.after]
        names = tuple(column.name for column in columns if not column.computed)
        return _Task(change, "insert", {}, change.after, names)
    target, heads = current, {path.partition(".")[0] for path in change.written}
    for path in sorted(change.written):
        target = put(target, path, get(change.after, path))
    names = tuple(name for name in table.names if name in heads and not table.columns[name].computed)
    return _Task(change, "update", current, target, names)


async def _make_all(work: Work, table: Table, tasks: Sequence[_Task]) -> list[Written]:
    """Make these tasks, all of one kind and with the same columns: at once, or else one by one."""
    if len(tasks) > 1:
        refused = await work.apart(lambda: _make(work, table, tasks))
        if refused is None:
            return [_APPLIED] * len(tasks)
        if isinstance(refused, TransientError):
            raise refused
    out: list[Written] = []
    for task in tasks:
        out.append(await _make_one(work, table, task))
        if not out[-1].applied:
            break
    return out


async def _make_one(work: Work, table: Table, task: _Task) -> Written:
    try:
        await _make(work, table, [task])
    except TransientError:
        raise
    except ConstraintViolated as error:
        if task.change.before is ABSENT and table.is_about(error, table.key):
            return Written(WriteStatus.CONFLICT, error)
        return Written(WriteStatus.REFUSED, error)
    except StoreError as error:
        return Written(WriteStatus.REFUSED, error)
    return _APPLIED


async def _make(work: Work, table: Table, tasks: Sequence[_Task]) -> None:
    old, new = [task.old for task in tasks], [task.new for task in tasks]
    match tasks[0].kind:
        case "delete":
            await _delete(work, table, [record for record in old if record])
        case "insert":
            await _insert(work, table, new, tasks[0].names)
        case "update":
            await set_rows(work, table, old, new, tasks[0].names)


async def _delete(work: Work, table: Table, rows: Sequence[Record]) -> None:
    reference = await has_dependants(work, table, rows)
    if reference is not None:
        raise ConstraintViolated(
            f"rows of {reference.child!r} refer to the record, and would go or change with it"
            f" ({reference.constraint})",
            constraint=reference.constraint,
        )
    await work.delete(table, rows)


async def _insert(work: Work, table: Table, records: Sequence[Record], names: Sequence[str]) -> None:
    """Insert whole records again, with the numbers that the store once gave them."""
    override = any(table.columns[name].always for name in names)
    for some in statements.chunks(work.dialect, records, len(names)):
        await work.link.run(statements.insert(work.dialect, table, names, some, override=override))
