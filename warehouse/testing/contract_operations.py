"""Contract: every operation, on one record and on many, with exact images, counts and actions; and reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from warehouse.adapter import StepChanges
from warehouse.conditions import sort_records
from warehouse.errors import ConstraintViolated
from warehouse.journal import codec
from warehouse.records import ABSENT, Change, Effect, get, key_of, overlaps, same
from warehouse.testing.bench import Bench
from warehouse.testing.samples import ROWS

MANY = 200
ANN: dict[str, Any] = {"id": 1, "name": "Ann", "count": 1, "ratio": 0.5, "active": True, "email": "ann@x"}
BOB: dict[str, Any] = {"id": 2, "name": "Bob", "count": 2, "email": "bob@x"}


def check_change(
    bench: Bench, change: Change, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> None:
    """Compare one change with the logical records before and after it (None: absent)."""
    for image, record in ((change.before, before), (change.after, after)):
        expected = None if record is None else bench.expected(record)
        found = bench.harness.logical(image)
        assert bench.same(found, expected), f"{found} is not {expected}"
    image = change.before if change.after is ABSENT else change.after
    assert not change.dependent
    assert change.entity == bench.info.entity
    assert change.key == key_of(image, bench.info.key)  # type: ignore[arg-type]
    assert same(codec.decode(codec.encode(image)), image)


def check_written(change: Change, paths: Iterable[str]) -> None:
    """`written` covers exactly the fields that the operation named."""
    given = list(paths)
    for path in given:
        assert any(overlaps(path, other) for other in change.written), f"{path} is not in `written`"
    for path in change.written:
        assert any(overlaps(path, other) for other in given), f"{path} was not written"


def actions(step: StepChanges) -> list[str]:
    return [change.action for change in step.changes]


class OperationContract:
    # Insert

    async def test_insert_one(self, bench: Bench) -> None:
        assert bench.declared("operations", "insert")
        request = bench.insert(ANN)
        (step,) = await bench.do(request)
        assert step.affected == 1
        assert actions(step) == ["inserted"]
        check_change(bench, step.changes[0], None, ANN)
        check_written(step.changes[0], request.records[0])
        assert await bench.contents() == [bench.expected(ANN)]

    async def test_insert_takes_what_is_unique(self, bench: Bench) -> None:
        (step,) = await bench.do(bench.insert(ANN, {"id": 5}))
        email = bench.harness.path("email")
        claims = tuple({email: "ann@x"} for _ in range(bench.harness.unique))
        assert [change.claims for change in step.changes] == [claims, ()]

    async def test_insert_many_of_different_shape(self, bench: Bench) -> None:
        (step,) = await bench.do(bench.insert(*ROWS))
        assert step.affected == len(ROWS)
        for change, row in zip(step.changes, ROWS, strict=True):
            check_change(bench, change, None, row)
        assert await bench.contents() == [bench.expected(row) for row in ROWS]

    async def test_images_are_what_a_read_gives(self, bench: Bench) -> None:
        (step,) = await bench.do(bench.insert(*ROWS))
        images = [change.after for change in step.changes]
        assert bench.same(await bench.read(*(row["id"] for row in ROWS)), images)
        assert bench.same(await bench.images(), images)

    async def test_insert_of_what_is_there_fails(self, bench: Bench) -> None:
        await bench.seed(ANN)
        async with bench.unit() as unit:
            with pytest.raises(ConstraintViolated):
                await unit.execute(bench.insert(BOB, {"id": 1, "name": "other"}))
        assert await bench.contents() == [bench.expected(ANN)]

    # Update

    async def test_update_one(self, bench: Bench) -> None:
        assert bench.declared("operations", "update")
        await bench.seed(ANN, BOB)
        (step,) = await bench.do(bench.update({"id": 1}, {"name": "Anna", "count": {"$increment": 4}}))
        after = ANN | {"name": "Anna", "count": 5}
        path = bench.harness.path
        assert step.affected == 1
        assert actions(step) == ["updated"]
        check_change(bench, step.changes[0], ANN, after)
        assert step.changes[0].written == {path("name"), path("count")}
        assert path("id") in step.changes[0].guard
        assert step.changes[0].effects == {path("count"): Effect("$increment", 4)}
        assert await bench.contents() == [bench.expected(after), bench.expected(BOB)]

    async def test_update_many(self, bench: Bench) -> None:
        await bench.seed(ANN, BOB, {"id": 3})
        (step,) = await bench.do(bench.update({"count": {"$gte": 1}}, {"count": {"$increment": 10}}))
        assert step.affected == 2
        changes = sorted(step.changes, key=lambda change: bench.logical(change.after)["id"])
        check_change(bench, changes[0], ANN, ANN | {"count": 11})
        check_change(bench, changes[1], BOB, BOB | {"count": 12})

    async def test_update_of_nothing(self, bench: Bench) -> None:
        await bench.seed(ANN)
        (step,) = await bench.do(bench.update({"id": 9}, {"name": "x"}))
        assert step == StepChanges(changes=(), affected=0)

    async def test_update_that_changes_nothing_still_lists_the_record(self, bench: Bench) -> None:
        await bench.seed(ANN)
        (step,) = await bench.do(bench.update({"id": 1}, {"name": "Ann"}))
        assert step.affected == 1
        check_change(bench, step.changes[0], ANN, ANN)

    # Upsert

    async def test_upsert_inserts_and_updates(self, bench: Bench) -> None:
        if not bench.declared("operations", "upsert"):
            return
        await bench.seed(ANN)
        (step,) = await bench.do(bench.upsert({"id": 1, "name": "Anna"}, BOB))
        after = ANN | {"name": "Anna"}
        assert step.affected == 2
        assert actions(step) == ["updated", "inserted"]
        check_change(bench, step.changes[0], ANN, self.upserted(bench, after))
        check_change(bench, step.changes[1], None, BOB)
        assert await bench.contents() == [bench.expected(self.upserted(bench, after)), bench.expected(BOB)]

    @staticmethod
    def upserted(bench: Bench, record: dict[str, Any]) -> dict[str, Any]:
        """`record` after an upsert of only `name`: a store that nests fields replaces the whole nest."""
        if "." in bench.harness.path("name"):
            return {"id": record["id"], "name": record["name"]}
        return record

    async def test_upsert_writes_only_the_update_fields(self, bench: Bench) -> None:
        if not bench.declared("operations", "upsert"):
            return
        await bench.seed(ANN)
        given = {"id": 1, "name": "Anna", "count": 7, "active": False}
        (step,) = await bench.do(bench.upsert(given, fields=["count"]))
        check_change(bench, step.changes[0], ANN, ANN | {"count": 7})
        assert step.changes[0].written == {bench.harness.path("count")}
        assert await bench.contents() == [bench.expected(ANN | {"count": 7})]

    async def test_upsert_by_a_unique_field(self, bench: Bench) -> None:
        if not bench.declared("operations", "upsert") or not bench.harness.unique:
            return
        await bench.seed(ANN, {"id": 9})
        given = {"id": 7, "email": "ann@x", "name": "Anna"}
        request = bench.upsert(given, {"id": 8, "email": None}, conflict=["email"], fields=["name"])
        (step,) = await bench.do(request)
        assert actions(step) == ["updated", "inserted"]
        check_change(bench, step.changes[0], ANN, ANN | {"name": "Anna"})
        check_change(bench, step.changes[1], None, {"id": 8})

    # Delete

    async def test_delete_one(self, bench: Bench) -> None:
        assert bench.declared("operations", "delete")
        await bench.seed(ANN, BOB)
        (step,) = await bench.do(bench.delete({"id": 1}))
        assert step.affected == 1
        assert actions(step) == ["deleted"]
        check_change(bench, step.changes[0], ANN, None)
        assert step.changes[0].written >= set(step.changes[0].visible)
        assert await bench.contents() == [bench.expected(BOB)]

    async def test_delete_all(self, bench: Bench) -> None:
        await bench.seed(*ROWS)
        (step,) = await bench.do(bench.delete(None))
        assert step.affected == len(ROWS)
        assert await bench.contents() == []

    async def test_delete_of_nothing(self, bench: Bench) -> None:
        await bench.seed(ANN)
        (step,) = await bench.do(bench.delete({"name": "nobody"}))
        assert step == StepChanges(changes=(), affected=0)

    @pytest.mark.parametrize("operator", ["$exists", "$like", "$ilike", "$containsAll", "$contains"])
    async def test_what_is_tested_for_being_there_is_in_the_images(self, bench: Bench, operator: str) -> None:
        """Neo4j once gave `true` in place of a value that a condition had only tested for being there."""
        field, value = ("tags", ["a"]) if operator == "$containsAll" else ("name", "Ann")
        operand = {"$exists": True, "$like": "A%", "$ilike": "a%", "$containsAll": ["a"], "$contains": "n"}
        if not bench.has(field) or operator not in bench.capabilities.conditions:
            return
        record = ANN | {field: value}
        await bench.seed(record)
        where = {field: {operator: operand[operator]}}
        updated, deleted = await bench.do(bench.update(where, {"count": 2}), bench.delete(where))
        check_change(bench, updated.changes[0], record, record | {"count": 2})
        check_change(bench, deleted.changes[0], record | {"count": 2}, None)

    # Many, and reads

    async def test_many_records_in_one_operation(self, bench: Bench) -> None:
        rows = [{"id": number, "name": f"n{number}", "count": number} for number in range(1, MANY + 1)]
        inserted, updated = await bench.do(
            bench.insert(*rows), bench.update({"count": {"$gt": 100}}, {"count": {"$multiply": 2}})
        )
        assert inserted.affected == MANY
        assert updated.affected == MANY - 100
        for change, row in zip(inserted.changes, rows, strict=True):
            check_change(bench, change, None, row)
        assert [record["count"] for record in await bench.contents()] == [
            number * 2 if number > 100 else number for number in range(1, MANY + 1)
        ]
        (deleted,) = await bench.do(bench.delete({"id": {"$in": list(range(1, MANY))}}))
        assert deleted.affected == MANY - 1
        assert [record["id"] for record in await bench.contents()] == [MANY]

    async def test_read_keeps_the_order_and_shows_what_is_absent(self, bench: Bench) -> None:
        await bench.seed(ANN, BOB)
        images = await bench.read(2, 9, 1)
        assert [bench.harness.logical(image) for image in images] == [
            bench.expected(BOB),
            None,
            bench.expected(ANN),
        ]
        assert images[1] is ABSENT
        assert await bench.read() == []

    @pytest.mark.parametrize(
        "order",
        [
            ("count", "id"),
            ("-count", "id"),
            ("name", "-id"),
            ("-id",),
            ("details.level", "id"),
            ("-details.level", "-id"),
        ],
    )
    async def test_find_orders_nulls_first(self, bench: Bench, order: tuple[str, ...]) -> None:
        if not bench.has(*(name.lstrip("-") for name in order)):
            return
        await bench.seed(*ROWS)
        names = [("-" if name[0] == "-" else "") + bench.harness.path(name.lstrip("-")) for name in order]
        found = await bench.adapter.find(bench.query(order_by=tuple(names)))
        expected = [row["id"] for row in sort_records(list(ROWS), order)]
        assert [get(record, bench.harness.path("id")) for record in found] == expected

    async def test_find_limits(self, bench: Bench) -> None:
        await bench.seed(*ROWS)
        path = bench.harness.path("id")
        for limit, offset in ((3, 0), (3, 2), (None, 5), (0, 0), (100, 7), (2, 100)):
            query = bench.query({"id": {"$gt": 1}}, order_by=(path,), limit=limit, offset=offset)
            found = await bench.adapter.find(query)
            expected = [row["id"] for row in ROWS[1:]][offset:][:limit]
            assert [get(record, path) for record in found] == expected, (limit, offset)
