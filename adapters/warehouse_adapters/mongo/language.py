"""Conditions, guards and images as MongoDB's filters and updates.

Conditions are narrowed: the filter matches at least what the condition does, and what it returns is evaluated
again by `warehouse.conditions`. MongoDB's own meanings differ (an array matches by its elements, null differs
from missing in paths, documents compare by the order of their fields), so a filter of its operators would
often be nearly right. Guards are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from bson import ObjectId

from warehouse.conditions import And, Compare, Condition, Or
from warehouse.errors import StoreError
from warehouse.records import ABSENT, Record, get
from warehouse.updates import Assignment
from warehouse_adapters.mongo.values import storable, type_code

Filter: TypeAlias = dict[str, Any]
EVERYTHING: Final[Filter] = {}
_NO_ARRAY: Final = {"$type": 4}
_SCALAR: Final = (bool, int, float, Decimal, str, bytes, datetime, UUID, ObjectId)
_INCLUSIVE: Final = {"$gt": "$gte", "$gte": "$gte", "$lt": "$lte", "$lte": "$lte"}
_SURROGATES: Final = "\ud800"  # below it, UTF-8, UTF-16 and code points sort alike


# Conditions


def narrow(condition: Condition) -> Filter:
    """A filter that matches every record that `condition` matches, and as few others as is cheap to say."""
    match condition:
        case And(parts):
            filters = [found for part in parts if (found := narrow(part))]
            return _joined("$and", filters)
        case Or(parts):
            filters = [narrow(part) for part in parts]
            return _joined("$or", filters) if all(filters) else EVERYTHING
        case Compare(path, operator, value):
            return _narrow_compare(path, operator, value) if _plain(path) else EVERYTHING
    return EVERYTHING


def _joined(operator: str, filters: list[Filter]) -> Filter:
    if not filters:
        return EVERYTHING
    return filters[0] if len(filters) == 1 else {operator: filters}


def _narrow_compare(path: str, operator: str, value: Any) -> Filter:
    match operator:
        case "$eq" if _known(path, value):
            return {path: {"$eq": value}}
        case "$in" if all(_known(path, item) for item in value):
            return {path: {"$in": list(value)}}
        case "$gt" | "$gte" | "$lt" | "$lte" if _sorted_alike(value):
            return {path: {_INCLUSIVE[operator]: value}}
        case "$startsWith" if value and _sorted_alike(value):
            return {path: {"$gte": value}}
        case "$exists" | "$null" if value is (operator == "$exists"):
            return {path: {"$exists": True}}
    return EVERYTHING


def _plain(path: str) -> bool:
    return all(part and part[0] != "$" and "\0" not in part for part in path.split("."))


def _known(path: str, value: Any) -> bool:
    """Whether MongoDB finds at least what equals `value`; null inside a path it judges in its own way."""
    if value is None:
        return "." not in path
    return isinstance(value, _SCALAR) and storable(value)


def _sorted_alike(value: Any) -> bool:
    if isinstance(value, str):
        return max(value, default="") < _SURROGATES
    return isinstance(value, int | float | Decimal | datetime) and type(value) is not bool and storable(value)


# Guards


def guarded(before: Record, paths: Iterable[str]) -> Filter:
    """A filter that matches the record of the image `before` exactly while each of `paths` is as it was.

    A path into a list is guarded by the whole list: its elements have no identity but their place.
    Raises StoreError for a field whose name is no path (somebody else may have stored such).
    """
    paths = list(paths)
    for path in paths:
        if not _plain(path) or ("." in path and path in before):
            raise StoreError(f"the field {path!r} cannot be guarded: its name is no path", field=path)
    anchors = sorted({_anchor(before, path) for path in paths})
    clauses = [clause for anchor in anchors for clause in _unchanged(anchor, get(before, anchor))]
    own: Filter = {"_id": {"$eq": before["_id"]}}
    return {**own, "$and": clauses} if clauses else own


def _anchor(record: Record, path: str) -> str:
    for prefix in _prefixes(path):
        if isinstance(get(record, prefix), list):
            return prefix
    return path


def _prefixes(path: str) -> list[str]:
    """The proper prefixes of a dotted path, shortest first."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _unchanged(path: str, value: Any) -> list[Filter]:
    """Clauses that hold exactly while `path` has `value`: by type, and never by an element of an array."""
    clauses: list[Filter] = [{prefix: {"$not": _NO_ARRAY}} for prefix in _prefixes(path)]
    if value is None or value is ABSENT:
        test: Filter = {"$eq": None, "$not": _NO_ARRAY}
    elif isinstance(value, list):
        test = {"$eq": value, "$not": {"$elemMatch": {"$eq": value}}}
    else:
        test = {"$eq": value, "$type": type_code(value), "$not": _NO_ARRAY}
    return [*clauses, {path: test}]


# Updates


def in_order(items: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """Assignments in the order in which MongoDB adds new fields to a document, so that images have it too."""
    return tuple(sorted(items, key=lambda item: _place(item.path)))


def _place(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split(".")]


def targets(before: Record, after: Record, written: Iterable[str]) -> list[str]:
    """The paths to write so that `written` become as in `after`: the same, or what they lie in.

    MongoDB makes missing parents but does not replace null by one; and a parent that goes, goes whole.
    """
    lifted = {_lift(before, after, path) for path in written}
    kept = [path for path in lifted if lifted.isdisjoint(_prefixes(path))]
    return sorted(kept, key=_place)


def _lift(before: Record, after: Record, path: str) -> str:
    for prefix in _prefixes(path):
        old, new = get(before, prefix), get(after, prefix)
        if isinstance(old, list) or isinstance(new, list):
            if not _both_have(old, new, path[len(prefix) + 1 :].partition(".")[0]):
                return prefix
        elif isinstance(old, Mapping):
            if not isinstance(new, Mapping):
                return prefix
        elif old is not ABSENT and get(after, path) is not ABSENT:
            return prefix
    return path


def _both_have(old: Any, new: Any, index: str) -> bool:
    return all(isinstance(item, list) and index.isdigit() and int(index) < len(item) for item in (old, new))


def update(after: Record, paths: Iterable[str]) -> Filter:
    """The update that gives each of `paths` what `after` has there; empty where there are none."""
    values = {path: get(after, path) for path in paths}
    given = {path: value for path, value in values.items() if value is not ABSENT}
    gone = {path: "" for path, value in values.items() if value is ABSENT}
    return {operator: fields for operator, fields in (("$set", given), ("$unset", gone)) if fields}
