"""Update operators: parsing, its errors, and what every operator does."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from warehouse import conditions, updates
from warehouse.errors import InvalidOperation
from warehouse.records import Effect
from warehouse.updates import Assignment

NOW = datetime(2024, 5, 6, tzinfo=UTC)


def bound(data):
    return updates.bind(updates.parse(data), conditions.literal)


def applied(data, record):
    return updates.apply(bound(data), record, now=NOW)


class TestParse:
    def test_both_places(self):
        expected = (Assignment("a", "$increment", 1),)
        assert updates.parse({"a": {"$increment": 1}}) == expected
        assert updates.parse({"$increment": {"a": 1}}) == expected
        assert updates.parse({"a": {"$inc": 1}}) == expected
        assert bound({"$set": {"a": {"$literal": {"$gt": 1}}}}) == (Assignment("a", "$set", {"$gt": 1}),)

    def test_bare_values(self):
        assert updates.parse({"a": 1, "b": {"c": 2}, "d": {"$ref": "s.id"}}) == (
            Assignment("a", "$set", 1),
            Assignment("b", "$set", {"c": 2}),
            Assignment("d", "$set", {"$ref": "s.id"}),
        )
        assert bound({"a": {"$literal": {"$inc": 1}}}) == (Assignment("a", "$set", {"$inc": 1}),)

    def test_decrement_is_bound_to_increment(self):
        assert bound({"a": {"$dec": 2}}) == (Assignment("a", "$increment", -2),)

    @pytest.mark.parametrize(
        ("data", "field", "text"),
        [
            ({}, None, "non-empty"),
            ([1], None, "mapping"),
            ({"a": {"$incr": 1}}, "a", "$incr"),
            ({"$incr": {"a": 1}}, "$incr", "$inc"),
            ({"$set": 1}, "$set", "mapping"),
            ({"$set": {"$a": 1}}, "$set", "is an operator"),
            ({"a": {"$set": 1, "$max": 2}}, "a", "one update operator"),
            ({"a": {"$increment": "1"}}, "a", "number"),
            ({"a": {"$increment": True}}, "a", "number"),
            ({"a": {"$unset": False}}, "a", "takes true"),
            ({"a": 1, "$set": {"a": 2}}, "a", "writes too"),
            ({"a": 1, "a.b": 2}, "a.b", "writes too"),
            ({1: 2}, None, "no field"),
        ],
    )
    def test_mistakes_name_the_field(self, data, field, text):
        with pytest.raises(InvalidOperation) as caught:
            updates.parse(data)
        assert caught.value.field == field
        assert text in str(caught.value)

    def test_bind_checks_again(self):
        with pytest.raises(InvalidOperation):
            updates.bind(updates.parse({"a": {"$increment": {"$ref": "s.n"}}}), lambda _: "x")


class TestApply:
    @pytest.mark.parametrize(
        ("data", "before", "after"),
        [
            ({"a": None}, {"a": 1}, {"a": None}),
            ({"a.b.c": 1}, {}, {"a": {"b": {"c": 1}}}),
            ({"a.1": "x"}, {"a": [1, 2]}, {"a": [1, "x"]}),
            ({"a": {"$unset": True}}, {"a": 1, "b": 2}, {"b": 2}),
            ({"a.b": {"$unset": True}}, {"a": {"b": 1}}, {"a": {}}),
            ({"a.b": {"$unset": True}}, {}, {}),
            ({"a.b": {"$unset": True}}, {"a": 5}, {"a": 5}),
            ({"a": {"$increment": 2}}, {"a": 1}, {"a": 3}),
            ({"a": {"$increment": 2}}, {"a": None}, {"a": 2}),
            ({"a": {"$increment": 0.1}}, {"a": Decimal("1.2")}, {"a": Decimal("1.3")}),
            ({"a": {"$increment": Decimal("0.5")}}, {"a": 1.0}, {"a": 1.5}),
            ({"a": {"$multiply": 3}}, {"a": 2}, {"a": 6}),
            ({"a": {"$multiply": 3}}, {}, {"a": 0}),
            ({"a": {"$min": 1}}, {"a": 2}, {"a": 1}),
            ({"a": {"$min": 3}}, {"a": 2}, {"a": 2}),
            ({"a": {"$max": 3}}, {"a": 2}, {"a": 3}),
            ({"a": {"$max": 3}}, {"a": None}, {"a": 3}),
            ({"a": {"$push": 1}}, {}, {"a": [1]}),
            ({"a": {"$push": [1]}}, {"a": [0]}, {"a": [0, [1]]}),
            ({"a": {"$pull": 1}}, {"a": [1, 2, 1.0]}, {"a": [2]}),
            ({"a": {"$pull": 1}}, {"a": None}, {"a": None}),
            ({"a": {"$pull": 1}}, {}, {}),
            ({"a": {"$addToSet": 1}}, {"a": [1.0]}, {"a": [1.0]}),
            ({"a": {"$addToSet": 1}}, {"a": [2]}, {"a": [2, 1]}),
            ({"a": {"$currentDate": True}}, {}, {"a": NOW}),
        ],
    )
    def test_operators(self, data, before, after):
        kept = repr(before)
        assert applied(data, before) == after
        assert repr(before) == kept

    @pytest.mark.parametrize(
        ("data", "record"),
        [
            ({"a": {"$increment": 1}}, {"a": "x"}),
            ({"a": {"$increment": 1}}, {"a": True}),
            ({"a": {"$push": 1}}, {"a": "x"}),
            ({"a": {"$min": 1}}, {"a": "x"}),
            ({"a.b": 1}, {"a": 5}),
            ({"a.9": 1}, {"a": [1]}),
        ],
    )
    def test_what_does_not_fit_names_the_field(self, data, record):
        with pytest.raises(TypeError, match="field 'a"):
            applied(data, record)

    def test_effects(self):
        items = bound({"a": {"$dec": 2}, "b": {"$push": 1}, "c": 1, "d": {"$multiply": 2}})
        assert updates.effects(items) == {"a": Effect("$increment", -2), "b": Effect("$push", 1)}
