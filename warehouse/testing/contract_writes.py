"""Contract: guarded writes, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from warehouse.adapter import WriteStatus
from warehouse.errors import ConstraintViolated
from warehouse.records import ABSENT, Change, Image, put
from warehouse.testing.bench import Bench
from warehouse.testing.contract_operations import ANN, BOB

APPLIED, CONFLICT, REFUSED = WriteStatus.APPLIED, WriteStatus.CONFLICT, WriteStatus.REFUSED


async def change_of(bench: Bench, number: int, **values: Any) -> Change:
    """The change that gives the record `number`, as it is now, these logical values."""
    (before,) = await bench.read(number)
    assert before is not ABSENT
    after: Image = before
    for name, value in values.items():
        after = put(after, bench.harness.path(name), value)  # type: ignore[arg-type]
    written = frozenset(bench.harness.path(name) for name in values)
    return make(bench, number, before, after, written)


def make(bench: Bench, number: int, before: Image, after: Image, written: frozenset[str]) -> Change:
    key = bench.harness.key(number)
    return Change(entity=bench.info.entity, key=key, before=before, after=after, written=written)


async def statuses(bench: Bench, *changes: Change) -> list[WriteStatus]:
    return [written.status for written in await bench.write(*changes)]


class WriteContract:
    async def test_write_updates_only_what_was_written(self, bench: Bench) -> None:
        await bench.seed(ANN, BOB)
        change = await change_of(bench, 1, name="Anna", count=None)
        stale = replace(change, after=put(change.after, bench.harness.path("ratio"), 99.0))  # type: ignore[arg-type]
        assert await statuses(bench, stale) == [APPLIED]
        assert await bench.contents() == [
            bench.expected(ANN | {"name": "Anna", "count": None}),
            bench.expected(BOB),
        ]

    async def test_write_inserts_and_deletes(self, bench: Bench) -> None:
        await bench.seed(ANN, BOB)
        images = await bench.images()
        gone = [
            make(bench, number, image, ABSENT, frozenset(image)) for number, image in enumerate(images, 1)
        ]
        assert await statuses(bench, *gone) == [APPLIED, APPLIED]
        assert await bench.contents() == []
        back = [replace(change, before=ABSENT, after=change.before) for change in gone]
        assert await statuses(bench, *back) == [APPLIED, APPLIED]
        assert bench.same(await bench.images(), images)

    async def test_writes_of_one_unit_build_on_each_other(self, bench: Bench) -> None:
        await bench.seed(ANN)
        first = await change_of(bench, 1, name="Anna")
        second = replace(
            first,
            before=first.after,
            after=put(first.after, bench.harness.path("name"), "Annabel"),  # type: ignore[arg-type]
        )
        last = replace(
            second, before=second.after, after=ABSENT, written=frozenset(bench.harness.record(id=1))
        )
        assert await statuses(bench, first, second, last) == [APPLIED, APPLIED, APPLIED]
        assert await bench.contents() == []

    async def test_a_changed_field_is_a_conflict(self, bench: Bench) -> None:
        if bench.capabilities.guards == "none":
            return
        await bench.seed(ANN)
        stale = await change_of(bench, 1, name="mine")
        await bench.do(bench.update({"id": 1}, {"name": "theirs"}))
        assert await statuses(bench, stale) == [CONFLICT]
        assert await bench.contents() == [bench.expected(ANN | {"name": "theirs"})]

    @pytest.mark.parametrize("value", [None, "x"])
    async def test_null_guards_too(self, bench: Bench, value: str | None) -> None:
        """A field that was null and is not any more (or the other way round) is a conflict."""
        if bench.capabilities.guards == "none":
            return
        await bench.seed({"id": 1, "name": value})
        change = await change_of(bench, 1, name="mine")
        other = None if value else "theirs"
        await bench.do(bench.update({"id": 1}, {"name": other}))
        assert await statuses(bench, change) == [CONFLICT]
        await bench.do(bench.update({"id": 1}, {"name": value}))
        assert await statuses(bench, change) == [APPLIED]

    async def test_another_field_may_change(self, bench: Bench) -> None:
        await bench.seed(ANN)
        change = await change_of(bench, 1, name="mine")
        await bench.do(bench.update({"id": 1}, {"count": 77}))
        assert await statuses(bench, change) == [APPLIED]
        assert await bench.contents() == [bench.expected(ANN | {"name": "mine", "count": 77})]

    async def test_a_guard_field_is_compared(self, bench: Bench) -> None:
        if bench.capabilities.guards == "none":
            return
        await bench.seed(ANN)
        change = replace(
            await change_of(bench, 1, name="mine"), guard=frozenset({bench.harness.path("count")})
        )
        await bench.do(bench.update({"id": 1}, {"count": 77}))
        assert await statuses(bench, change) == [CONFLICT]
        assert await bench.contents() == [bench.expected(ANN | {"count": 77})]

    async def test_an_insert_onto_a_record_is_a_conflict(self, bench: Bench) -> None:
        await bench.seed(ANN)
        (image,) = await bench.read(1)
        assert await statuses(
            bench, make(bench, 1, ABSENT, image, frozenset(bench.harness.record(id=1)))
        ) == [CONFLICT]
        assert await bench.contents() == [bench.expected(ANN)]

    async def test_a_record_that_is_gone_is_a_conflict(self, bench: Bench) -> None:
        await bench.seed(ANN)
        update = await change_of(bench, 1, name="mine")
        delete = replace(update, after=ABSENT)
        await bench.do(bench.delete({"id": 1}))
        assert await statuses(bench, update) == [CONFLICT]
        assert await statuses(bench, delete) == [CONFLICT]
        assert await bench.contents() == []

    async def test_a_delete_is_guarded(self, bench: Bench) -> None:
        if bench.capabilities.guards == "none":
            return
        await bench.seed(ANN)
        delete = replace(await change_of(bench, 1, name="Ann"), after=ABSENT)
        await bench.do(bench.update({"id": 1}, {"name": "theirs"}))
        assert await statuses(bench, delete) == [CONFLICT]
        assert await bench.contents() == [bench.expected(ANN | {"name": "theirs"})]

    async def test_a_refusal_names_the_constraint(self, bench: Bench) -> None:
        if not bench.harness.unique:
            return
        await bench.seed(ANN, BOB)
        for change in (await self._insert(bench), await change_of(bench, 2, email=ANN["email"])):
            (written,) = await bench.write(change)
            assert written.status is REFUSED
            assert isinstance(written.error, ConstraintViolated)
            assert written.error.constraint
            assert written.error.__cause__ is not None or not bench.harness.driver
        assert await bench.contents() == [bench.expected(ANN), bench.expected(BOB)]

    @staticmethod
    async def _insert(bench: Bench) -> Change:
        record = bench.harness.record(id=3, email=ANN["email"])
        return make(bench, 3, ABSENT, record, frozenset(record))

    async def test_writing_stops_at_the_first_that_fails(self, bench: Bench) -> None:
        await bench.seed(ANN, BOB)
        change = await change_of(bench, 1, name="mine")
        last = await change_of(bench, 2, name="mine")
        (image,) = await bench.read(1)
        taken = make(bench, 1, ABSENT, image, frozenset(bench.harness.record(id=1)))
        assert await statuses(bench, change, taken, last) == [APPLIED, CONFLICT]
        name = "Ann" if bench.capabilities.holds else "mine"
        assert await bench.contents() == [bench.expected(ANN | {"name": name}), bench.expected(BOB)]

    async def test_a_refusal_among_many_is_that_of_its_change(self, bench: Bench) -> None:
        if not bench.harness.unique:
            return
        await bench.seed(ANN, {"id": 7}, {"id": 8}, {"id": 9})
        given: list[dict[str, Any]] = [
            {"id": 3},
            {"id": 4, "email": "new@x"},
            {"id": 5, "email": ANN["email"]},
            {"id": 6},
        ]
        records = [bench.harness.record(**record) for record in given]
        inserts = [
            make(bench, record["id"], ABSENT, image, frozenset(image))
            for record, image in zip(given, records, strict=True)
        ]
        assert await statuses(bench, *inserts) == [APPLIED, APPLIED, REFUSED]
        updates = [
            await change_of(bench, number, email=email)
            for number, email in ((7, "seven@x"), (8, ANN["email"]), (9, "nine@x"))
        ]
        assert await statuses(bench, *updates) == [APPLIED, REFUSED]
        assert (await bench.images())[-1] == (await bench.read(9))[0]

    async def test_a_conflict_among_many_is_that_of_its_change(self, bench: Bench) -> None:
        if bench.capabilities.guards == "none":
            return
        await bench.seed(*({"id": number, "count": number} for number in range(1, 6)))
        updates = [await change_of(bench, number, count=0) for number in range(1, 6)]
        deletes = [replace(change, after=ABSENT) for change in updates]
        await bench.do(bench.update({"id": 3}, {"count": 77}))
        assert await statuses(bench, *updates) == [APPLIED, APPLIED, CONFLICT]
        left = {1: 1, 2: 2} if bench.capabilities.holds else {1: 0, 2: 0}
        assert {row["id"]: row["count"] for row in await bench.contents()} == left | {3: 77, 4: 4, 5: 5}
        assert await statuses(bench, *deletes[2:]) == [CONFLICT]
        assert await statuses(bench, deletes[3], deletes[2], deletes[4]) == [APPLIED, CONFLICT]
