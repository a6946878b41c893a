"""Reads that show only what is committed everywhere (DESIGN 7).

The journal is read, then the store, then the journal again: what open transactions changed is shown as it was
before. If a transaction that touched the entity finished meanwhile, nobody can tell which of its states was read,
and everything is read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import anyio

from warehouse import conditions
from warehouse.adapter import Query
from warehouse.engine.retry import back_off
from warehouse.engine.trailing import Moment, Trailing
from warehouse.planning import freeze, key_in
from warehouse.records import Absent, Change, Entity, Image, Record, get, put
from warehouse.registry import Participant

_SHORT: Final = 3  # waits never get longer than after so many attempts


async def find_committed(journal: Trailing, participant: Participant, query: Query) -> list[Record]:
    """The records that match, as all stores together have committed them. Goes on until a read was consistent."""
    store, entity = participant.identity, query.info.entity
    attempt = 0
    while True:
        attempt += 1
        since = await journal.moment()
        expected = len(_before(await journal.unfinished(store, entity)))
        records = await participant.adapter.find(_enough(query, expected))
        pending = _before(await journal.unfinished(store, entity))
        if len(pending) <= expected and not await _has_changed(journal, since, (store, entity)):
            return records if expected == 0 else _overlaid(query, records, pending)
        await anyio.sleep(back_off(min(attempt, _SHORT)))


async def _has_changed(journal: Trailing, since: Moment, place: tuple[str, Entity]) -> bool:
    """Whether a transaction that touched this entity has finished since."""
    return await journal.moment() != since and place in await journal.touched(since)


def _enough(query: Query, expected: int) -> Query:
    """`query` with as many records more as the overlay may take away; the offset is then for afterwards."""
    if expected == 0 or (query.limit is None and query.offset == 0):
        return query
    limit = None if query.limit is None else query.offset + query.limit + expected
    return replace(query, limit=limit, offset=0)


def _before(changes: Sequence[Change]) -> dict[Hashable, list[Change]]:
    """The changes by record."""
    out: dict[Hashable, list[Change]] = {}
    for change in changes:
        out.setdefault(freeze(change.key), []).append(change)
    return out


def _overlaid(
    query: Query, records: Sequence[Record], pending: Mapping[Hashable, list[Change]]
) -> list[Record]:
    """`records` with what is pending as it was before; conditions, order and limit are looked at again."""
    rest = dict(pending)
    out: list[Record] = []
    for record in records:
        changes = rest.pop(freeze(key_in(query.info, record)), None)
        if changes is None:
            out.append(record)
        else:
            out += _restored(changes, record)
    for changes in rest.values():
        out += _restored(changes, changes[0].before)
    found = [record for record in out if conditions.evaluate(query.where, record)]
    found = conditions.sort_records(found, query.order_by)
    return found[query.offset :][: query.limit]


def _restored(changes: Sequence[Change], current: Image) -> list[Record]:
    """The record as it was before these changes: nothing, or `current` with what they wrote put back."""
    before = changes[0].before
    if isinstance(before, Absent) or isinstance(current, Absent):
        return []
    out = current
    for path in sorted({path for change in changes for path in change.written}):
        out = put(out, path, get(before, path))
    return [out]
