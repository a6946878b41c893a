"""Contract: the undo law. Whatever was done, undoing it in reverse gives back exactly what was there.

Sequences of operations, their records, conditions and updates are generated (Hypothesis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pytest
from hypothesis import strategies as st

from warehouse.adapter import Request, StepChanges
from warehouse.conditions import Compare, Condition
from warehouse.errors import InvalidOperation, StoreError
from warehouse.records import ABSENT, Change, Record, put
from warehouse.testing import generated
from warehouse.testing.bench import Bench, search, without_nulls
from warehouse.testing.contract_undo import check_images
from warehouse.testing.samples import UPDATES

EXAMPLES: Final = 100
LONGEST: Final = 6
# The field that somebody else writes, and no operation here does.
FOREIGN: Final = "email"


@dataclass(frozen=True, slots=True)
class Act:
    """One operation of a sequence, in logical fields."""

    operation: Literal["insert", "update", "upsert", "delete"]
    where: Condition
    records: tuple[Mapping[str, Any], ...]
    data: Mapping[str, Any]

    def request(self, bench: Bench) -> Request:
        match self.operation:
            case "insert":
                return bench.insert(*self.records)
            case "upsert":
                return bench.upsert(*self.records)
            case "delete":
                return bench.delete(self.where)
            case "update":
                return bench.update(self.where, self.data)


_chosen: Final = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(
    lambda numbers: Compare("id", "$in", numbers)
)


def _acts(bench: Bench) -> st.SearchStrategy[Act]:
    can, fields = bench.capabilities, bench.harness.fields - {FOREIGN}
    updates = [
        data
        for name in sorted(can.updates & UPDATES.keys())
        for data in UPDATES[name]
        if bench.has(*data) and FOREIGN not in data
    ]
    records = generated.records(fields).map(lambda found: found[:3])
    numbered = st.tuples(st.lists(st.integers(1, 9), min_size=3, max_size=3, unique=True), records).map(
        lambda pair: tuple({"id": n, **record} for n, record in zip(*pair, strict=False))
    )
    return st.builds(
        Act,
        operation=st.sampled_from(sorted(can.operations & {"insert", "update", "upsert", "delete"})),
        where=_chosen | _chosen | generated.conditions(fields, can.conditions),
        records=numbered,
        data=st.sampled_from(updates),
    )


class LawContract:
    @pytest.mark.timeout(300)
    async def test_undoing_any_sequence_gives_back_what_was_there(self, bench: Bench) -> None:
        done: list[int] = []
        await search(
            self._check_law,
            bench,
            done,
            examples=EXAMPLES,
            records=generated.records(bench.harness.fields - {FOREIGN}),
            acts=st.lists(_acts(bench), min_size=2, max_size=LONGEST),
        )
        assert sum(done) > EXAMPLES, "hardly any operation changed anything"
        bench.note("undo law", f"{EXAMPLES} sequences")

    async def _check_law(
        self, bench: Bench, done: list[int], records: Sequence[Mapping[str, Any]], acts: Sequence[Act]
    ) -> None:
        before = await self._begin(bench, records)
        states, steps = [before], []
        for act in acts:
            step = await self._perform(bench, act)
            if step is not None and step.changes:
                steps.append(step)
                states.append(await bench.images())
        for step in reversed(steps):
            states.pop()
            await self._undo_twice(bench, step.changes, states[-1])
        done.append(len(steps))
        await self._check_together(bench, acts, before)

    async def _check_together(self, bench: Bench, acts: Sequence[Act], before: list[Record]) -> None:
        """The same in one unit, undone as one transaction is."""
        try:
            steps = await bench.do(*(act.request(bench) for act in acts))
        except (StoreError, InvalidOperation):
            await check_images(bench, before)
            return
        await self._undo_twice(bench, [change for step in steps for change in step.changes], before)

    async def _undo_twice(self, bench: Bench, changes: Sequence[Change], before: list[Record]) -> None:
        await bench.undo(changes)
        await check_images(bench, before)
        assert await bench.undo(changes) == 0
        await check_images(bench, before)

    async def test_undo_leaves_what_somebody_else_wrote_to_another_field(self, bench: Bench) -> None:
        if not bench.has(FOREIGN):
            return
        updates = _acts(bench).filter(lambda act: act.operation == "update")
        await search(
            self._check_foreign,
            bench,
            examples=EXAMPLES,
            records=generated.records(bench.harness.fields - {FOREIGN}),
            act=updates,
            number=st.integers(1, 8),
        )

    async def _check_foreign(
        self, bench: Bench, records: Sequence[Mapping[str, Any]], act: Act, number: int
    ) -> None:
        before = await self._begin(bench, records)
        step = await self._perform(bench, act)
        (foreign,) = await bench.do(bench.update({"id": number}, {FOREIGN: "theirs"}))
        if step is None:
            return
        await bench.undo(step.changes)
        theirs = [change.key for change in foreign.changes]
        path = bench.harness.path(FOREIGN)
        for found, image in zip(await bench.images(), before, strict=True):
            is_theirs = {name: found[name] for name in bench.info.key} in theirs
            assert not is_theirs or bench.logical(found)[FOREIGN] == "theirs"
            rest, expected = (put(record, path, ABSENT) if is_theirs else record for record in (found, image))
            assert bench.same(without_nulls(rest), without_nulls(expected))

    async def _begin(self, bench: Bench, records: Sequence[Mapping[str, Any]]) -> list[Record]:
        await bench.do(bench.delete(None))
        await bench.seed(*({"id": number, **record} for number, record in enumerate(records, 1)))
        return await bench.images()

    async def _perform(self, bench: Bench, act: Act) -> StepChanges | None:
        """What the operation did; None where the store, or the adapter, refuses it: then it did nothing."""
        before = await bench.images()
        try:
            (step,) = await bench.do(act.request(bench))
        except (StoreError, InvalidOperation):
            await check_images(bench, before)
            return None
        return step
