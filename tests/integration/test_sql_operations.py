"""SQL stores: what the contract suite cannot know - generated values, triggers, keys, cascades, races."""

import anyio
import pytest

from integration.sql_stores import everywhere, opened
from warehouse.errors import ConstraintViolated, InvalidOperation, StoreContention, StoreError
from warehouse.records import ABSENT, Change, Entity

pytestmark = pytest.mark.anyio
AUTO = {
    "postgres": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
    "sqlite": "INTEGER PRIMARY KEY",
}


@pytest.fixture
async def store(request, tmp_path):
    async with opened(request.param, request, tmp_path) as store:
        yield store


only_postgres = pytest.mark.parametrize("store", ["postgres"], indirect=True)
only_mariadb = pytest.mark.parametrize("store", ["mariadb"], indirect=True)
only_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@everywhere
async def test_images_carry_what_the_store_filled_in(store):
    await store.sql(
        f"CREATE TABLE t (id {AUTO[store.kind]}, a varchar(9) DEFAULT 'none', b int,"
        " c int GENERATED ALWAYS AS (b * 2) STORED)"
    )
    info = await store.info("t")
    assert info.key == ("id",)
    assert info.required == frozenset()
    assert info.generated == ({"id", "c"} if store.kind == "postgres" else {"c"})
    changes = await store.do("insert", "t", records=[{"b": 2}, {"a": "x", "b": 3}, {"b": 4}])
    assert [change.after for change in changes] == [
        {"id": changes[0].key["id"], "a": "none", "b": 2, "c": 4},
        {"id": changes[1].key["id"], "a": "x", "b": 3, "c": 6},
        {"id": changes[2].key["id"], "a": "none", "b": 4, "c": 8},
    ]
    assert len({change.key["id"] for change in changes}) == 3
    before = await store.sql("SELECT * FROM t ORDER BY id")
    gone = await store.do("delete", "t", where={"b": {"$gte": 3}})
    assert await store.undo(gone) == ["applied", "applied"]
    assert await store.sql("SELECT * FROM t ORDER BY id") == before


@everywhere
async def test_images_carry_what_triggers_did(store):
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, a varchar(20), n int)")
    after = "UPDATE t SET a = upper(a) WHERE id = NEW.id AND a <> upper(a)"
    if store.kind == "postgres":
        await store.sql(
            f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {after}; RETURN NULL; END $$",
            "CREATE TRIGGER g AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
        )
    elif store.kind == "mariadb":
        await store.sql(
            "CREATE TRIGGER g1 BEFORE INSERT ON t FOR EACH ROW SET NEW.a = upper(NEW.a)",
            "CREATE TRIGGER g2 BEFORE UPDATE ON t FOR EACH ROW SET NEW.a = upper(NEW.a)",
        )
    else:
        await store.sql(
            f"CREATE TRIGGER g1 AFTER INSERT ON t BEGIN {after}; END",
            f"CREATE TRIGGER g2 AFTER UPDATE OF a ON t WHEN NEW.a <> upper(NEW.a) BEGIN {after}; END",
        )
    (made,) = await store.do("insert", "t", records=[{"id": 1, "a": "ab", "n": 1}])
    assert made.after == {"id": 1, "a": "AB", "n": 1}
    (changed,) = await store.do("update", "t", where={"id": 1}, data={"a": "cd", "n": {"$increment": 2}})
    assert (changed.before, changed.after) == (made.after, {"id": 1, "a": "CD", "n": 3})
    (again,) = await store.do("upsert", "t", records=[{"id": 1, "a": "ef"}])
    assert again.after == {"id": 1, "a": "EF", "n": 3}


