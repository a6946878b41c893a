"""Random records and conditions (Hypothesis), within what a store can hold and do."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from hypothesis import strategies as st

from warehouse.conditions import And, Compare, Condition, Not, Or

Strategy = st.SearchStrategy[Any]

# Among them what folds to ASCII (the Kelvin sign, the long s), and a character beyond the BMP with one that only
# UTF-16 orders after it.
_TEXT: Final = st.text(
    st.sampled_from("aAbBkKz%_\\.*[]()$^?'\" \n\t\u00e9\u00c9\u00df\u212a\u017f\uff5e\U0001f6000"), max_size=5
)
_NAMES: Final = st.none() | _TEXT
_COUNTS: Final = (
    st.none() | st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, -(2**63), 2**63 - 1])
)
_RATIOS: Final = (
    st.none()
    | st.integers(-8, 8).map(lambda number: number / 4)
    | st.sampled_from([1e10, -0.0, 2.0**53, 2.0**63, -1e300, 5e-324])
)
_NUMBERS: Final = _COUNTS | _RATIOS
_DOUBLES: Final = _RATIOS | st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
_FLAGS: Final = st.none() | st.booleans()
_PATTERNS: Final = ("a", "^a", "b$", "[aA]+", "a|b", "^(a|B)*$", r"\.", "a.b", "^.?$", "(aA){1,2}")
_LISTS: Final = st.none() | st.lists(_TEXT, max_size=3)
_DEEP: Final = st.none() | st.fixed_dictionaries({}, optional={"tags": _LISTS, "on": _FLAGS})
_DETAILS: Final = st.fixed_dictionaries(
    {}, optional={"city": _NAMES | _COUNTS, "level": _NUMBERS, "deep": _DEEP}
)
_VALUES: Final[dict[str, Strategy]] = {
    "name": _NAMES,
    "count": _COUNTS,
    "ratio": _RATIOS,
    "active": _FLAGS,
    "tags": _LISTS,
    "details": st.none() | _DETAILS,
}
_EQUAL, _ORDERED, _AMONG = ("$eq", "$ne"), ("$gt", "$gte", "$lt", "$lte"), ("$in", "$nin")
# Which operators on which field take which values.
_CASES: Final[tuple[tuple[str, tuple[str, ...], Strategy], ...]] = (
    ("name", _EQUAL + _ORDERED, _NAMES),
    ("count", _EQUAL + _ORDERED, _NUMBERS),
    ("ratio", _EQUAL + _ORDERED, _DOUBLES),
    ("active", _EQUAL, _FLAGS),
    ("tags", _EQUAL, st.lists(_TEXT, max_size=2)),
    ("name", _AMONG, st.lists(_NAMES, max_size=3)),
    ("count", _AMONG, st.lists(_NUMBERS, max_size=3)),
    ("ratio", _AMONG, st.lists(_DOUBLES, max_size=3)),
    *((path, ("$exists", "$null"), st.booleans()) for path in _VALUES),
    ("name", ("$like", "$ilike", "$startsWith", "$endsWith", "$contains"), _TEXT),
    ("name", ("$regex",), st.sampled_from(_PATTERNS)),
    ("tags", ("$contains",), _TEXT),
    ("tags", ("$containsAll", "$containsAny"), st.lists(_TEXT, max_size=2)),
    ("details.city", _EQUAL + _ORDERED, _NAMES | _COUNTS),
    ("details.level", _EQUAL + _ORDERED, _NUMBERS),
    ("details.deep.on", _EQUAL, _FLAGS),
    ("details.city", _AMONG, st.lists(_NAMES | _COUNTS, max_size=3)),
    ("details.level", _AMONG, st.lists(_NUMBERS, max_size=3)),
    *(
        (f"details.{path}", ("$exists", "$null"), st.booleans())
        for path in ("city", "level", "deep", "deep.on", "deep.tags")
    ),
    ("details.city", ("$like", "$ilike", "$startsWith", "$endsWith", "$contains"), _TEXT),
    ("details.city", ("$regex",), st.sampled_from(_PATTERNS)),
    ("details.deep.tags", ("$contains",), _TEXT),
    ("details.deep.tags", ("$containsAll", "$containsAny"), st.lists(_TEXT, max_size=2)),
)


@cache
def records(fields: frozenset[str]) -> Strategy:
    """Lists of records, each with some of `fields`."""
    optional = {path: values for path, values in _VALUES.items() if path in fields}
    return st.lists(st.fixed_dictionaries({}, optional=optional), min_size=1, max_size=8)


@cache
def conditions(fields: frozenset[str], operators: frozenset[str]) -> st.SearchStrategy[Condition]:
    """Conditions on `fields` by `operators`."""
    comparisons = [
        st.builds(Compare, st.just(path), st.sampled_from(usable), values)
        for path, names, values in _CASES
        if path.partition(".")[0] in fields and (usable := [name for name in names if name in operators])
    ]
    return st.recursive(
        st.one_of(comparisons),
        lambda inner: (
            st.builds(Not, inner)
            | st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple))
            | st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple))
        ),
        max_leaves=4,
    )
