"""What the contract tests work with: one adapter, one empty entity, and everything said in logical fields."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import anyio.from_thread
import anyio.to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse import conditions, undo, updates
from warehouse.adapter import (
    Adapter,
    Capabilities,
    EntityInfo,
    PreparedId,
    Query,
    Request,
    StepChanges,
    Unit,
    UnitSettings,
    WriteStatus,
    Written,
    first_failed,
)
from warehouse.conditions import And, Compare, Condition, Not, Or
from warehouse.planning import freeze
from warehouse.records import Change, Image, Record, same
from warehouse.testing.harness import Harness

Logical = dict[str, Any]


@dataclass(slots=True)
class Bench:
    """A connected adapter and an empty entity; `note` records what a capability turned out to be worth."""

    harness: Harness
    info: EntityInfo
    note: Callable[[str, str], None]
    requests: int = field(default=0)
    lock_timeout: float = 5.0

    @property
    def adapter(self) -> Adapter:
        return self.harness.adapter

    @property
    def capabilities(self) -> Capabilities:
        return self.adapter.capabilities

    def declared(self, kind: Literal["operations", "conditions", "updates"], name: str) -> bool:
        """Whether the adapter says that it can do `name`; noted for the matrix either way."""
        can = name in getattr(self.capabilities, kind)
        self.note(name, "yes" if can else "refused")
        return can

    def declared_cases(
        self, kind: Literal["conditions", "updates"], name: str, cases: Iterable[Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        """Those of `cases` (of `name`) whose fields the store holds; none where it does not declare `name`."""
        if not self.declared(kind, name):
            return []
        usable = [case for case in cases if self.has(*case)]
        if not usable:
            self.note(name, "untried")
        return usable

    def has(self, *fields: str) -> bool:
        """Whether the store holds these logical fields, or those that these lie in."""
        return self.harness.fields.issuperset(field.partition(".")[0] for field in fields)

    def known(self, values: Mapping[str, Any]) -> Logical:
        """`values` without the fields that the store does not hold."""
        return {name: value for name, value in values.items() if name in self.harness.fields}

    # Requests, from logical values

    def insert(self, *records: Mapping[str, Any]) -> Request:
        return self._request("insert", records=self._records(records))

    def update(self, where: Mapping[str, Any] | Condition | None, data: Mapping[str, Any]) -> Request:
        renamed = {self.harness.path(name): value for name, value in data.items()}
        items = updates.bind(updates.parse(renamed), conditions.literal)
        return self._request("update", where=self.condition(where), assignments=items)

    def upsert(
        self,
        *records: Mapping[str, Any],
        conflict: Sequence[str] = ("id",),
        fields: Sequence[str] | None = None,
    ) -> Request:
        path = self.harness.path
        return self._request(
            "upsert",
            records=self._records(records),
            conflict_keys=tuple(path(name) for name in conflict),
            update_fields=None if fields is None else tuple(path(name) for name in fields),
        )

    def delete(self, where: Mapping[str, Any] | Condition | None) -> Request:
        return self._request("delete", where=self.condition(where))

    # Requests in the store's own fields

    def raw_insert(self, *records: Record) -> Request:
        return self._request("insert", records=records)

    def raw_upsert(self, *records: Record) -> Request:
        return self._request("upsert", records=records, conflict_keys=self.info.key)

    def raw_update(self, where: Mapping[str, Any], data: Mapping[str, Any]) -> Request:
        items = updates.bind(updates.parse(data), conditions.literal)
        return self._request("update", where=logical_condition(where), assignments=items)

    def _records(self, records: Iterable[Mapping[str, Any]]) -> tuple[Record, ...]:
        return tuple(self.harness.record(**self.known(record)) for record in records)

    def _request(self, operation: Any, **parts: Any) -> Request:
        request = Request(step=f"step_{self.requests}", operation=operation, info=self.info, **parts)
        self.requests += 1
        self.adapter.check(request)
        return request

    def condition(self, where: Mapping[str, Any] | Condition | None) -> Condition:
        """The condition on the store's fields that logical `where` means."""
        tree = where if isinstance(where, Compare | And | Or | Not) else logical_condition(where)
        return self._renamed(tree)

    def _renamed(self, condition: Condition) -> Condition:
        match condition:
            case Compare(path, operator, value):
                return Compare(self.harness.path(path), operator, value)
            case And(parts):
                return And(tuple(self._renamed(part) for part in parts))
            case Or(parts):
                return Or(tuple(self._renamed(part) for part in parts))
            case Not(part):
                return Not(self._renamed(part))

    # Running

    def unit(
        self, *, lock_timeout: float | None = None, prepare_as: PreparedId | None = None
    ) -> AbstractAsyncContextManager[Unit]:
        settings = UnitSettings(
            transaction_id=uuid4().hex,
            lock_timeout=self.lock_timeout if lock_timeout is None else lock_timeout,
            prepare_as=prepare_as,
        )
        return self.adapter.unit(settings)

    async def finish(self, unit: Unit, *steps: StepChanges) -> None:
        """Make the steps durable: commit what is held, write what was planned."""
        if not self.capabilities.holds:
            for step in steps:
                written = await unit.write(step.changes)
                assert [item.status for item in written] == [WriteStatus.APPLIED] * len(step.changes)
        await unit.commit()

    async def do(self, *requests: Request) -> list[StepChanges]:
        """Execute the requests in one unit of their own, and make them durable."""
        async with self.unit() as unit:
            steps = [await unit.execute(request) for request in requests]
            await self.finish(unit, *steps)
        return steps

    async def seed(self, *records: Mapping[str, Any]) -> None:
        """Insert records and make them durable."""
        await self.do(self.insert(*records))

    async def write(self, *changes: Change) -> list[Written]:
        """Write the changes in a unit of their own, and commit if all were applied."""
        async with self.unit() as unit:
            written = await unit.write(changes)
            if all(item.status is WriteStatus.APPLIED for item in written):
                await unit.commit()
        return written

    async def undo(self, changes: Sequence[Change]) -> int:
        """Undo as the engine does: last change first, each merged with the current image; how many writes."""
        combined = undo.combine(changes, lambda change: freeze(change.key))[::-1]
        async with self.unit() as unit:
            currents = await unit.read(self.info, [change.key for change in combined])
            merged = [
                undo.merge(change, current, self.info.config, ulps=self.capabilities.float_ulps)
                for change, current in zip(combined, currents, strict=True)
            ]
            assert not [merge.clashes for merge in merged if merge.clashes]
            writes = [merge.write for merge in merged if merge.write is not None]
            written = await unit.write(writes)
            assert first_failed(written) is None, written[-1].error
            assert len(written) == len(writes)
            await unit.commit()
        return len(writes)

    # Looking

    def query(self, where: Mapping[str, Any] | Condition | None = None, **parts: Any) -> Query:
        return Query(info=self.info, where=self.condition(where), **parts)

    async def images(self) -> list[Record]:
        """Every committed record as the store gives it, by id."""
        records = await self.adapter.find(self.query())
        return sorted(records, key=lambda record: self.logical(record)["id"])

    async def contents(self) -> list[Logical]:
        """Every committed record in logical fields, by id."""
        return [self.logical(record) for record in await self.images()]

    async def read(self, *numbers: int) -> list[Image]:
        """The images of the records with these ids, read in a unit of their own."""
        async with self.unit() as unit:
            return await unit.read(self.info, [self.harness.key(number) for number in numbers])

    def logical(self, image: Image) -> Logical:
        """The logical fields of an image that is there."""
        found = self.harness.logical(image)
        assert found is not None, "the record is not there"
        return found

    def expected(self, record: Mapping[str, Any]) -> Logical:
        """`record` as `logical` gives it back: with null for every field that it does not mention."""
        filled: Logical = dict.fromkeys(name for name in self.harness.fields)
        known = self.known(record)
        if not self.harness.nulls:
            known = {name: without_nulls(value) for name, value in known.items()}
        return filled | known

    def same(self, found: Any, expected: Any) -> bool:
        """Whether values are equal, by type and value, as exactly as the store keeps doubles."""
        return same(found, expected, ulps=self.capabilities.float_ulps)


async def search(
    check: Callable[..., Coroutine[Any, Any, None]],
    *fixed: Any,
    examples: int,
    **drawn: st.SearchStrategy[Any],
) -> None:
    """Run `check(*fixed, **values)` on drawn values.

    Hypothesis runs in a thread beside the event loop, so that it can shrink what fails.
    """

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(**drawn)
    def run(**values: Any) -> None:
        anyio.from_thread.run(lambda: check(*fixed, **values))

    await anyio.to_thread.run_sync(run)


def without_nulls(value: Any) -> Any:
    """`value` without what is null in its mappings, at any depth: null and missing are one."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def logical_condition(where: Mapping[str, Any] | None) -> Condition:
    """A parsed `where`, as the engine hands it on."""
    return conditions.bind(conditions.parse(where), conditions.literal)
