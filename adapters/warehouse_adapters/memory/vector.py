"""Points in memory: `{"id": ..., "vector": [...], "metadata": {...}}`, vectors in single precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from warehouse.adapter import EntityInfo, Query, Request
from warehouse.config import EntityConfig
from warehouse.errors import ConstraintViolated, InvalidOperation, did_you_mean
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
        if "vector" in out:
            out["vector"] = _single(out["vector"])
        return {"metadata": {}} | out

    def verify(self, view: View, info: EntityInfo, changes: Sequence[Change]) -> None:
        super().verify(view, info, changes)
        written = {id(change.after) for change in changes}
        lengths: dict[str, int] = {} if self._dimension is None else {"": self._dimension}
        records = view.table(info.entity).values()
        for record in sorted(records, key=lambda record: id(record) in written):
            for name, vector in _dense(get(record, "vector")):
                if lengths.setdefault(name, len(vector)) != len(vector):
                    raise ConstraintViolated(
                        f"a vector has {len(vector)} dimensions in place of {lengths[name]}",
                        constraint="dimension",
                        field=f"vector.{name}" if name else "vector",
                    )

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
    number = record.get("id")
    if isinstance(number, bool | float) or (isinstance(number, int) and number < 0):
        raise InvalidOperation(f"it takes an unsigned integer, a UUID or text, not {number!r}", field="id")
    if not isinstance(record.get("metadata", {}), Mapping):
        raise InvalidOperation("it takes a mapping", field="metadata")
    vector = record.get("vector", {})
    parts = vector.values() if isinstance(vector, Mapping) else [vector]
    for part in parts:
        numbers = part.get("values") if isinstance(part, Mapping) else part
        if not isinstance(numbers, list | tuple) or not all(map(_is_finite, numbers)) or not part:
            raise InvalidOperation("it takes a list of numbers, or a mapping of named ones", field="vector")


def _is_finite(number: Any) -> bool:
    return is_number(number) and math.isfinite(number)


def _single(vector: Any) -> Any:
    """A vector, or a mapping of named ones, in single precision; the indices of a sparse one stay."""
    if isinstance(vector, Mapping):
        return {name: part if name == "indices" else _single(part) for name, part in vector.items()}
    return [float32(number) for number in vector]


def _dense(vector: Any) -> Iterator[tuple[str, Sequence[float]]]:
    """The dense vectors of a point by name; the only one of a point has the name ''."""
    if vector is ABSENT:
        return
    named: Iterable[tuple[str, Any]] = vector.items() if isinstance(vector, Mapping) else [("", vector)]
    for name, part in named:
        if not isinstance(part, Mapping):
            yield name, part


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    norm = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / norm if norm else 0.0
