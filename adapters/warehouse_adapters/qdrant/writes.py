"""Which one write turns a point into what a change wants, touching nothing else of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse.records import ABSENT, Record, get, overlaps, put, same
from warehouse_adapters.qdrant.filters import json_path


@dataclass(frozen=True, slots=True)
class SetPayload:
    """Set the fields of `payload` at `key` (None: at the top), a null one being removed."""

    key: str | None
    payload: Record


@dataclass(frozen=True, slots=True)
class SetVectors:
    """Set `vector`: the unnamed one, or those of the names in it."""

    vector: Any


@dataclass(frozen=True, slots=True)
class Replace:
    """Write the point anew."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One write that makes `target` of a point; `touched` are the paths that it overwrites."""

    write: SetPayload | SetVectors | Replace
    target: Record
    touched: frozenset[str]


def plan(current: Record, after: Record, written: Collection[str], *, ulps: int) -> Plan | None:
    """How to give `current` the `written` paths of `after`; None where it has them already."""
    target = current
    for path in written:
        target = put(target, path, get(after, path))
    changed = [path for path in written if not same(get(current, path), get(target, path), ulps=ulps)]
    vectors = [path for path in changed if overlaps(path, "vector")]
    fields = [path for path in changed if overlaps(path, "metadata")]
    if not changed:
        return None
    if not vectors:
        write, touched = _set_payload(current, target, fields)
        return Plan(write, target, touched)
    if not fields and (vector := _set_vectors(current, target)) is not None:
        return Plan(SetVectors(vector), target, frozenset(vectors))
    return Plan(Replace(), target, frozenset({"metadata"}))


def _set_vectors(current: Record, target: Record) -> Any:
    """The vectors that differ; None where one is to be removed, which is another request."""
    before, after = current.get("vector"), target.get("vector")
    if not after:
        return None
    if not isinstance(after, Mapping):
        return after
    named = before if isinstance(before, Mapping) else {}
    if any(after.get(name) is None for name in named):
        return None
    return {
        name: item for name, item in after.items() if item is not None and not same(item, named.get(name))
    }


def _set_payload(current: Record, target: Record, paths: Sequence[str]) -> tuple[SetPayload, frozenset[str]]:
    """The one request that writes `paths`: at their nearest common parent, what lies deeper as a whole."""
    names = [path.split(".")[1:] for path in paths]
    parent = _parent(current, target, names)
    old, new = (_at(record, parent) for record in (current, target))
    if any(len(name) == len(parent) for name in names):
        children = {*old, *new}
    else:
        children = {name[len(parent)] for name in names}
    payload = {
        child: new.get(child) for child in sorted(children) if not same(old.get(child), new.get(child))
    }
    touched = frozenset(".".join(["metadata", *parent, child]) for child in payload)
    return SetPayload(json_path(parent) if parent else None, payload), touched


def _parent(current: Record, target: Record, names: Sequence[Sequence[str]]) -> list[str]:
    """The longest common beginning of the paths that is a mapping before and after, and has a JSON path."""
    parent: list[str] = []
    for step in zip(*(name[:-1] for name in names), strict=False):
        longer = [*parent, step[0]]
        inside = all(
            isinstance(get(record, ".".join(["metadata", *longer])), Mapping) for record in (current, target)
        )
        if len(set(step)) > 1 or not inside or json_path(longer) is None:
            break
        parent = longer
    return parent


def _at(record: Record, parent: Sequence[str]) -> Mapping[str, Any]:
    found = get(record, ".".join(["metadata", *parent]))
    return {} if found is ABSENT or found is None else found
