"""Undo as a three-way merge of before (B), after (A) and current (C), field by field (DESIGN 4). Pure.

Nothing that somebody else wrote is ever overwritten: a field that is neither as we left it nor as it was
before is a clash, and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from typing import Any, Final

from warehouse.config import EntityConfig
from warehouse.records import (
    ABSENT,
    Absent,
    Change,
    Effect,
    Image,
    Record,
    get,
    identical,
    overlaps,
    put,
    same,
)
from warehouse.updates import is_number

# Digits enough for every decimal that a store can keep.
_EXACT: Final = 200_000


@dataclass(frozen=True, slots=True)
class Clash:
    """A field (None: the record itself) that is not as expected. Values are ABSENT where nothing is there."""

    field: str | None
    expected: Any
    found: Any


@dataclass(frozen=True, slots=True)
class Merge:
    """What undoing takes: a guarded write (None: nothing is left to do), and what cannot be undone."""

    write: Change | None = None
    clashes: tuple[Clash, ...] = ()


def inverse(change: Change) -> Change:
    """The change that leads from after to before. Its merge with the current image is the redo of `change`."""
    return replace(change, before=change.after, after=change.before, effects={})


def combine(changes: Sequence[Change], place: Callable[[Change], Hashable]) -> list[Change]:
    """`changes` with all those of one record (by `place`) as one: then undoing has no step in between.

    What creates a record keeps its place in the order, what deletes it goes last; what was created and deleted
    is left out.
    """
    groups: dict[Hashable, list[tuple[int, Change]]] = {}
    for number, change in enumerate(changes):
        groups.setdefault(place(change), []).append((number, change))
    out: list[tuple[int, Change]] = []
    for group in groups.values():
        (first_number, first), (last_number, last) = group[0], group[-1]
        if len(group) == 1:
            out.append(group[0])
        elif not (isinstance(first.before, Absent) and isinstance(last.after, Absent)):
            number = first_number if isinstance(first.before, Absent) else last_number
            out.append((number, _as_one([change for _, change in group])))
    return [change for _, change in sorted(out, key=lambda item: item[0])]


def _reach(path: str, before: Image, after: Image) -> str:
    """`path`; or, where it came and went and left its new parent behind, that parent."""
    if get(before, path) is ABSENT and get(after, path) is ABSENT:
        parts = path.split(".")
        for length in range(1, len(parts)):
            parent = ".".join(parts[:length])
            if (get(before, parent) is ABSENT) is not (get(after, parent) is ABSENT):
                return parent
    return path


def _as_one(changes: Sequence[Change]) -> Change:
    first, last = changes[0], changes[-1]
    named = frozenset().union(*(change.written for change in changes))
    every = frozenset(_reach(path, first.before, last.after) for path in named)
    written = frozenset(path for path in every if not any(_inside(path, other) for other in every))
    return replace(
        last,
        before=first.before,
        written=written,
        guard=frozenset().union(*(change.guard for change in changes)),
        effects={path: effect for path in written if (effect := _sum(path, changes)) is not None},
        claims=tuple(claim for change in changes for claim in change.claims),
        dependent=all(change.dependent for change in changes),
    )


def _sum(path: str, changes: Sequence[Change]) -> Effect | None:
    """The effect of all changes on `path` together, where they only incremented it, or one wrote it."""
    writers = [change for change in changes if any(overlaps(path, other) for other in change.written)]
    effects = [change.effects.get(path) for change in writers]
    if len(effects) == 1:
        return effects[0]
    amounts = [effect.value for effect in effects if effect is not None and effect.operator == "$increment"]
    if len(amounts) < len(effects):
        return None
    try:
        with localcontext(prec=_EXACT):
            return Effect("$increment", sum(amounts[1:], start=amounts[0]))
    except TypeError:
        return None


def merge(
    change: Change, current: Image, config: EntityConfig, *, known: bool = False, ulps: int = 0
) -> Merge:
    """How to undo `change` where its record is now `current`.

    `known`: this process knows that the change was applied, and has not tried to undo it before; only then
    may a field that somebody wrote since be corrected by the delta of our increment or push.
    """
    if isinstance(change.before, Absent):
        return _undo_insert(change, current, config, ulps)
    if isinstance(change.after, Absent):
        return _undo_delete(change, change.before, current, ulps)
    if isinstance(current, Absent):
        return Merge(clashes=(Clash(None, change.after, ABSENT),))
    return _undo_update(change, change.before, change.after, current, _Rules(config, known, ulps))


def _undo_insert(change: Change, current: Image, config: EntityConfig, ulps: int) -> Merge:
    if isinstance(current, Absent):
        return Merge()
    after = {} if isinstance(change.after, Absent) else change.after
    written = frozenset(path for unit in _units(change, after, current, config) for path in unit)
    clashes = _differences(after, current, written, ulps)
    if clashes:
        return Merge(clashes=clashes)
    return Merge(_write(change, current, ABSENT, written))


def _undo_delete(change: Change, before: Record, current: Image, ulps: int) -> Merge:
    if isinstance(current, Absent):
        return Merge(_write(change, ABSENT, before, frozenset(before)))
    return Merge(clashes=_differences(before, current, before.keys() | current.keys(), ulps))


def _differences(expected: Image, found: Record, paths: Iterable[str], ulps: int) -> tuple[Clash, ...]:
    return tuple(
        Clash(path, get(expected, path), get(found, path))
        for path in sorted(paths)
        if not same(get(expected, path), get(found, path), ulps=ulps)
    )


@dataclass(frozen=True, slots=True)
class _Rules:
    config: EntityConfig
    known: bool
    ulps: int


def _undo_update(change: Change, before: Record, after: Record, current: Record, rules: _Rules) -> Merge:
    target = current
    restored: list[str] = []
    clashes: list[Clash] = []
    for unit in _units(change, after, current, rules.config):
        fields = [path for path in unit if path in change.written]
        if all(identical(get(current, path), get(before, path), ulps=rules.ulps) for path in fields):
            continue
        if len(unit) > 1:
            foreign = _differences(after, current, unit, rules.ulps)
            if foreign:
                clashes += foreign
                continue
        for path in fields:
            images = (get(before, path), get(after, path), get(current, path))
            value = _restore(path, images, change.effects.get(path), rules)
            if isinstance(value, Clash):
                clashes.append(value)
            elif not identical(value, get(current, path), ulps=rules.ulps):
                try:
                    target, path = _put_back(target, before, path, value)  # noqa: PLW2901 - the path that changed
                except TypeError:  # somebody replaced what the field was in
                    clashes.append(Clash(path, images[1], images[2]))
                else:
                    restored.append(path)
    written = frozenset(path for path in restored if not any(_inside(path, other) for other in restored))
    return Merge(_write(change, current, target, written) if written else None, tuple(clashes))


def _inside(path: str, other: str) -> bool:
    return path.startswith(other + ".")


def _put_back(target: Record, before: Record, path: str, value: Any) -> tuple[Record, str]:
    """`target` with `value` at `path`, and the path that changed: a parent that we made goes when it is empty."""
    target = put(target, path, value)
    while value is ABSENT and "." in path:
        parent = path.rpartition(".")[0]
        if get(target, parent) != {} or get(before, parent) not in (ABSENT, None):
            break
        path, value = parent, get(before, parent)
        target = put(target, path, value)
    return target, path


def _units(change: Change, after: Record, current: Record, config: EntityConfig) -> list[list[str]]:
    """The written paths in the sets that conflict together, each with the unwritten members of its group."""
    written = sorted(change.written)
    if config.conflict == "record":
        return [written + _missing(written, sorted(after.keys() | current.keys()))]
    units: list[list[str]] = []
    for group in config.groups:
        mine = [path for path in written if any(overlaps(path, member) for member in group)]
        if mine:
            units.append(mine + _missing(mine, group))
    taken = {path for unit in units for path in unit}
    return units + [[path] for path in written if path not in taken]


def _missing(paths: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of `names` that are not wholly among `paths`."""
    return [name for name in names if not any(name == path or _inside(name, path) for path in paths)]


