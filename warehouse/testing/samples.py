"""The data that the contract is tried on: records with and without nulls, and cases for every operator."""

from __future__ import annotations

from typing import Any, Final

ROWS: Final[tuple[dict[str, Any], ...]] = (
    {
        "id": 1,
        "name": "Ann",
        "count": 1,
        "ratio": 0.5,
        "active": True,
        "tags": ["a", "b"],
        "email": "ann@example.org",
    },
    {"id": 2, "name": "ann", "count": 2, "ratio": -1.25, "active": False, "tags": ["b"]},
    {"id": 3, "name": "100%_\\", "count": 0, "ratio": 0.0, "active": True, "tags": [], "email": "c@x"},
    {"id": 4, "name": None, "count": None, "ratio": None, "active": None, "tags": None, "email": None},
    {"id": 5},
    {"id": 6, "name": "", "count": -7, "ratio": 2.5, "active": False, "tags": ["A", "ab"]},
    {"id": 7, "name": "Änne.Ünn", "count": 2**53 + 1, "ratio": 1e10, "tags": ["ä", "b", "b"]},
    {"id": 8, "name": "a.c*[x] $5", "count": 2, "ratio": 2.0, "active": True, "tags": ["x'y\"z"]},
)

CONDITIONS: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "$eq": (
        {"name": "Ann"},
        {"name": ""},
        {"name": "x' OR '1'='1"},
        {"name": {"$eq": None}},
        {"count": 2},
        {"count": {"$eq": 1.0}},
        {"count": 2**53 + 1},
        {"ratio": 2},
        {"ratio": -1.25},
        {"active": True},
        {"active": False},
        {"active": None},
        {"tags": ["b"]},
        {"tags": []},
        {"id": 7},
    ),
    "$ne": (
        {"name": {"$ne": "Ann"}},
        {"count": {"$ne": 2}},
        {"active": {"$ne": True}},
        {"name": {"$ne": None}},
    ),
    "$gt": ({"count": {"$gt": 1}}, {"ratio": {"$gt": 0}}, {"name": {"$gt": "a"}}, {"count": {"$gt": 0.5}}),
    "$gte": (
        {"count": {"$gte": 2}},
        {"ratio": {"$gte": 2.0}},
        {"name": {"$gte": "Ann"}},
        {"id": {"$gte": 7}},
    ),
    "$lt": (
        {"count": {"$lt": 2}},
        {"ratio": {"$lt": 0.5}},
        {"name": {"$lt": "a"}},
        {"count": {"$lt": 2**53 + 1}},
    ),
    "$lte": ({"count": {"$lte": 0}}, {"ratio": {"$lte": -1.25}}, {"name": {"$lte": ""}}),
    "$in": (
        {"name": {"$in": ["Ann", "ann", "nobody"]}},
        {"count": {"$in": [2, None]}},
        {"count": {"$in": []}},
        {"id": {"$in": [1, 4, 99]}},
        {"ratio": {"$in": [2, 2.5]}},
    ),
    "$nin": (
        {"name": {"$nin": ["Ann", ""]}},
        {"count": {"$nin": [2, None]}},
        {"count": {"$nin": []}},
        {"id": {"$nin": [1, 2]}},
    ),
    "$like": (
        {"name": {"$like": "%nn%"}},
        {"name": {"$like": "A__"}},
        {"name": {"$like": "100\\%\\_\\\\"}},
        {"name": {"$like": "a.c*[%"}},
        {"name": {"$like": ""}},
    ),
    "$ilike": ({"name": {"$ilike": "ANN"}}, {"name": {"$ilike": "%ÜNN"}}, {"name": {"$ilike": "%ünn"}}),
    "$startsWith": (
        {"name": {"$startsWith": "An"}},
        {"name": {"$startsWith": "100%_"}},
        {"name": {"$startsWith": ""}},
        {"name": {"$startsWith": "a.c*["}},
    ),
    "$endsWith": (
        {"name": {"$endsWith": "nn"}},
        {"name": {"$endsWith": "_\\"}},
        {"name": {"$endsWith": ""}},
        {"name": {"$endsWith": "$5"}},
    ),
    "$contains": (
        {"name": {"$contains": "nn"}},
        {"name": {"$contains": "%"}},
        {"name": {"$contains": "*[x]"}},
        {"tags": {"$contains": "b"}},
        {"tags": {"$contains": "A"}},
        {"tags": {"$contains": "x'y\"z"}},
    ),
    "$containsAll": (
        {"tags": {"$containsAll": ["a", "b"]}},
        {"tags": {"$containsAll": ["b"]}},
        {"tags": {"$containsAll": []}},
    ),
    "$containsAny": (
        {"tags": {"$containsAny": ["a", "A"]}},
        {"tags": {"$containsAny": ["nobody"]}},
        {"tags": {"$containsAny": []}},
    ),
    "$exists": ({"name": {"$exists": True}}, {"count": {"$exists": False}}, {"tags": {"$exists": True}}),
    "$null": ({"name": {"$null": True}}, {"count": {"$null": False}}, {"tags": {"$null": True}}),
    "$regex": (
        {"name": {"$regex": "nn"}},
        {"name": {"$regex": "^[Aa]n+$"}},
        {"name": {"$regex": "^.{3}$"}},
        {"name": {"$regex": r"a\.c\*\[(x|y)\]"}},
        {"name": {"$regex": "^$"}},
    ),
}

COMBINED: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"name": "Ann", "count": 1},
    {"count": {"$gte": 0, "$lt": 2}},
    {"$or": [{"count": 2}, {"active": {"$ne": True}}]},
    {"$and": [{"$or": [{"id": 1}, {"id": 2}]}, {"$not": {"name": "Ann"}}]},
    {"$not": {"$or": [{"count": None}, {"ratio": {"$lt": 1}}]}},
    {"name": {"$not": {"$in": ["Ann", "ann"]}}},
)

UPDATES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "$set": (
        {"name": "new", "count": 5},
        {"name": None},
        {"ratio": -0.125, "active": False},
        {"tags": ["x", "y"]},
        {"tags": []},
        {"count": -(2**53) - 1},
    ),
    "$unset": ({"name": {"$unset": True}}, {"count": {"$unset": True}, "tags": {"$unset": True}}),
    "$increment": (
        {"count": {"$increment": 3}},
        {"count": {"$increment": -3}, "ratio": {"$increment": 0.25}},
    ),
    "$decrement": ({"count": {"$decrement": 3}}, {"ratio": {"$decrement": 0.5}}),
    "$multiply": ({"count": {"$multiply": 3}}, {"ratio": {"$multiply": 0.5}}),
    "$min": ({"count": {"$min": 1}}, {"ratio": {"$min": 0.25}}),
    "$max": ({"count": {"$max": 1}}, {"ratio": {"$max": 0.25}}),
    "$push": ({"tags": {"$push": "z"}}, {"tags": {"$push": "b"}}),
    "$pull": ({"tags": {"$pull": "b"}}, {"tags": {"$pull": "nobody"}}),
    "$addToSet": ({"tags": {"$addToSet": "a"}}, {"tags": {"$addToSet": "b"}}),
    "$currentDate": ({"moment": {"$currentDate": True}},),
}