@everywhere
async def test_upsert_never_overwrites_by_another_unique_key(store):
    await store.sql(
        "CREATE TABLE t (id int PRIMARY KEY, email varchar(20) UNIQUE, n int)",
        "INSERT INTO t VALUES (1, 'a@x', 1), (2, 'b@x', 2)",
    )
    with pytest.raises(ConstraintViolated) as caught:
        await store.do("upsert", "t", records=[{"id": 3, "email": "a@x", "n": 3}])
    assert "email" in caught.value.constraint
    with pytest.raises(ConstraintViolated):
        await store.do("upsert", "t", records=[{"id": 2, "email": "a@x", "n": 3}])
    assert await store.sql("SELECT * FROM t ORDER BY id") == [(1, "a@x", 1), (2, "b@x", 2)]
    changes = await store.do(
        "upsert",
        "t",
        records=[
            {"id": 5, "email": "a@x", "n": 9},
            {"id": 4, "email": "d@x"},
            {"id": 4, "email": "d@x", "n": 1},
        ],
        conflict_keys=("email",),
    )
    assert [change.action for change in changes] == ["updated", "inserted", "updated"]
    assert changes[0].key == {"id": 1}
    assert changes[0].written == {"n"}
    assert changes[1].claims == ({"email": "d@x"},)
    assert await store.sql("SELECT * FROM t ORDER BY id") == [(1, "a@x", 9), (2, "b@x", 2), (4, "d@x", 1)]


@everywhere
async def test_an_upsert_that_loses_a_race_contends_or_updates(store):
    """PostgreSQL does not see the other's row until it stumbles over it; the others wait for it."""
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    request = await store.request("upsert", "t", records=[{"id": 1, "n": 1}])
    outcomes = []

    async def late():
        try:
            async with store.unit() as unit:
                step = await unit.execute(request)
                await unit.commit()
            outcomes.append(step.changes[0].action)
        except StoreContention:
            outcomes.append("contention")

    async with anyio.create_task_group() as group, store.unit() as unit:
        await unit.execute(request)
        group.start_soon(late)
        await anyio.sleep(0.3)
        await unit.commit()
    assert outcomes == ["contention" if store.kind == "postgres" else "updated"]
    assert await store.sql("SELECT * FROM t") == [(1, 1)]


@everywhere
async def test_images_of_concurrent_updates_are_consecutive(store):
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t VALUES (1, 0), (2, 0)")
    request = await store.request("update", "t", where={"n": {"$gte": 0}}, data={"n": {"$increment": 1}})
    seen = []

    async def several():
        for _ in range(5):
            async with store.unit(20) as unit:
                step = await unit.execute(request)
                await unit.commit()
            seen.extend((change.before["n"], change.after["n"]) for change in step.changes)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(several)
    assert sorted(seen) == [(n, n + 1) for n in range(30) for _ in "12"]


async def _family(store):
    await store.sql(
        "CREATE TABLE a (id int PRIMARY KEY, name varchar(9))",
        "CREATE TABLE b (id int PRIMARY KEY, a int, FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE)",
        "CREATE TABLE c (id int PRIMARY KEY, b int, a int,"
        " FOREIGN KEY (b) REFERENCES b (id) ON DELETE CASCADE,"
        " FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE)",
        "CREATE TABLE d (id int PRIMARY KEY, c int, n int, FOREIGN KEY (c) REFERENCES c (id) ON DELETE SET NULL)",
        "CREATE TABLE e (id int PRIMARY KEY, up int, FOREIGN KEY (up) REFERENCES e (id) ON DELETE CASCADE)",
        "INSERT INTO a VALUES (1, 'x'), (2, 'y')",
        "INSERT INTO b VALUES (10, 1), (11, 1), (12, 2)",
        "INSERT INTO c VALUES (20, 10, 1), (21, 12, 1), (22, 12, 2)",
        "INSERT INTO d VALUES (30, 20, 5), (31, 22, 6)",
        "INSERT INTO e VALUES (1, NULL), (2, 1), (3, 2), (4, NULL)",
    )


async def _everything(store):
    return [await store.sql(f"SELECT * FROM {name} ORDER BY id") for name in "abcde"]


