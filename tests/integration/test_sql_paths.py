"""SQL stores: paths into JSON columns, and conditions that use an index."""

import anyio
import pytest

from integration.sql_stores import everywhere, opened
from warehouse.errors import InvalidOperation
from warehouse.records import get

pytestmark = pytest.mark.anyio
JSON = {"postgres": "jsonb", "mariadb": "json", "sqlite": "JSON"}
only_mariadb = pytest.mark.parametrize("store", ["mariadb"], indirect=True)


@pytest.fixture
async def store(request, tmp_path):
    async with opened(request.param, request, tmp_path) as store:
        yield store


async def table(store, *documents, kind=None):
    await store.sql(f"CREATE TABLE t (id int PRIMARY KEY, n int, j {kind or JSON[store.kind]})")
    await store.do(
        "insert", "t", records=[{"id": number, "j": each} for number, each in enumerate(documents, 1)]
    )


async def documents(store):
    return [record["j"] for record in await store.find("t", order_by=("id",))]


@everywhere
async def test_only_the_path_that_was_written_is_compared_and_restored(store):
    await table(store, {"a": {"x": 1, "y": 1}, "b": [1, 2]})
    changes = await store.do(
        "update", "t", where={"j.a.x": 1}, data={"j.a.x": {"$increment": 4}, "j.c.new": "n"}
    )
    assert changes[0].written == {"j.a.x", "j.c.new"}
    assert changes[0].guard == {"j.a.x"}
    assert await documents(store) == [{"a": {"x": 5, "y": 1}, "b": [1, 2], "c": {"new": "n"}}]
    await store.do("update", "t", where={"id": 1}, data={"j.a.y": 77, "j.b.0": "foreign"})
    assert await store.undo(changes) == ["applied"]
    (found,) = await documents(store)
    assert (found["a"], found["b"]) == ({"x": 1, "y": 77}, ["foreign", 2])
    assert get(found, "c.new") != "n"
    await store.do("update", "t", where={"id": 1}, data={"j.a.x": 6})
    assert await store.undo(changes) == ["conflict"]


@everywhere
async def test_concurrent_updates_of_two_paths_lose_nothing(store):
    await table(store, {"a": 0, "b": {"c": 0}})

    async def add(path):
        for _ in range(10):
            await store.do("update", "t", where={"id": 1}, data={path: {"$increment": 1}})

    async with anyio.create_task_group() as tasks:
        for path in ("j.a", "j.b.c", "j.a", "j.b.c"):
            tasks.start_soon(add, path)
    assert await documents(store) == [{"a": 20, "b": {"c": 20}}]


@everywhere
async def test_kinds_are_never_mixed(store):
    values = [1, 1.0, "1", True, None, [1], {"a": 1}, 2**53 + 1, "", []]
    await table(store, *({"v": value} for value in values), {}, None)

    async def ids(where):
        return [record["id"] for record in await store.find("t", where, order_by=("id",))]

    assert await ids({"j.v": 1}) == [1, 2]
    assert await ids({"j.v": "1"}) == [3]
    assert await ids({"j.v": True}) == [4]
    assert await ids({"j.v": None}) == [5, 11, 12]
    assert await ids({"j.v": [1]}) == [6]
    assert await ids({"j.v": {"$eq": {"a": 1}}}) == [7]
    assert await ids({"j.v.a": 1}) == [7]
    assert await ids({"j.v": {"$gt": 0}}) == [1, 2, 8]
    assert await ids({"j.v": {"$gte": ""}}) == [3, 9]
    assert await ids({"j.v": {"$gte": 2**53 + 1}}) == [8]
    assert await ids({"j.v": {"$gt": 2**53 + 1}}) == []
    assert await ids({"j.v": {"$lt": True}}) == []
    assert await ids({"j.v": {"$contains": 1}}) == [6]
    assert await ids({"j.v": {"$containsAll": []}}) == [3, 6, 9, 10]
    assert await ids({"j": None}) == [12]
    assert await ids({"j": {"$exists": True}, "j.v": {"$null": True}}) == [5, 11]
    assert await ids({"j.v.0": 1}) == [6]


