"""Guarded writes: made only where the records, locked, still are what the before images say.

Changes of one kind that stand together are made by one statement. A refusal ends a transaction of Neo4j, and
names no record; so whatever might be refused is looked up before, and made alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Literal

from warehouse.adapter import EntityInfo, WriteStatus, Written, first_failed
from warehouse.errors import ConstraintViolated, StoreContention, StoreError
from warehouse.planning import batches, claimed, freeze
from warehouse.records import ABSENT, Absent, Change, Entity, Record, get, same_image
from warehouse_adapters.neo4j import creation, relationships
from warehouse_adapters.neo4j.deletion import ambiguous, still_connected
from warehouse_adapters.neo4j.relationships import Resolved
from warehouse_adapters.neo4j.schema import ENDS
from warehouse_adapters.neo4j.work import Found, Work

_APPLIED = Written(WriteStatus.APPLIED)
_CONFLICT = Written(WriteStatus.CONFLICT)
_SIZE = 1000


@dataclass(frozen=True, slots=True)
class _Task:
    """A change whose guard holds, and the record that is there."""

    kind: Literal["insert", "update", "delete"]
    change: Change
    found: Found | None

    @property
    def id(self) -> str:
        return self.found.id if self.found else ""

    @property
    def after(self) -> Record:
        return {} if isinstance(self.change.after, Absent) else self.change.after


async def write(work: Work, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
    """Make changes of one entity: see `Unit.write`. What a constraint refuses is REFUSED; others are raised."""
    out: list[Written] = []
    for batch in batches(changes, _SIZE):
        found = await work.lookup(work.shape(info), [change.key for change in batch])
        if any(len(some) > 1 for some in found):
            raise ambiguous(info, "it is not clear which one is meant")
        tasks = [_task(*pair) for pair in zip(batch, found, strict=True)]
        sound = [task for task in takewhile(lambda task: task is not None, tasks) if task is not None]
        for kind, group in groupby(sound, key=lambda task: task.kind):
            out += await _make_all(work, info, kind, list(group))
            if first_failed(out):
                return out
        if len(sound) < len(batch):
            return [*out, _CONFLICT]
    return out


def _task(change: Change, found: Sequence[Found]) -> _Task | None:
    """The task; None where the guard does not hold."""
    if isinstance(change.before, Absent):
        return None if found else _Task("insert", change, None)
    if not found or not same_image(found[0].image, change.before, change.written | change.guard):
        return None
    return _Task("delete" if isinstance(change.after, Absent) else "update", change, found[0])


async def _make_all(work: Work, info: EntityInfo, kind: str, tasks: list[_Task]) -> list[Written]:
    """Make tasks of one kind: what may be refused alone, all that stands between such at once."""
    doubtful = await _doubtful(work, info, kind, tasks) if len(tasks) > 1 else {0}
    out: list[Written] = []
    start = 0
    while start < len(tasks):
        end = start + 1
        while start not in doubtful and end < len(tasks) and end not in doubtful:
            end += 1
        try:
            refused = await _make(work, info, kind, tasks[start:end])
        except ConstraintViolated as error:
            if end - start > 1:
                raise StoreContention("somebody else took a unique value meanwhile") from error
            refused = error
        if refused is not None:
            return [*out, Written(WriteStatus.REFUSED, refused)]
        out += [_APPLIED] * (end - start)
        start = end
    return out


async def _make(work: Work, info: EntityInfo, kind: str, tasks: Sequence[_Task]) -> StoreError | None:
    """Make the tasks; why not, where the only one cannot be made."""
    match kind:
        case "insert":
            return await _insert(work, info, tasks)
        case "delete":
            return await _delete(work, info, tasks)
    shape = work.shape(info)
    values = {}
    for task in tasks:
        after = {shape.property(path): get(task.after, path) for path in task.change.written}
        values[task.id] = work.store(
            {name: None if value is ABSENT else value for name, value in after.items()}
        )
    await work.assign(shape, values)
    return None


async def _insert(work: Work, info: EntityInfo, tasks: Sequence[_Task]) -> StoreError | None:
    records = [task.after for task in tasks]
    if info.entity.kind == "record":
        await creation.create(work, info, records)
        return None
    resolved = []
    for record, ends in zip(records, await _ends(work, records), strict=True):
        for end, found in ends.items():
            if found is None:
                return _no_end(end, record)
        resolved.append(Resolved(record, *(str(ends[end]) for end in ENDS)))
    await relationships.create(work, info, resolved)
    return None


def _no_end(end: str, after: Record) -> StoreError:
    return ConstraintViolated(
        f"the {after[end]['entity']} node at the {end} of the relationship is not there", constraint=end
    )


async def _delete(work: Work, info: EntityInfo, tasks: Sequence[_Task]) -> StoreError | None:
    """Delete without detaching: what is still connected, others connected."""
    ids = [task.id for task in tasks]
    if info.entity.kind == "record" and await _connected(work, ids):
        return still_connected()
    await work.run(f"MATCH {work.shape(info).by_id} WHERE elementId(n) IN $ids DELETE n", ids=ids)
    return None


# What may be refused


async def _doubtful(work: Work, info: EntityInfo, kind: str, tasks: Sequence[_Task]) -> set[int]:
    """Which of the tasks may be refused, by their numbers."""
    if kind == "delete":
        if info.entity.kind == "relationship":
            return set()
        connected = await _connected(work, [task.id for task in tasks])
        return {number for number, task in enumerate(tasks) if task.id in connected}
    out = await _taken(work, info, tasks)
    if kind == "insert" and info.entity.kind == "relationship":
        ends = await _ends(work, [task.after for task in tasks])
        out |= {number for number, found in enumerate(ends) if None in found.values()}
    return out


async def _connected(work: Work, ids: Sequence[str]) -> set[str]:
    """Those of these nodes that have relationships."""
    statement = "MATCH (n) WHERE elementId(n) IN $ids MATCH (n)--() RETURN DISTINCT elementId(n) AS id"
    return {row["id"] for row in (await work.run(statement, ids=list(ids))).rows}


async def _taken(work: Work, info: EntityInfo, tasks: Sequence[_Task]) -> set[int]:
    """Which of the tasks take a unique value that another record has, or another task takes."""
    out: set[int] = set()
    shape = work.shape(info)
    for paths in info.unique:
        wanted = [
            (number, values)
            for number, task in enumerate(tasks)
            for values in claimed(info, task.change.before, task.change.after)
            if tuple(values) == paths
        ]
        seen: set[object] = set()
        found = await work.lookup(shape, [values for _, values in wanted])
        for (number, values), others in zip(wanted, found, strict=True):
            name = freeze(values)
            if name in seen or any(other.id != tasks[number].id for other in others):
                out.add(number)
            seen.add(name)
    return out


async def _ends(work: Work, records: Sequence[Record]) -> list[dict[str, str | None]]:
    """The element ids of the nodes at the ends of relationships; None for one that is not there."""
    out: list[dict[str, str | None]] = [dict.fromkeys(ENDS) for _ in records]
    asked: dict[str, list[tuple[int, str]]] = {}
    for number, record in enumerate(records):
        for end in ENDS:
            asked.setdefault(record[end]["entity"], []).append((number, end))
    for label, places in asked.items():
        node = work.shape(work.schema.describe(Entity(label)))
        found = await work.lookup(node, [records[number][end]["key"] for number, end in places])
        for (number, end), some in zip(places, found, strict=True):
            out[number][end] = some[0].id if len(some) == 1 else None
    return out