@everywhere
async def test_a_delete_captures_what_goes_with_it(store):
    await _family(store)
    before = await _everything(store)
    request = await store.request("delete", "a", where={"id": 1})
    async with store.unit() as unit:
        step = await unit.execute(request)
        await unit.commit()
    assert step.affected == 1
    found = [
        (str(change.entity), change.key["id"], change.action, change.dependent) for change in step.changes
    ]
    assert set(found) == {
        ("d", 30, "updated", True),
        ("c", 20, "deleted", True),
        ("c", 21, "deleted", True),
        ("b", 10, "deleted", True),
        ("b", 11, "deleted", True),
        ("a", 1, "deleted", False),
    }
    assert step.changes[0].written == {"c"}
    assert step.changes[0].after == {"id": 30, "c": None, "n": 5}
    assert await store.sql("SELECT id FROM c") == [(22,)]
    assert await store.undo(step.changes) == ["applied"] * 6
    assert await _everything(store) == before


@everywhere
async def test_a_delete_follows_a_table_that_refers_to_itself(store):
    await _family(store)
    before = await _everything(store)
    changes = await store.do("delete", "e", where={"id": 1})
    assert [(change.key["id"], change.dependent) for change in changes] == [(3, True), (2, True), (1, False)]
    assert await store.undo(changes) == ["applied"] * 3
    assert await _everything(store) == before
    changes = await store.do("delete", "e", where={"id": {"$gt": 0}})
    assert [change.key["id"] for change in changes] == [3, 2, 1, 4]
    assert not any(change.dependent for change in changes)
    assert await store.undo(changes) == ["applied"] * 4
    assert await _everything(store) == before


@everywhere
async def test_undo_of_an_insert_does_not_cascade(store):
    await _family(store)
    changes = await store.do("insert", "a", records=[{"id": 7, "name": "z"}])
    await store.sql("INSERT INTO b VALUES (70, 7)")
    async with store.unit() as unit:
        (change,) = changes
        inverse = Change(
            entity=change.entity, key=change.key, before=change.after, after=ABSENT, written=change.written
        )
        (written,) = await unit.write([inverse])
    assert written.status.value == "refused"
    assert isinstance(written.error, ConstraintViolated)
    assert await store.sql("SELECT * FROM b WHERE a = 7") == [(70, 7)]


@everywhere
async def test_a_delete_whose_cascade_cannot_be_captured_is_refused(store):
    await store.sql(
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (a int, FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO b VALUES (1)",
    )
    with pytest.raises(StoreError, match="nothing identifies"):
        await store.do("delete", "a", where={"id": 1})
    assert await store.sql("SELECT * FROM b") == [(1,)]


@everywhere
async def test_composite_keys(store):
    await store.sql("CREATE TABLE t (a int, b varchar(9), n int, PRIMARY KEY (a, b))")
    await store.do("insert", "t", records=[{"a": 1, "b": "x", "n": 1}, {"a": 1, "b": "y", "n": 2}])
    changes = await store.do("update", "t", where={"a": 1}, data={"n": {"$multiply": 3}})
    assert [change.key for change in changes] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    async with store.unit() as unit:
        info = await store.info("t")
        images = await unit.read(info, [{"a": 1, "b": "y"}, {"a": 2, "b": "y"}])
    assert images == [{"a": 1, "b": "y", "n": 6}, ABSENT]
    (change,) = await store.do("delete", "t", where={"n": 3})
    assert change.key == {"a": 1, "b": "x"}
    assert await store.undo([change]) == ["applied"]


@everywhere
async def test_a_write_that_its_guard_refuses(store):
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, n int, m varchar(20) UNIQUE)")
    await store.do("insert", "t", records=[{"id": 1, "n": 1, "m": "a"}, {"id": 2, "m": "b"}])
    changes = await store.do("update", "t", where={"id": 1}, data={"m": "c"})
    await store.sql("UPDATE t SET n = 9 WHERE id = 1", "UPDATE t SET m = 'a' WHERE id = 2")
    assert await store.undo(changes) == ["refused"]
    await store.sql("UPDATE t SET m = 'd' WHERE id = 1")
    assert await store.undo(changes) == ["conflict"]
    await store.sql("DELETE FROM t WHERE id = 2", "UPDATE t SET m = 'c' WHERE id = 1")
    assert await store.undo(changes) == ["applied"]
    assert await store.sql("SELECT * FROM t") == [(1, 9, "a")]


