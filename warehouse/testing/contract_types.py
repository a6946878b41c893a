"""Contract: a value of any type of the store comes back exactly, also from an image that was journaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from warehouse.adapter import StepChanges
from warehouse.errors import InvalidOperation
from warehouse.journal import rows
from warehouse.records import Change, get, put
from warehouse.testing.bench import Bench, search
from warehouse.testing.harness import StoredType

EXAMPLES = 10  # for each type, each with up to SOME values and as many others to change them to
SOME = 6


def journaled(steps: Sequence[StepChanges]) -> list[Change]:
    """The changes of `steps` as recovery reads them back."""
    return [change for step in steps for change in rows.unpack(rows.pack(step.changes))[0]]


class TypeContract:
    @pytest.mark.timeout(300)
    async def test_every_type_keeps_every_value(self, typed: Bench) -> None:
        for kind in typed.harness.types:
            pairs = st.lists(st.tuples(kind.values, st.none() | kind.values), min_size=1, max_size=SOME)
            await search(self._check_values, typed, kind, examples=EXAMPLES, pairs=pairs)
            typed.note(f"type {kind.stored}", "yes")

    async def _check_values(self, bench: Bench, kind: StoredType, pairs: list[tuple[Any, Any]]) -> None:
        numbers = range(1, len(pairs) + 1)
        await bench.do(bench.delete(None))
        inserted = await bench.do(
            bench.raw_insert(
                *(self._record(bench, kind, n, value) for n, (value, _) in zip(numbers, pairs, strict=True))
            )
        )
        first, rendered = await bench.images(), await self._rendered(bench, numbers)
        for image, (value, _) in zip(first, pairs, strict=True):
            found, expected = get(image, kind.field), kind.expected(value)
            assert bench.same(found, expected), f"{kind.stored}: {value!r} is read as {found!r}"
        updates = [
            bench.raw_update(bench.harness.key(number), {kind.field: {"$literal": other}})
            for number, (_, other) in zip(numbers, pairs, strict=True)
        ]
        await self._check_undo(bench, await bench.do(*updates), first, rendered)
        await self._check_undo(bench, await bench.do(bench.delete(None)), first, rendered)
        await bench.undo(journaled(inserted))
        assert await bench.images() == []

    async def _check_undo(
        self, bench: Bench, steps: list[StepChanges], images: list[Any], rendered: list[Any]
    ) -> None:
        await bench.undo(journaled(steps))
        assert bench.same(await bench.images(), images)
        assert await self._rendered(bench, range(1, len(images) + 1)) == rendered

    async def _rendered(self, bench: Bench, numbers: Sequence[int]) -> list[Any]:
        return [await bench.harness.rendered(bench.info.entity, number) for number in numbers]

    def _record(self, bench: Bench, kind: StoredType, number: int, value: Any) -> dict[str, Any]:
        return put(bench.harness.record(id=number), kind.field, value)

    async def test_a_value_that_would_not_be_kept_is_refused(self, typed: Bench) -> None:
        for kind in typed.harness.types:
            for value in kind.refused:
                self._check_refused(typed, kind, value)

    def _check_refused(self, bench: Bench, kind: StoredType, value: Any) -> None:
        with pytest.raises(InvalidOperation) as inserting:
            bench.raw_insert(self._record(bench, kind, 1, value))
        with pytest.raises(InvalidOperation) as updating:
            bench.raw_update(bench.harness.key(1), {kind.field: {"$literal": value}})
        for refusal in (inserting.value, updating.value):
            assert (refusal.field or "").startswith(kind.field), f"{refusal} names {refusal.field}"
