"""Records as values: keys, images, changes, and the paths into them. Pure: no I/O, no store.

A path is a dotted name (`address.city`); a number addresses a list element. The functions here never
change their arguments; what they return shares the parts that did not change.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias


class Absent(enum.Enum):
    """The type of `ABSENT`, the image of a record that is not there (and of a field likewise)."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = Absent.ABSENT
Record: TypeAlias = dict[str, Any]
Key: TypeAlias = dict[str, Any]
Image: TypeAlias = Record | Absent


@dataclass(frozen=True, slots=True)
class Entity:
    """A table, collection, node label or vector collection; or a relationship type."""

    name: str
    kind: Literal["record", "relationship"] = "record"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Effect:
    """How a field was changed, where the amount is known without its images (for undo by delta)."""

    operator: Literal["$increment", "$push"]
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one operation did to one record.

    `before` and `after` are whole images. `written` names the paths that the operation itself wrote: only
    these are compared and restored. `guard` names the further paths that justified the write (those of its
    `where`). `effects` tells, by path, which writes were increments or pushes. `claims` are the unique values
    that the write took: one key a unique constraint. A `dependent` change followed from the operation
    (a cascade, the relationships of a deleted node) and is no record of its result.
    """

    entity: Entity
    key: Key
    before: Image
    after: Image
    written: frozenset[str]
    guard: frozenset[str] = frozenset()
    effects: Mapping[str, Effect] = field(default_factory=dict)
    claims: tuple[Key, ...] = ()
    dependent: bool = False

    @property
    def action(self) -> Literal["inserted", "updated", "deleted"]:
        if self.before is ABSENT:
            return "inserted"
        return "deleted" if self.after is ABSENT else "updated"

    @property
    def visible(self) -> Record:
        """What the step's `data` shows: the after image; of a delete, the before image."""
        image = self.before if self.after is ABSENT else self.after
        return {} if isinstance(image, Absent) else image


def get(record: Any, path: str) -> Any:
    """The value at `path`, or ABSENT."""
    value = record
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part, ABSENT)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return value


def put(record: Mapping[str, Any], path: str, value: Any) -> Record:
    """A copy of `record` with `value` at `path`; ABSENT removes it. Missing parents are made.

    Raises TypeError where a parent is there but is neither a mapping nor a list.
    """
    head, _, rest = path.partition(".")
    copy = dict(record)
    if value is ABSENT and get(record, path) is ABSENT:
        return copy
    if rest:
        copy[head] = _put_in(copy.get(head), rest, value)
    elif value is ABSENT:
        copy.pop(head, None)
    else:
        copy[head] = value
    return copy


def _put_in(child: Any, path: str, value: Any) -> Any:
    if child is None:
        child = {}
    if isinstance(child, Mapping):
        return put(child, path, value)
    head, _, rest = path.partition(".")
    if isinstance(child, list) and head.isdigit() and int(head) < len(child):
        index = int(head)
        new = _put_in(child[index], rest, value) if rest else (None if value is ABSENT else value)
        return [*child[:index], new, *child[index + 1 :]]
    raise TypeError(f"{path!r} cannot be set inside a {type(child).__name__}")


def project(record: Mapping[str, Any], paths: Iterable[str] | None) -> Record:
    """Only the named paths of `record` (all, if None); a missing one is left out."""
    if paths is None:
        return dict(record)
    out: Record = {}
    for path in paths:
        value = get(record, path)
        if value is not ABSENT:
            out = put(out, path, value)
    return out


def overlaps(one: str, other: str) -> bool:
    """True where the paths are equal or one lies inside the other."""
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")


def same(left: Any, right: Any, *, ulps: int = 0) -> bool:
    """Whether two stored values are equal: by type and value, NaN equal to itself, missing equal to null.

    `ulps` allows floats that many units in the last place, for stores that keep doubles only nearly.
    """
    left, right = _null(left), _null(right)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, float) and isinstance(right, float):
        return _close(left, right, ulps)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[k], right[k], ulps=ulps) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(
            same(a, b, ulps=ulps) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        nan = left.is_nan(), right.is_nan()
        return all(nan) if any(nan) else left == right
    if isinstance(left, datetime | time) and isinstance(right, datetime | time):
        return type(left) is type(right) and left == right and left.utcoffset() == right.utcoffset()
    return type(left) is type(right) and bool(left == right)


def identical(left: Any, right: Any, *, ulps: int = 0) -> bool:
    """`same`, and written alike: the sign of a zero, the digits of a Decimal, the order of keys, missing or null."""
    if (left is ABSENT) is not (right is ABSENT) or not same(left, right, ulps=ulps):
        return False
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(identical(left[k], right[k], ulps=ulps) for k in left)
    if isinstance(left, list | tuple):
        return all(identical(a, b, ulps=ulps) for a, b in zip(left, right, strict=True))
    if isinstance(left, float):
        return math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    return True


def _null(value: Any) -> Any:
    return None if value is ABSENT else value


def _close(left: float, right: float, ulps: int) -> bool:
    if left == right or (math.isnan(left) and math.isnan(right)):
        return True
    return ulps > 0 and abs(left - right) <= ulps * max(math.ulp(left), math.ulp(right))


def same_image(left: Image, right: Image, paths: Iterable[str], *, ulps: int = 0) -> bool:
    """Whether two images agree: both absent, or both there and equal at every one of `paths`."""
    if isinstance(left, Absent) or isinstance(right, Absent):
        return left is right
    return all(same(get(left, path), get(right, path), ulps=ulps) for path in paths)


def key_of(record: Mapping[str, Any], fields: Sequence[str]) -> Key:
    """The key of `record`, by the paths that make it; KeyError names a missing or null one."""
    key = {path: get(record, path) for path in fields}
    for path, value in key.items():
        if value is ABSENT or value is None:
            raise KeyError(path)
    return key


def float32(value: float) -> float:
    """The nearest single-precision value, as a Python float; overflow gives an infinity."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
