"""Contract: names and values that look like the store's own language are plain data, or are refused.

Whatever a test does to one record or one hostile name, all other records must stay as they were.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import pytest

from warehouse.adapter import Query, Request
from warehouse.conditions import Compare
from warehouse.errors import WarehouseError
from warehouse.records import Entity, get
from warehouse.testing.bench import Bench, Logical, without_nulls
from warehouse.testing.samples import ROWS

VALUES: Final = (
    "'; DROP TABLE things; --",
    "x' OR '1'='1",
    '" OR ""="',
    "\\' OR 1=1 #",
    "x\\",
    "`) DETACH DELETE n //",
    "'}) DETACH DELETE (n) RETURN 1 //",
    "\\u0027 OR true",
    "%s %(name)s :name ? $1 $name {name} @name",
    "${name}",
    '{"$gt": ""}',
    "$where",
    "\u2019 OR \uff07x\uff07=\uff07x",
    "*/ SELECT 1 /*",
    "y" * 199,
)
NAMES: Final = (
    "na'me",
    'na"me',
    "na`me",
    "`",
    "x` IS NULL OR true //",
    "name` = n.`name` OR n.`x",
    "x` = 1, n.`count",
    'x" IS NULL OR "name" = "name',
    "x` IS NULL OR `name` = `name",
    "name; DROP TABLE things",
    "name = name OR 1=1 --",
    "n} DETACH DELETE n //",
    "name) SET n.count = 7 //",
    "na\\u0060me",
    "na\\me",
    "$name",
    "$where",
    "na$me",
    "name[0]",
    "name[]",
    "na me",
    "na\nme",
    "ключ",
    "\u02bcname\u02bc",
    "na\0me",
    "x" * 300,
)
ENTITIES: Final = (
    *NAMES,
    "",
    ".",
    "system.users",
    "a.b",
    "x" * 2000,
    "X`) MATCH (m) DETACH DELETE m //",
    "X` {id: 1}) WITH 1 AS one MATCH (m) SET m.name = 'x' RETURN m //",
)
MAPPINGS: Final[tuple[Any, ...]] = (
    {"$gt": ""},
    {"$ne": 5},
    {"$where": "true"},
    {"$literal": 1},
    {"$ref": "step_0.id"},
    {"city": {"$gt": ""}},
    {"a.b": 1},
    {"'": 1, '"': 2, "`": 3},
)


class InjectionContract:
    async def test_a_value_is_never_part_of_a_statement(self, bench: Bench) -> None:
        others = await _seeded(bench)
        for value in VALUES:
            await self._check_value(bench, others, value)

    async def _check_value(self, bench: Bench, others: list[Logical], value: str) -> None:
        await bench.do(bench.insert({"id": 50, "name": value}))
        for operator in sorted(
            {"$eq", "$startsWith", "$endsWith", "$contains"} & bench.capabilities.conditions
        ):
            found = await bench.adapter.find(bench.query({"name": {operator: value}}))
            assert [bench.logical(record)["id"] for record in found] == [50], operator
        (step,) = await bench.do(bench.update({"name": value}, {"email": value}))
        assert step.affected == 1
        record = bench.expected({"id": 50, "name": value, "email": value})
        assert bench.same(await bench.contents(), [*others, record])
        (step,) = await bench.do(bench.delete({"email": value}))
        assert step.affected == 1
        assert bench.same(await bench.contents(), others)

    async def test_an_element_of_a_list_is_never_part_of_a_statement(self, bench: Bench) -> None:
        if not bench.has("tags") or not {"$push", "$pull"} <= bench.capabilities.updates:
            return
        others = await _seeded(bench)
        for value in VALUES:
            await self._check_element(bench, others, value)

    async def _check_element(self, bench: Bench, others: list[Logical], value: str) -> None:
        await bench.do(bench.insert({"id": 50, "tags": [value]}))
        await bench.do(bench.update({"id": 50}, {"tags": {"$push": value}}))
        found = await bench.adapter.find(bench.query({"tags": {"$contains": value}}))
        assert [bench.logical(record)["tags"] for record in found] == [[value, value]]
        await bench.do(bench.update(None, {"tags": {"$pull": value}}))
        await bench.do(bench.delete({"id": 50}))
        await _check_unchanged(bench, others)

    async def test_a_text_with_nul_is_kept_or_refused(self, bench: Bench) -> None:
        others = await _seeded(bench)
        kept = []
        with suppress(WarehouseError):
            await bench.do(bench.insert({"id": 50, "name": "a\0b"}))
            kept = [bench.expected({"id": 50, "name": "a\0b"})]
        assert bench.same(await bench.contents(), [*others, *kept])

    @pytest.mark.parametrize("value", MAPPINGS, ids=str)
    async def test_a_mapping_that_looks_like_an_operator_is_data(self, bench: Bench, value: Any) -> None:
        if not bench.has("details"):
            return
        others = await _seeded(bench)
        with suppress(WarehouseError):
            await bench.do(bench.insert({"id": 50, "details": value}))
            others = [*others, bench.expected({"id": 50, "details": value})]
        await _check_unchanged(bench, others)
        is_it = Compare("details", "$eq", value)
        found = await bench.adapter.find(bench.query(is_it))
        assert [bench.logical(record)["id"] for record in found] == [
            row["id"] for row in others if row["id"] == 50
        ]
        with suppress(WarehouseError):
            await bench.do(bench.update({"id": 1}, {"details": {"$set": {"$literal": value}}}))
            others = [{**row, "details": value} if row["id"] == 1 else row for row in others]
        await _check_unchanged(bench, others)

    async def test_a_field_is_never_part_of_a_statement(self, bench: Bench) -> None:
        others = await _seeded(bench)
        for name in NAMES:
            await self._check_field(bench, others, name)

    async def _check_field(self, bench: Bench, others: list[Logical], name: str) -> None:
        path = bench.harness.path("name").rpartition("name")[0] + name
        for where in (Compare(path, "$eq", 1), Compare(path, "$gt", 0), Compare(path, "$in", [1])):
            with suppress(WarehouseError):
                assert await bench.adapter.find(Query(info=bench.info, where=where)) == [], where
        with suppress(WarehouseError):
            found = await bench.adapter.find(Query(info=bench.info, order_by=(path,)))
            assert len(found) == len(others)
        await _check_unchanged(bench, others)
        with suppress(WarehouseError):
            await bench.do(bench.raw_update({bench.harness.path("id"): 1}, {path: {"$set": 7}}))
            (image,) = await bench.read(1)
            assert get(image, path) == 7, "it was neither written nor refused"
        await _check_unchanged(bench, others)

    async def test_an_entity_is_never_part_of_a_statement(self, bench: Bench) -> None:
        others = await _seeded(bench)
        for name in ENTITIES:
            await self._check_entity(bench, others, name)

    async def _check_entity(self, bench: Bench, others: list[Logical], name: str) -> None:
        with suppress(WarehouseError):
            info = await bench.adapter.describe(Entity(name))
            record = bench.harness.record(id=1, name="x")
            request = Request(step="step_0", operation="insert", info=info, records=(record,))
            bench.adapter.check(request)
            async with bench.unit() as unit:
                await unit.execute(request)
                await unit.rollback()
            assert await bench.adapter.find(Query(info=info)) == []
        await _check_unchanged(bench, others)


async def _seeded(bench: Bench) -> list[Logical]:
    await bench.seed(*ROWS)
    return await bench.contents()


async def _check_unchanged(bench: Bench, expected: list[Logical]) -> None:
    found = await bench.contents()
    assert bench.same(without_nulls(found), without_nulls(expected))