@everywhere
async def test_lists_inside_json_columns(store):
    kind = {"postgres": "jsonb", "mariadb": "json", "sqlite": "JSON"}[store.kind]
    await store.sql(f"CREATE TABLE t (id int PRIMARY KEY, j {kind})")
    value = {"a": [1, 2.5, None, True, {"é": "\"'%"}]}
    changes = await store.do("insert", "t", records=[{"id": 1, "j": value}, {"id": 2, "j": [1]}, {"id": 3}])
    assert [change.after["j"] for change in changes] == [value, [1], None]
    (change,) = await store.do("update", "t", where={"id": 2}, data={"j": {"$push": {"x": 2}}})
    assert (change.before["j"], change.after["j"]) == ([1], [1, {"x": 2}])
    (change,) = await store.do("update", "t", where={"id": 2}, data={"j": {"$pull": 1}})
    assert change.after["j"] == [{"x": 2}]
    (change,) = await store.do("update", "t", where={"j": {"$null": True}}, data={"j": {"$addToSet": "s"}})
    assert (change.key, change.after["j"]) == ({"id": 3}, ["s"])
    with pytest.raises(StoreError, match="needs a list"):
        await store.do("update", "t", where={"id": 1}, data={"j": {"$push": 1}})


@only_mariadb
async def test_without_returning_rows_are_read_back(store):
    store.adapter._opened.returning = False  # as MySQL
    await store.sql("CREATE TABLE t (id bigint AUTO_INCREMENT PRIMARY KEY, a varchar(9) DEFAULT 'd')")
    changes = await store.do("insert", "t", records=[{"a": "x"}, {"id": 7}, {"a": "y"}])
    assert [change.after for change in changes] == [
        {"id": 1, "a": "x"},
        {"id": changes[1].key["id"], "a": "d"},
        {"id": 2, "a": "y"},
    ] or changes[1].key == {"id": 7}
    await store.sql("CREATE TABLE u (id varchar(36) DEFAULT uuid() PRIMARY KEY, a int)")
    with pytest.raises(StoreError, match="must be given"):
        await store.do("insert", "u", records=[{"a": 1}])


@only_postgres
async def test_arrays_and_many_types_in_one_insert(store):
    await store.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE TABLE t (id uuid PRIMARY KEY, d date, m mood, x int[], y mood[], n numeric, c char(3), r real)",
    )
    rows = [
        {
            "id": f"{i:032d}",
            "d": "2024-02-29",
            "m": "sad",
            "x": [1, i],
            "y": ["happy"],
            "n": 1.1,
            "c": "a",
            "r": 0.1,
        }
        for i in range(3)
    ]
    changes = await store.do("insert", "t", records=rows)
    assert str(changes[2].after["n"]) == "1.1"
    assert changes[2].after["x"] == [1, 2]
    (change,) = await store.do(
        "update", "t", where={"x": {"$contains": 2}}, data={"x": {"$pull": 1}, "n": {"$max": 7}}
    )
    assert change.after["x"] == [2]
    assert len(await store.find("t", {"r": 0.1, "m": {"$gt": "mad"}, "y": [["happy"]][0]})) == 3
    assert await store.undo([change]) == ["applied"]


@only_postgres
async def test_names_that_need_quotes(store):
    await store.sql('CREATE TABLE "Or der%" ("Ke""y" int PRIMARY KEY, "a%s" text)')
    await store.do("insert", "Or der%", records=[{'Ke"y': 1, "a%s": "100%"}])
    (change,) = await store.do("update", "Or der%", where={"a%s": {"$like": "100\\%"}}, data={"a%s": "x"})
    assert change.after == {'Ke"y': 1, "a%s": "x"}