@everywhere
@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\\b", "a%sb", "a}b{", "a`b", "\u00e9 x", "a;--", "$x"])
async def test_names_inside_of_json_are_names_whatever_is_in_them(store, name):
    await table(store, {name: 1, "other": 1}, {"other": 2})
    where = {f"j.{name}": 1}
    assert [record["id"] for record in await store.find("t", where)] == [1]
    (change,) = await store.do("update", "t", where=where, data={f"j.{name}": {"$increment": 1}})
    assert change.after["j"] == {name: 2, "other": 1}
    assert await store.undo([change]) == ["applied"]
    assert await documents(store) == [{name: 1, "other": 1}, {"other": 2}]


@everywhere
async def test_order_limit_and_offset_by_what_is_inside(store):
    await table(store, {"v": 3}, {"v": None}, {"v": 10}, {"v": -1}, {})
    found = await store.find("t", order_by=("-j.v", "id"), limit=3, offset=1)
    assert [record["id"] for record in found] == [5, 3, 1]
    found = await store.find("t", {"j.v": {"$gte": 0}}, limit=1, offset=1, order_by=("id",))
    assert [record["id"] for record in found] == [3]


@everywhere
async def test_a_delete_and_a_mixed_condition(store):
    await table(store, {"v": 1}, {"v": 2}, {"v": 3})
    await store.sql("UPDATE t SET n = id")
    where = {"$or": [{"j.v": 1}, {"n": 3, "j.v": {"$ne": 1}}], "n": {"$gte": 1}}
    changes = await store.do("delete", "t", where=where)
    assert [change.key["id"] for change in changes] == [1, 3]
    assert await documents(store) == [{"v": 2}]
    assert await store.undo(changes) == ["applied", "applied"]
    assert await documents(store) == [{"v": 1}, {"v": 2}, {"v": 3}]


@everywhere
async def test_what_has_no_inside_is_refused(store):
    await table(store, {"v": 1})
    for parts in (
        {"where": {"n.x": 1}, "data": {"n": 1}},
        {"where": {"id": 1}, "data": {"n.x": 1}},
        {"where": {"id": 1}, "data": {"j.x": {"$currentDate": True}}},
        {"where": {"j.x": {"$gt": [1]}}, "data": {"n": 1}},
    ):
        with pytest.raises(InvalidOperation):
            await store.request("update", "t", **parts)


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_column_of_plain_json_keeps_its_text_where_it_is_not_written(store):
    await table(store, {"b": 1, "a": [1, 2]}, kind="json")
    assert [record["id"] for record in await store.find("t", {"j.a.1": 2, "j.b": {"$lt": 2}})] == [1]
    changes = await store.do("update", "t", where={"j.b": 1}, data={"n": 5})
    assert await store.undo(changes) == ["applied"]


@only_mariadb
@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_bin"])
async def test_text_is_found_by_an_index_on_any_collation(store, collation):
    await store.sql(f"CREATE TABLE t (id int PRIMARY KEY, s varchar(50) COLLATE {collation}, KEY (s))")
    names = ["Ada", "ada", "ADA", "\u00c4da", "\u00e4da", "adam", "a da", "ada "]
    filler = [{"id": 1000 + n, "s": f"x{n}"} for n in range(2000)]
    await store.do("insert", "t", records=[{"id": n, "s": s} for n, s in enumerate(names)] + filler)
    await store.sql("ANALYZE TABLE t")

    async def found(where):
        return sorted(record["s"] for record in await store.find("t", where))

    assert await found({"s": "ada"}) == ["ada"]
    assert await found({"s": {"$in": ["ADA", "adam"]}}) == ["ADA", "adam"]
    assert await found({"s": {"$ilike": "ADA"}}) == ["ADA", "Ada", "ada"]
    assert await found({"s": {"$ilike": "ad%"}}) == ["ADA", "Ada", "ada", "ada ", "adam"]
    assert await found({"s": {"$ilike": "\u00c4d_"}}) == ["\u00c4da"]
    assert await found({"s": {"$regex": "^[aA]da$"}}) == ["Ada", "ada"]
    for where in ({"s": "ada"}, *([{"s": {"$ilike": "ad%"}}] if collation.endswith("_ci") else [])):
        assert await _rows_examined(store, where) < 50, where


async def _rows_examined(store, where):
    """How many rows the server means to look at: all of them, where it cannot use the index."""
    from warehouse import conditions
    from warehouse_adapters.sql.conditions import render

    table = store.adapter._table("t")
    sql = render(store.adapter._dialect, table, conditions.parse(where))
    text = f"EXPLAIN SELECT * FROM t WHERE {sql.text}"
    async with store.engine.connect() as connection:
        result = await connection.exec_driver_sql(text, tuple(sql.params))
        (row,) = result.mappings().all()
    assert row["key"] == "s", dict(row)
    return int(row["rows"])
