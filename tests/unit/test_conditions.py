"""The condition language: parsing, its errors, and what every operator means."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse import conditions, patterns
from warehouse.conditions import EVERYTHING, And, Compare, Not, Or
from warehouse.errors import InvalidOperation
from warehouse.testing.samples import COMBINED, CONDITIONS, ROWS


def found(where, rows=ROWS):
    condition = conditions.bind(conditions.parse(where), conditions.literal)
    return [row["id"] for row in rows if conditions.evaluate(condition, row)]


class TestParse:
    def test_nothing_is_everything(self):
        assert conditions.parse(None) == EVERYTHING
        assert conditions.parse({}) == EVERYTHING

    def test_a_bare_value_is_equality(self):
        assert conditions.parse({"a": 1}) == Compare("a", "$eq", 1)
        assert conditions.parse({"a": {"b": 1}}) == Compare("a", "$eq", {"b": 1})
        assert conditions.parse({"a": {"$ref": "s.id"}}) == Compare("a", "$eq", {"$ref": "s.id"})

    def test_combinations(self):
        assert conditions.parse({"a": 1, "b": {"$gt": 1, "$lt": 3}}) == And(
            (Compare("a", "$eq", 1), And((Compare("b", "$gt", 1), Compare("b", "$lt", 3))))
        )
        assert conditions.parse({"$or": [{"a": 1}, {"$not": {"b": 2}}]}) == Or(
            (Compare("a", "$eq", 1), Not(Compare("b", "$eq", 2)))
        )
        assert conditions.parse({"a": {"$not": {"$gt": 1}}}) == Not(Compare("a", "$gt", 1))

    def test_literal_escapes(self):
        condition = conditions.bind(conditions.parse({"a": {"$literal": {"$gt": 1}}}), conditions.literal)
        assert condition == Compare("a", "$eq", {"$gt": 1})
        assert conditions.literal([{"$literal": {"$literal": 1}}, {"x": {"$literal": 2}}]) == [
            {"$literal": 1},
            {"x": 2},
        ]

    @pytest.mark.parametrize(
        ("where", "field", "text"),
        [
            ({"a": {"$gtt": 1}}, "a", "$gt"),
            ({"$nor": [{}]}, "$nor", "$or"),
            ({"$or": []}, "$or", "non-empty"),
            ({"$and": {"a": 1}}, "$and", "list"),
            ({"a": {"$in": "abc"}}, "a", "takes a list"),
            ({"a": {"$like": 1}}, "a", "takes text"),
            ({"a": {"$null": 1}}, "a", "true or false"),
            ({"a": {"$gt": 1, "b": 2}}, "a", "mixed"),
            ({"": 1}, None, "no field"),
            ([("a", 1)], None, "mapping"),
        ],
    )
    def test_mistakes_name_the_field(self, where, field, text):
        with pytest.raises(InvalidOperation) as caught:
            conditions.parse(where)
        assert caught.value.field == field
        assert text in str(caught.value)

    def test_bind_checks_again(self):
        condition = conditions.parse({"a": {"$in": {"$ref": "s.ids"}}})
        assert conditions.bind(condition, lambda _: [1]) == Compare("a", "$in", [1])
        with pytest.raises(InvalidOperation):
            conditions.bind(condition, lambda _: 1)

    def test_paths(self):
        assert conditions.paths(conditions.parse({"a": 1, "$or": [{"b.c": 1}, {"a": 2}]})) == {"a", "b.c"}


class TestRegex:
    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            "a.b*c+d?",
            "^(a|b){2,3}$",
            "[a-z]",
            "[^]a]",
            r"\.\[\]\*\+\?\{\}\|\(\)\^\$\\\/",
            r"[\]\-]",
            "a{2}",
            "a{2,}",
        ],
    )
    def test_shared(self, pattern):
        patterns.check_regex("a", pattern)

    @pytest.mark.parametrize(
        "pattern",
        [
            r"\d",
            r"\bx",
            r"[\d]",
            "(?i)a",
            "(?:a)",
            "a*?",
            "a++",
            "a{2}?",
            "a{",
            "a{,3}",
            "a{x}",
            "[[:alpha:]]",
            "[a&&b]",
            "[a--b]",
            "[",
            "(",
            "*",
            "^*",
            "a**",
            "a{2}{3}",
            r"\1(a)",
            "\\",
        ],
    )
    def test_refused(self, pattern):
        with pytest.raises(InvalidOperation) as caught:
            patterns.check_regex("a", pattern)
        assert caught.value.field == "a"

    @given(st.text(st.sampled_from("ab.[]*+?{}|()^$\\/-,12&~:i=!"), max_size=12))
    def test_any_pattern_is_accepted_or_refused_cleanly(self, pattern):
        try:
            patterns.check_regex("a", pattern)
        except InvalidOperation:
            return
        conditions.evaluate(Compare("a", "$regex", pattern), {"a": "ab"})


class TestMeaning:
    @pytest.mark.parametrize(
        ("where", "ids"),
        [
            ({"name": None}, [4, 5]),
            ({"name": {"$ne": None}}, [1, 2, 3, 6, 7, 8]),
            ({"name": {"$ne": "Ann"}}, [2, 3, 4, 5, 6, 7, 8]),
            ({"count": {"$gt": None}}, []),
            ({"count": {"$lt": "1"}}, []),
            ({"count": {"$lte": 1.5}}, [1, 3, 6]),
            ({"count": {"$eq": True}}, []),
            ({"active": 1}, []),
            ({"count": 2**53 + 0.0}, []),
            ({"count": {"$in": [1, None]}}, [1, 4, 5]),
            ({"count": {"$nin": [1, None]}}, [2, 3, 6, 7, 8]),
            ({"count": {"$nin": [1]}}, [2, 3, 4, 5, 6, 7, 8]),
            ({"count": {"$in": []}}, []),
            ({"name": {"$like": "ann"}}, [2]),
            ({"name": {"$ilike": "aN_"}}, [1, 2]),
            ({"name": {"$ilike": "ä%"}}, []),
            ({"name": {"$like": "100\\%%"}}, [3]),
            ({"name": {"$startsWith": ""}}, [1, 2, 3, 6, 7, 8]),
            ({"name": {"$contains": "%"}}, [3]),
            ({"tags": {"$contains": "b"}}, [1, 2, 7]),
            ({"tags": {"$contains": "a"}}, [1]),
            ({"tags": {"$containsAll": []}}, [1, 2, 3, 6, 7, 8]),
            ({"tags": {"$containsAny": []}}, []),
            ({"tags": ["b"]}, [2]),
            ({"tags": {"$exists": True}}, [1, 2, 3, 6, 7, 8]),
            ({"name": {"$regex": "^[Aa]nn$"}}, [1, 2]),
            ({"tags": {"$like": "%"}}, []),
        ],
        ids=str,
    )
    def test_fixed(self, where, ids):
        assert found(where) == ids

    @pytest.mark.parametrize(
        "where", [*(where for cases in CONDITIONS.values() for where in cases), *COMBINED], ids=str
    )
    def test_not_is_the_exact_complement(self, where):
        assert sorted(found(where) + found({"$not": where})) == [row["id"] for row in ROWS]

    def test_kinds_do_not_compare(self):
        rows = [
            {"id": 1, "at": datetime(2024, 1, 1, tzinfo=UTC)},
            {"id": 2, "at": datetime(2024, 1, 1)},
            {"id": 3, "at": date(2024, 1, 1)},
            {"id": 4, "at": Decimal("NaN")},
            {"id": 5, "at": Decimal(2)},
        ]
        assert found({"at": {"$gte": datetime(2000, 1, 1)}}, rows) == [2]
        assert found({"at": {"$gte": datetime(2000, 1, 1, tzinfo=UTC)}}, rows) == [1]
        assert found({"at": {"$gt": 1.5}}, rows) == [5]
        assert found({"at": 2}, rows) == [5]

    def test_paths_reach_inside(self):
        rows = [{"id": 1, "a": {"b": [{"c": 5}]}}, {"id": 2, "a": 3}, {"id": 3}]
        assert found({"a.b.0.c": {"$gte": 5}}, rows) == [1]
        assert found({"a.b": None}, rows) == [2, 3]
        assert found({"a": {"b": [{"c": 5.0}]}}, rows) == [1]

    def test_sorting(self):
        def ids(*order):
            return [row["id"] for row in conditions.sort_records(list(ROWS), order)]

        assert ids("count", "-id") == [5, 4, 6, 3, 1, 8, 2, 7]
        assert ids("-count", "id") == [4, 5, 7, 2, 8, 1, 3, 6]
        assert ids() == [1, 2, 3, 4, 5, 6, 7, 8]
        mixed = [{"a": "x"}, {"a": 1}, {"a": [2]}, {"a": "b"}, {"a": 0.5}, {"a": None}]
        values = [record["a"] for record in conditions.sort_records(mixed, ["a"])]
        assert values in ([None, "b", "x", 0.5, 1, [2]], [None, 0.5, 1, "b", "x", [2]])


def holds(found, operator, operand):
    return conditions.evaluate(Compare("a", operator, operand), {"a": found})


class Grade(StrEnum):
    FIRST = "first"


class TestKinds:
    """What is decided where languages differ (see the docstring of `warehouse.conditions`)."""

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (1, 1.0),
            (1, Decimal("1.00")),
            (0.5, Decimal("0.5")),
            (0.0, -0.0),
            (float("nan"), float("nan")),
            (Decimal("NaN"), float("nan")),
            (Decimal("Infinity"), float("inf")),
            ("first", Grade.FIRST),
            ([1, None], (1.0, None)),
            ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}),
            (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 1, 1, tzinfo=UTC)),
            (None, None),
        ],
    )
    def test_equal(self, left, right):
        for one, other in ((left, right), (right, left)):
            assert holds(one, "$eq", other)
            assert holds(one, "$in", [other])
            assert not holds(one, "$ne", other)
            assert not holds(one, "$nin", [other])
            assert holds([one], "$contains", other)

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (True, 1),
            (False, 0),
            (False, None),
            ("1", 1),
            ("", None),
            (b"a", "a"),
            (Decimal("0.1"), 0.1),
            (2**53 + 1, 2.0**53),
            (date(2026, 1, 1), datetime(2026, 1, 1)),
            (datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),
            ([], None),
            ([], {}),
            (["a"], "a"),
            ({"a": None}, {}),
            (float("nan"), 0.0),
            (UUID(int=1), str(UUID(int=1))),
            ("A", "a"),
        ],
    )
    def test_not_equal(self, left, right):
        for one, other in ((left, right), (right, left)):
            assert not holds(one, "$eq", other)
            assert holds(one, "$ne", other)
            assert not holds(one, "$in", [other])
            assert holds(one, "$nin", [other])

    @pytest.mark.parametrize(
        ("less", "more"),
        [
            (2.0**53, 2**53 + 1),
            (Decimal("0.1"), 0.1),
            (-1, Decimal("-0.5")),
            (False, True),
            ("Z", "a"),
            ("a", "aa"),
            ("\uff5e", "\U0001f600"),
            (b"a", b"b"),
            (float("-inf"), -(10**400)),
            (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 1, 1, tzinfo=UTC)),
        ],
    )
    def test_order(self, less, more):
        assert holds(less, "$lt", more)
        assert holds(less, "$lte", more)
        assert holds(more, "$gt", less)
        assert holds(more, "$gte", less)
        assert not holds(more, "$lt", less)
        assert not holds(less, "$gte", more)

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (None, None),
            (None, 1),
            (True, 0),
            ("1", 0),
            (float("nan"), float("nan")),
            (float("nan"), 1.0),
            (Decimal("NaN"), Decimal(1)),
            (Decimal("sNaN"), Decimal(1)),
            (date(2026, 1, 1), datetime(2027, 1, 1)),
            (datetime(2026, 1, 1), datetime(2027, 1, 1, tzinfo=UTC)),
            ({"a": 1}, {"a": 2}),
            (UUID(int=1), "0"),
        ],
    )
    def test_no_order(self, left, right):
        for operator in ("$gt", "$gte", "$lt", "$lte"):
            assert not holds(left, operator, right)
            assert not holds(right, operator, left)

    def test_parts(self):
        assert holds("abc", "$containsAll", ["a", "c"])
        assert holds("", "$containsAll", [])
        assert holds([], "$containsAll", [])
        for nothing in (None, 5, {"a": 1}, True):
            assert not holds(nothing, "$containsAll", [])
            assert not holds(nothing, "$contains", None)
        assert not holds([], "$containsAny", [])

    @pytest.mark.parametrize(
        ("pattern", "text", "matches"),
        [
            ("^a.b$", "a\nb", True),
            ("b$", "b\n", False),
            ("^b", "a\nb", False),
            ("[$]$", "$", True),
            (r"\$$", "$", True),
            ("[^a]", "\n", True),
            ("a|b$", "ba", True),
            ("", "", True),
        ],
    )
    def test_lines_are_nothing_special_in_a_regex(self, pattern, text, matches):
        patterns.check_regex("a", pattern)
        assert holds(text, "$regex", pattern) is matches