@only_sqlite
async def test_values_are_compared_by_the_type_they_are_stored_with(store):
    await store.sql(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        "INSERT INTO t VALUES (1, 5), (2, '5'), (3, x'35'), (4, NULL)",
    )
    for where, ids in [
        ({"v": 5}, [1]),
        ({"v": "5"}, [2]),
        ({"v": {"$gt": 4}}, [1]),
        ({"v": {"$gt": "4"}}, [2]),
        ({"v": {"$ne": 5}}, [2, 3, 4]),
        ({"v": {"$in": [5, "5", None]}}, [1, 2, 4]),
        ({"v": {"$nin": [5, b"5"]}}, [2, 4]),
        ({"v": {"$contains": "5"}}, [2]),
    ]:
        assert [record["id"] for record in await store.find("t", where, order_by=("id",))] == ids, where
    with pytest.raises(StoreError):
        await store.do("update", "t", where={"id": 2}, data={"v": {"$increment": 1}})


@only_mariadb
async def test_collations_do_not_blur_conditions(store):
    await store.sql(
        "CREATE TABLE t (id int PRIMARY KEY, s varchar(20), l varchar(20) CHARACTER SET latin1)",
        "INSERT INTO t VALUES (1, 'a', 'é'), (2, 'A', 'É'), (3, 'a ', 'e'), (4, NULL, NULL), (5, 'á', 'z')",
    )
    for where, ids in [
        ({"s": "a"}, [1]),
        ({"s": {"$ne": "a"}}, [2, 3, 4, 5]),
        ({"s": {"$gt": "a"}}, [3, 5]),
        ({"s": {"$in": ["A", "a "]}}, [2, 3]),
        ({"s": {"$like": "a%"}}, [1, 3]),
        ({"s": {"$endsWith": " "}}, [3]),
        ({"l": "é"}, [1]),
        ({"l": {"$gt": "z"}}, [1, 2]),
    ]:
        assert [record["id"] for record in await store.find("t", where, order_by=("id",))] == ids, where
    ordered = await store.find("t", None, order_by=("s",))
    assert [record["id"] for record in ordered] == [4, 2, 1, 3, 5]


async def test_a_value_that_does_not_fit_is_refused_before_and_after(request, tmp_path):
    async with opened("postgres", request, tmp_path) as store:
        await store.sql("CREATE TABLE t (id int PRIMARY KEY, s text, j json)")
        for records in ([{"id": "1"}], [{"id": 1.5}], [{"id": 1, "s": 5}], [{"id": 1, "j": float("nan")}]):
            with pytest.raises(InvalidOperation):
                await store.request("insert", "t", records=records)
        with pytest.raises(InvalidOperation):
            await store.request("delete", "t", where={"s": {"$gt": 1}})
        good = await store.request("insert", "t", records=[{"id": 1}])
        object.__setattr__(good, "records", ({"id": "one"},))  # as a reference would bring it
        async with store.unit() as unit:
            with pytest.raises(StoreError) as caught:
                await unit.execute(good)
            assert caught.value.field == "id"
        assert (await store.adapter.describe(Entity("t"))).fields == {"id", "s", "j"}


@everywhere
async def test_integers_between_two_doubles_are_compared_exactly(store):
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, x double precision)")
    await store.do("insert", "t", records=[{"id": 1, "x": 2.0**63}, {"id": 2, "x": 2.0**53}])
    for where, found in (
        ({"x": 2**63 - 1}, []),
        ({"x": {"$in": [2**63 - 1, 2**53 + 1]}}, []),
        ({"x": {"$gt": 2**63 - 1}}, [1]),
        ({"x": {"$lte": 2**63 - 1}}, [2]),
        ({"x": {"$lt": 2**53 + 1}}, [2]),
        ({"x": {"$gte": 2**53 + 1}}, [1]),
    ):
        assert sorted(row["id"] for row in await store.find("t", where)) == found, where


@everywhere
async def test_a_sum_beyond_64_bits_is_an_error(store):
    await store.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint)")
    await store.do("insert", "t", records=[{"id": 1, "n": 2**63 - 2}])
    (change,) = await store.do("update", "t", where={"id": 1}, data={"n": {"$increment": 1}})
    assert change.after["n"] == 2**63 - 1
    for data in ({"n": {"$increment": 1}}, {"n": {"$multiply": 3}}):
        with pytest.raises(StoreError):
            await store.do("update", "t", where={"id": 1}, data=data)
    assert await store.sql("SELECT n FROM t") == [(2**63 - 1,)]
