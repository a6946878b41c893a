"""Points in memory: `{"id": ..., "vector": [...], "metadata": {...}}`, vectors in single precision."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from warehouse.adapter import EntityInfo, Query, Request
from warehouse.conditions import Condition
from warehouse.config import EntityConfig
from warehouse.errors import ConstraintViolated, InvalidOperation, did_you_mean
from warehouse.points import canonical_id, canonical_ids
from warehouse.records import ABSENT, Change, Entity, Record, float32, get
from warehouse.updates import is_number
from warehouse_adapters.memory.rules import Rules, View

_PARTS: Final = frozenset({"id", "vector", "metadata"})
_SPARSE: Final = frozenset({"indices", "values"})
_LIMIT: Final = 10


class VectorRules(Rules):
    """The rules of a vector store: the vectors of a name are all of one length."""

    def __init__(self, unique: Mapping[str, Sequence[Sequence[str]]], dimension: int | None) -> None:
        super().__init__(unique)
        self._dimension = dimension

    def describe(self, entity: Entity, config: EntityConfig) -> EntityInfo:
        return replace(super().describe(entity, config), fields=_PARTS)

    def check(self, request: Request) -> None:
        for record in request.records:
            _check_point(record)

    def complete(self, info: EntityInfo, record: Record) -> Record:
        _check_point(record)
        out = super().complete(info, record)
        out["id"] = canonical_id(out["id"])
        if "vector" in out:
            out["vector"] = _single(out["vector"])
        return {"metadata": {}} | out

    def read(self, where: Condition) -> Condition:
        return canonical_ids(where)

    def fit(self, records: Mapping[Hashable, Record], record: Record) -> None:
        for name, vector in _dense(get(record, "vector")):
            known = {"": self._dimension} if self._dimension is not None else {}
            length = known.get(name) or _length(records, name)
            if length is not None and length != len(vector):
                raise _misfit(name, len(vector), length)

    def verify(self, view: View, info: EntityInfo, changes: Sequence[Change]) -> None:
        super().verify(view, info, changes)
        written = {id(change.after) for change in changes}
        lengths: dict[str, int] = {} if self._dimension is None else {"": self._dimension}
        records = view.table(info.entity).values()
        for record in sorted(records, key=lambda record: id(record) in written):
            for name, vector in _dense(get(record, "vector")):
                if lengths.setdefault(name, len(vector)) != len(vector):
                    raise _misfit(name, len(vector), lengths[name])

    def search(self, records: list[Record], query: Query) -> list[Record]:
        near = query.near or {}
        path = f"vector.{near['using']}" if near.get("using") else "vector"
        wanted = _single(near["vector"])
        found = [(record, get(record, path)) for record in records]
        scored = [
            (_cosine(vector, wanted), record)
            for record, vector in found
            if isinstance(vector, list) and len(vector) == len(wanted)
        ]
        scored.sort(key=lambda pair: pair[0], reverse=True)
        return [record for _, record in scored[: near.get("limit", _LIMIT)]]


def _check_point(record: Record) -> None:
    for name in record:
        if name not in _PARTS:
            raise InvalidOperation(f"a point has no {name!r}", field=name, hint=did_you_mean(name, _PARTS))
    if record.get("id") is not None:
        canonical_id(record["id"])
    if not isinstance(record.get("metadata", {}), Mapping):
        raise InvalidOperation("it takes a mapping", field="metadata")
    vector = record.get("vector", {})
    for part in vector.values() if isinstance(vector, Mapping) else [vector]:
        if not _is_vector(part):
            raise InvalidOperation(
                "it takes a list of numbers, or a mapping of named vectors", field="vector"
            )


def _is_vector(part: Any) -> bool:
    """Whether it is a list of numbers, a list of several such, or a sparse vector."""
    if isinstance(part, Mapping):
        return (
            part.keys() == _SPARSE
            and _is_vector(part["values"])
            and len(part["indices"]) == len(part["values"])
        )
    if not isinstance(part, list | tuple) or not part:
        return False
    if isinstance(part[0], list | tuple):
        return all(
            isinstance(row, list | tuple) and len(row) == len(part[0]) and _is_vector(row) for row in part
        )
    return all(map(_is_finite, part))


def _misfit(name: str, length: int, wanted: int) -> ConstraintViolated:
    return ConstraintViolated(
        f"a vector has {length} dimensions in place of {wanted}",
        constraint="dimension",
        field=f"vector.{name}" if name else "vector",
    )


def _length(records: Mapping[Hashable, Record], name: str) -> int | None:
    """How long the vectors of this name are: as the first one is."""
    for record in records.values():
        for other, vector in _dense(get(record, "vector")):
            if other == name:
                return len(vector)
    return None


def _is_finite(number: Any) -> bool:
    return is_number(number) and math.isfinite(number)


def _single(vector: Any) -> Any:
    """A vector, or a mapping of named ones, in single precision; the indices of a sparse one stay."""
    if isinstance(vector, Mapping):
        return {name: part if name == "indices" else _single(part) for name, part in vector.items()}
    return [_single(item) if isinstance(item, list | tuple) else float32(item) for item in vector]


def _dense(vector: Any) -> Iterator[tuple[str, Sequence[float]]]:
    """The dense vectors of a point by name; the only one of a point has the name ''."""
    if vector is ABSENT:
        return
    named: Iterable[tuple[str, Any]] = vector.items() if isinstance(vector, Mapping) else [("", vector)]
    for name, part in named:
        if not isinstance(part, Mapping) and part is not None:
            yield name, part[0] if part and isinstance(part[0], list) else part


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    norm = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / norm if norm else 0.0
