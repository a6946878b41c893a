"""Conditions and before images as Qdrant filters, and the JSON paths in both.

What `narrow` gives matches everything that the condition matches, or more: the caller evaluates again. (A
payload index sees only values of its own type: a float in a field with an integer index is found by none.)
What `guards` gives holds as long as the record still has the values; vectors, and fields that are added, can
change beneath it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final
from uuid import UUID

from qdrant_client import models

from warehouse.conditions import And, Compare, Condition, Or
from warehouse.errors import InvalidOperation
from warehouse.records import ABSENT, Record, get
from warehouse_adapters.qdrant.points import point_id

NOTHING: Final = models.HasIdCondition(has_id=[])
_RAW: Final = re.compile(r"[A-Za-z0-9_-]+")
_UNQUOTABLE: Final = re.compile(r'["\\]')
# Beyond it a filter costs more than the pre-read of the record leaves to it.
_MOST_GUARDS: Final = 256
_ULPS: Final = 8
_INTS: Final = range(-(2**63), 2**63)


def only(identifier: int | str, conditions: Iterable[models.Condition] = ()) -> models.Filter:
    """The one point, if the conditions hold of it."""
    return models.Filter(must=[models.HasIdCondition(has_id=[identifier]), *conditions])


def key_name(name: str) -> str | None:
    """A payload field as a segment of a JSON path; None where it cannot be written."""
    if _RAW.fullmatch(name):
        return name
    return None if not name or _UNQUOTABLE.search(name) else f'"{name}"'


def json_path(names: Sequence[str]) -> str | None:
    """The JSON path of a field inside mappings; None where it cannot be written."""
    quoted = [key_name(name) for name in names]
    return None if not quoted or None in quoted else ".".join(name for name in quoted if name)


# What a condition can leave out


def narrow(condition: Condition) -> models.Filter | None:
    """A filter for no less than `condition`; None where the store cannot help."""
    found = _narrow(condition)
    return found if found is None or isinstance(found, models.Filter) else models.Filter(must=[found])


def _narrow(condition: Condition) -> models.Condition | None:
    match condition:
        case And(parts):
            known = [item for item in map(_narrow, parts) if item is not None]
            return models.Filter(must=known) if known else None
        case Or(parts):
            return _any(map(_narrow, parts))
        case Compare("id", operator, value):
            return _narrow_id(operator, value)
        case Compare(path, operator, value) if path.startswith("metadata."):
            names = path.split(".")[1:]
            key = None if any(name.isdigit() for name in names) else json_path(names)
            return None if key is None else _narrow_field(key, operator, value)
    return None


def _any(parts: Iterable[models.Condition | None]) -> models.Condition | None:
    found = list(parts)
    if None in found:
        return None
    return models.Filter(should=[item for item in found if item is not None]) if found else NOTHING


def _narrow_id(operator: str, value: Any) -> models.Condition | None:
    if operator not in {"$eq", "$in"}:
        return None
    ids: list[int | str | UUID] = []
    for item in value if operator == "$in" else [value]:
        try:
            ids.append(point_id(item))
        except InvalidOperation:
            if isinstance(item, float | Decimal):  # equal to a number by value, but no id
                return None
    return models.HasIdCondition(has_id=ids)


def _narrow_field(key: str, operator: str, value: Any) -> models.Condition | None:
    match operator:
        case "$eq":
            return _equal(key, value)
        case "$in":
            texts = [item for item in value if isinstance(item, str)]
            others = [_equal(key, item) for item in value if not isinstance(item, str)]
            return _any([*([_match_any(key, texts)] if texts else []), *others])
        case "$null" if value is True:
            return _empty(key)
        case "$exists" if value is False:
            return _empty(key)
        case "$gt" | "$gte" | "$lt" | "$lte":
            return _range(key, value, "gte" if operator in {"$gt", "$gte"} else "lte")
    return None


def _equal(key: str, value: Any) -> models.Condition | None:
    match value:
        case None:
            return _empty(key)
        case bool() | str():
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case int() | float() | Decimal():
            return _range(key, value, "gte", "lte")
    return None


def _match_any(key: str, texts: list[str]) -> models.Condition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=texts))


def _empty(key: str) -> models.Condition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def _range(key: str, value: Any, *bounds: str) -> models.Condition | None:
    """Numbers within `bounds`, inclusive ones, and a little more where a double cannot say them exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    margin = 0.0 if number == value else math.ulp(number)
    limits = {"gte": number - margin, "lte": number + margin}
    return models.FieldCondition(key=key, range=models.Range(**{name: limits[name] for name in bounds}))


# What a guarded write demands


def guards(image: Record, paths: Iterable[str]) -> list[models.Condition]:
    """Conditions that hold while the record has the values of `image` at `paths`, as far as filters go."""
    metadata = image.get("metadata") or {}
    found: list[models.Condition] = []
    for path in sorted(paths):
        head, _, rest = path.partition(".")
        if head != "metadata":
            continue
        if not rest:
            found += _guard_inside("", metadata)
        elif (key := _locate(metadata, rest.split("."))) is not None:
            value = get(metadata, rest)
            found += _guard(key, None if value is ABSENT else value)
    return list(islice(found, _MOST_GUARDS))


def _locate(value: Any, names: Sequence[str]) -> str | None:
    """The JSON path of `names` inside `value`: numbers address the elements of lists."""
    out = ""
    for name in names:
        if isinstance(value, list) and name.isdigit():
            out += f"[{int(name)}]"
        elif (quoted := key_name(name)) is not None:
            out += f".{quoted}" if out else quoted
        else:
            return None
        value = get(value, name)
    return out


def _guard(key: str, value: Any) -> Iterator[models.Condition]:
    match value:
        case None:
            yield _empty(key)
        case bool() | str():
            yield models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case int() if value in _INTS:
            yield models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case float():
            margin = _ULPS * math.ulp(value)
            yield models.FieldCondition(key=key, range=models.Range(gte=value - margin, lte=value + margin))
        case Mapping():
            yield from _guard_inside(key, value)
        case list():
            count = models.ValuesCount(gte=len(value), lte=len(value))
            yield models.FieldCondition(key=key, values_count=count) if value else _empty(key)
            for index, item in enumerate(value):
                if item is not None:
                    yield from _guard(f"{key}[{index}]", item)


def _guard_inside(key: str, value: Mapping[str, Any]) -> Iterator[models.Condition]:
    for name, item in value.items():
        quoted = key_name(name)
        if quoted is not None and item is not None:
            yield from _guard(f"{key}.{quoted}" if key else quoted, item)
