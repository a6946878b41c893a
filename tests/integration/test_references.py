"""What a step may say of the output of an earlier one, and that it arrives as it was."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from integration.memory_world import STORES, World, delete, insert, statuses, update, upsert
from warehouse import ref

pytestmark = pytest.mark.anyio
CONFIG = {**STORES, "graph": {"adapter": "memory", "type": "graph"}}
NESTED = {"price": Decimal("1.50"), "tags": ["a", {"b": b"c"}], "at": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.fixture
async def world():
    async with World(CONFIG) as world:
        yield world


async def test_one_record(world):
    result = await world.run(
        insert("a", {"id": 1, "key": UUID(int=7), "of": NESTED}),
        insert(
            "p",
            {
                "id": ref("step_0.key"),
                "whole": ref("step_0.of"),
                "deep": {"list": [ref("step_0.of.price"), ref("step_0.of.tags.1.b")]},
                "first": ref("step_0.0.id"),
                "all": ref("step_0.*.id"),
            },
        ),
    )
    assert result.ok, result.error
    assert repr(world.rows("p")) == repr(
        {
            UUID(int=7): {
                "whole": NESTED,
                "deep": {"list": [Decimal("1.50"), b"c"]},
                "first": 1,
                "all": [1],
            }
        }
    )


async def test_several_records(world):
    await world.fill("p", *({"id": number, "n": number} for number in range(5)))
    result = await world.run(
        insert("a", [{"id": 1, "n": 10}, {"id": 3, "n": 30}]),
        update("p", {"id": {"$in": ref("step_0.*.id")}}, {"n": ref("step_0.1.n"), "was": ref("step_0.n")}),
        delete("p", {"id": {"$nin": [ref("step_0.0.id"), ref("step_0.1.id"), 0]}}),
    )
    assert result.ok, result.error
    assert world.rows("p") == {
        0: {"n": 0},
        1: {"n": 30, "was": [10, 30]},
        3: {"n": 30, "was": [10, 30]},
    }


async def test_the_list_over_no_records_is_empty_and_one_of_them_is_an_error(world):
    await world.fill("p", {"id": 1, "n": 1})
    nothing = update("a", {"id": 99}, {"n": 1})
    result = await world.run(nothing, delete("p", {"id": {"$in": ref("step_0.*.id")}}))
    assert (statuses(result), world.rows("p")) == ("cc", {1: {"n": 1}})
    for reference, message in (
        ("step_0.id", "'step_0.id' names a step that has no output"),
        ("step_0.0.id", "'step_0.0.id' names a step that has no output"),
    ):
        result = await world.run(nothing, delete("p", {"id": ref(reference)}))
        assert (statuses(result), world.rows("p")) == ("uf", {1: {"n": 1}})
        assert message in result.error


async def test_what_is_only_known_then_fails_the_step_before_its_store_is_asked(world):
    await world.fill("a", {"id": 1, "n": "x"}, {"id": 2})
    for step, message in (
        (insert("p", {"id": ref("step_0.2.id")}), "'step_0.2.id' names record 2 of a step that has 2"),
        (
            insert("p", {"id": ref("step_0.*.n")}),
            "'step_0.*.n' names a field that is not in the step's output",
        ),
        (update("p", {"n": {"$gt": 0, "$in": ref("step_0.0.n")}}, {"n": 1}), "$in takes a list, not 'x'"),
        (update("p", 1, {"n": {"$inc": ref("step_0.0.n")}}), "$increment takes a number, not 'x'"),
        (update("p", {"n": {"$regex": ref("step_0.0.id")}}, {"n": 1}), "$regex takes text, not 1"),
    ):
        world.faults.calls.clear()
        result = await world.run(update("a", {"id": {"$gt": 0}}, {"m": 1}), step)
        assert message in result.error, result.error
        assert result.error.startswith("step_1 (p, things")
        assert "p.execute" not in world.faults.calls
        assert world.rows("a") == {1: {"n": "x"}, 2: {}}


async def test_operands_of_updates_and_upserts(world):
    await world.fill("p", {"id": 1, "n": 1, "tags": ["a"]})
    result = await world.run(
        insert("a", {"id": 1, "by": 4, "tag": "b", "name": "Ann"}),
        update("p", 1, {"n": {"$inc": ref("step_0.by")}, "$push": {"tags": ref("step_0.tag")}}),
        upsert("p", [{"id": ref("step_0.id"), "name": ref("step_0.name")}, {"id": 2, "n": ref("step_1.n")}]),
    )
    assert result.ok, result.error
    assert world.rows("p") == {1: {"n": 5, "tags": ["a", "b"], "name": "Ann"}, 2: {"n": 5}}


async def test_a_deleted_record_is_what_it_was_before(world):
    await world.fill("a", {"id": 1, "n": 7, "of": NESTED})
    result = await world.run(
        delete("a", 1), insert("p", {"id": 1, "n": ref("step_0.n"), "of": ref("step_0.of")})
    )
    assert result.ok, result.error
    assert world.rows("p") == {1: {"n": 7, "of": NESTED}}


@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_a_step_that_was_let_off_has_no_output(world, pattern):
    await world.fill("a", {"id": 1})
    result = await world.run(
        insert("a", {"id": 1}, allow_fail=True),
        insert("p", {"id": 1, "x": ref("step_0.id")}),
        pattern=pattern,
    )
    assert statuses(result) == "ff"
    assert "the reference 'step_0.id' names a step that failed" in result.error
    assert "p.execute" not in world.faults.calls


async def test_ends_of_a_relationship(world):
    def node(step, **data):
        return {"operation": "insert", "from": {"tag": "graph", "entity": "User"}, "data": data, "name": step}

    def knows(**where):
        end = {"entity": "User", "where": {"id": {"$in": [ref("bob.id")]}}}
        data = {
            "start": {"entity": "User", "where": where},
            "end": end,
            "properties": {"by": ref("ann.name")},
        }
        return {"operation": "insert", "from": {"tag": "graph", "relationship": "KNOWS"}, "data": data}

    trick = {"$ne": None}
    nodes = [
        node("ann", id=1, name={"$literal": trick}),
        node("bob", id=2, name="Bob"),
    ]
    result = await world.run(*nodes, knows(name=ref("ann.name")))
    assert result.ok, result.error
    (related,) = result.step_results["step_2"].data
    assert (related["start"]["key"], related["end"]["key"]) == ({"id": 1}, {"id": 2})
    assert related["properties"] == {"by": trick}

    # What came from data, or is a literal, is never read as an operator: these match nothing.
    for name in (ref("evil.of"), {"$literal": trick}, {"$in": {"$literal": [trick]}}):
        result = await world.run(
            node("ann", id=3, name="Ann"),
            node("bob", id=4, name="Bob"),
            insert("p", {"id": 1, "of": {"$literal": trick}}, name="evil"),
            knows(id=3, name=name),
        )
        assert "0 nodes match" in result.error


async def test_data_that_looks_like_a_reference_or_an_operator_stays_data(world):
    data = {"$ref": "step_0.id"}
    await world.fill("p", {"id": 1, "n": {"$gt": ""}}, {"id": 2, "n": "x"})
    result = await world.run(
        insert("a", {"id": 1, "raw": {"$literal": data}, "op": {"$literal": {"$gt": ""}}}),
        insert("b", {"id": 1, "raw": ref("step_0.raw")}),
        update("p", {"n": ref("step_0.op")}, {"n": ref("step_0.raw")}),
    )
    assert result.ok, result.error
    assert world.rows("b") == {1: {"raw": data}}
    assert world.rows("p") == {1: {"n": data}, 2: {"n": "x"}}
