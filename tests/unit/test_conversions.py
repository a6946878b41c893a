"""What an entity's configuration converts, and how a store refuses what it cannot hold."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

import pytest

from integration.memory_world import World, insert, update, upsert
from warehouse import ConfigError, InvalidOperation, Warehouse, ref
from warehouse.conditions import parse
from warehouse.conversions import (
    convert,
    convert_assignment,
    convert_condition,
    convert_record,
    refusal,
    short,
)
from warehouse.updates import Assignment

ONE = UUID(int=1)


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        ("text", Decimal("1.50"), "1.50"),
        ("text", 2**70, str(2**70)),
        ("text", 0.1, "0.1"),
        ("text", True, "true"),
        ("text", ONE, str(ONE)),
        ("text", date(2026, 1, 2), "2026-01-02"),
        ("text", time(3, 4), "03:04:00"),
        ("text", datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
        ("text", "as it is", "as it is"),
        ("text", None, None),
        ("text", [Decimal("1.0"), None, [2]], ["1.0", None, ["2"]]),
        ("float", Decimal("0.1"), 0.1),
        ("float", 2**53 + 1, float(2**53)),
        ("float", Decimal("-Infinity"), float("-inf")),
        ("float", 1.5, 1.5),
        ("float", (1, Decimal(2)), [1.0, 2.0]),
        ("int", Decimal("3.00"), 3),
        ("int", 2.0, 2),
        ("int", True, 1),
        ("int", None, None),
    ],
)
def test_conversions(kind, value, made):
    found = convert("price", value, kind)
    assert found == made
    assert type(found) is type(made)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", {"a": 1}),
        ("text", b"x"),
        ("text", [1, {}]),
        ("float", "1.5"),
        ("float", 10**400),
        ("float", Decimal("1e400")),
        ("float", Decimal("sNaN")),
        ("int", 1.5),
        ("int", Decimal("NaN")),
        ("int", float("inf")),
        ("int", "1"),
    ],
)
def test_what_cannot_be_converted(kind, value):
    with pytest.raises(InvalidOperation, match=f"cannot be converted to {kind}") as caught:
        convert("price", value, kind)
    assert caught.value.field == "price"


def test_records_are_converted_where_it_is_configured():
    configured = {"price": "text", "details.level": "float", "items.cost": "int", "items.0.name": "text"}
    record = {
        "price": Decimal("9.90"),
        "other": Decimal(1),
        "details": {"level": 3, "price": Decimal(1)},
        "items": [{"cost": 2.0, "name": 5}, {"cost": Decimal(3), "name": 5}, {}, 7],
    }
    assert convert_record(record, configured) == {
        "price": "9.90",
        "other": Decimal(1),
        "details": {"level": 3.0, "price": Decimal(1)},
        "items": [{"cost": 2, "name": "5"}, {"cost": 3, "name": 5}, {}, 7],
    }
    assert record["details"] == {"level": 3, "price": Decimal(1)}
    assert convert_record({"details": None, "items": 4}, configured) == {"details": None, "items": 4}


@pytest.mark.parametrize(
    ("path", "operator", "value", "made"),
    [
        ("price", "$set", Decimal("1.0"), "1.0"),
        ("price", "$push", Decimal(1), "1"),
        ("price", "$pull", Decimal(1), "1"),
        ("price", "$addToSet", Decimal(1), "1"),
        ("price", "$min", "1", "1"),
        ("price", "$unset", True, True),
        ("price.0", "$set", 1, "1"),
        ("details", "$set", {"level": 1}, {"level": 1.0}),
        ("details.level", "$increment", Decimal("0.5"), 0.5),
        ("details.level", "$max", 2, 2.0),
        ("count", "$multiply", 2.0, 2),
        ("free", "$set", Decimal(1), Decimal(1)),
    ],
)
def test_operands_of_updates(path, operator, value, made):
    configured = {"price": "text", "details.level": "float", "count": "int"}
    found = convert_assignment(Assignment(path, operator, value), configured)
    assert found == Assignment(path, operator, made)
    assert type(found.value) is type(made)


@pytest.mark.parametrize(
    ("path", "operator", "value", "message"),
    [
        ("price", "$increment", 1, r"\$increment cannot be used on a field that is kept as text"),
        ("price", "$multiply", 1, r"\$multiply cannot be used on a field that is kept as text"),
        ("price", "$max", 1, r"\$max of 1 cannot be used on a field that is kept as text"),
        ("price", "$currentDate", True, r"\$currentDate cannot be kept as text"),
        ("count", "$increment", 0.5, "0.5 cannot be converted to int"),
    ],
)
def test_updates_that_the_kept_value_cannot_take(path, operator, value, message):
    with pytest.raises(InvalidOperation, match=message) as caught:
        convert_assignment(Assignment(path, operator, value), {"price": "text", "count": "int"})
    assert caught.value.field == path


def test_operands_of_conditions():
    configured = {"price": "text", "count": "int", "details.level": "float"}

    def converted(where):
        return convert_condition(parse(where), configured)

    for where, made in [
        ({"price": Decimal("1.0")}, {"price": "1.0"}),
        ({"price": {"$in": [Decimal(1), None]}}, {"price": {"$in": ["1", None]}}),
        ({"price": {"$nin": {Decimal(1)}}}, {"price": {"$nin": ["1"]}}),
        ({"price": {"$gt": "1"}}, {"price": {"$gt": "1"}}),
        ({"price": {"$like": "1%"}}, {"price": {"$like": "1%"}}),
        ({"price": {"$exists": True}}, {"price": {"$exists": True}}),
        (
            {"$or": [{"$not": {"price": 1}}, {"a": 1, "b": 2}]},
            {"$or": [{"$not": {"price": "1"}}, {"a": 1, "b": 2}]},
        ),
        ({"count": {"$gt": 1.5}}, {"count": {"$gt": 1.5}}),
        ({"count": {"$gt": float("inf")}}, {"count": {"$gt": float("inf")}}),
        ({"count": {"$in": [Decimal(2), 1.5]}}, {"count": {"$in": [2, 1.5]}}),
        ({"details.level": 1}, {"details.level": 1.0}),
        ({"details": {"$eq": {"level": 1}}}, {"details": {"$eq": {"level": 1.0}}}),
    ]:
        assert repr(converted(where)) == repr(parse(made))
    with pytest.raises(InvalidOperation, match="kept as text, which orders otherwise") as caught:
        converted({"price": {"$gte": Decimal(9)}})
    assert caught.value.field == "price"


def test_how_a_store_refuses_a_value():
    error = refusal("MongoDB", "price", Decimal("1" * 40), "it holds 34 digits", "text", "float")
    assert str(error.locate(step="step_0", tag="shop", entity="orders")) == (
        "step_0 (shop, orders.price): MongoDB cannot hold Decimal('1111111111111111111111111111111111111111'): "
        'it holds 34 digits - set convert = {price = "text" or "float"} in the configuration of the entity'
    )
    assert refusal("Qdrant", "a.b", 1, "no", "text").hint == (
        'set convert = {"a.b" = "text"} in the configuration of the entity'
    )
    assert refusal("Qdrant", "a", 1, "no").hint is None
    assert short("x" * 5000) == f"'{'x' * 39}... (5002 characters)"


CONFIG = {
    tag: {
        "adapter": "memory",
        "transactions": tag == "a",
        "entities": {"things": {"convert": {"price": "text", "count": "int", "details.level": "float"}}},
    }
    for tag in ("a", "p")
}


@pytest.mark.anyio
@pytest.mark.parametrize("tag", ["a", "p"])
async def test_the_engine_converts_before_the_store_is_asked(tag, anyio_backend):
    async with World(CONFIG) as world:
        record = {"id": 1, "price": Decimal("1.50"), "count": 2.0, "details": {"level": 1}}
        result = await world.run(
            insert(tag, record),
            update(tag, {"price": Decimal("1.50")}, {"count": {"$inc": Decimal(1)}, "details.level": 4}),
            upsert(tag, {"id": 2, "price": ref("step_0.details.level"), "count": True}),
            upsert(tag, {"id": 2, "price": 7}),
        )
        assert result.ok, result.error
        assert repr(world.rows(tag)) == repr(
            {1: {"price": "1.50", "count": 3, "details": {"level": 4.0}}, 2: {"price": "7", "count": 1}}
        )
        source = {"tag": tag, "entity": "things"}
        found = await world.warehouse.find(source, where={"price": 7})
        assert [row["id"] for row in found] == [2]
        with pytest.raises(InvalidOperation) as caught:
            await world.run(insert(tag, {"id": 3, "count": 1.5}))
        assert str(caught.value) == f"step_0 ({tag}, things.count): 1.5 cannot be converted to int"


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_a_wrong_name_in_the_configuration():
    stores = {"a": {"adapter": "memory", "entities": {"things": {"convert": {"price": "txt"}}}}}
    with pytest.raises(ConfigError) as caught:
        Warehouse(adapters=stores, journal={"url": "memory://"})
    assert str(caught.value) == (
        "adapters.a.entities.things.convert.price: Input should be 'text', 'float' or 'int'"
        " - did you mean 'text'?"
    )