def _restore(path: str, images: tuple[Any, Any, Any], effect: Effect | None, rules: _Rules) -> Any:
    """The value that `path` gets back, or the Clash that forbids it; `images` are its B, A and C."""
    old, new, now = images
    if same(now, new, ulps=rules.ulps) or same(now, old, ulps=rules.ulps):
        return old
    if rules.known and effect is not None:
        taken = _take_back(effect, now)
        if taken is not ABSENT:
            return taken
    return Clash(path, new, now)


def _take_back(effect: Effect, now: Any) -> Any:
    """`now` without our part of it, or ABSENT where that part cannot be taken out."""
    if effect.operator == "$increment" and is_number(now) and _is_finite(now):
        try:
            with localcontext(prec=_EXACT):
                return now - effect.value
        except TypeError:
            return ABSENT
    if effect.operator == "$push" and isinstance(now, list):
        for index in range(len(now) - 1, -1, -1):
            if same(now[index], effect.value):
                return now[:index] + now[index + 1 :]
    return ABSENT


def _is_finite(number: float | Decimal) -> bool:
    if isinstance(number, float):
        return math.isfinite(number)
    return not isinstance(number, Decimal) or number.is_finite()


def _write(change: Change, before: Image, after: Image, written: frozenset[str]) -> Change:
    return Change(entity=change.entity, key=change.key, before=before, after=after, written=written)
