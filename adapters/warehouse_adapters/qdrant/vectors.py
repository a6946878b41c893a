"""Vectors as the store keeps them: float32, of unit length for cosine, sparse ones sorted by index."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from qdrant_client import models

from warehouse.errors import InvalidOperation, UnknownField, did_you_mean
from warehouse.records import float32

# The server's own limit: what is nearer to unit length it stores as given.
_UNIT: Final = 1e-6
_LAST_INDEX: Final = 2**32 - 1
_LAST_BYTE: Final = 255
UNNAMED: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSpec:
    """What a collection demands of one of its vectors."""

    kind: Literal["dense", "multi", "sparse"]
    size: int = 0
    cosine: bool = False
    datatype: Literal["float32", "float16", "uint8"] = "float32"


Specs = Mapping[str, VectorSpec]


def specs(params: models.CollectionParams) -> dict[str, VectorSpec]:
    """The vectors of a collection by name; the unnamed one is `UNNAMED`."""
    dense = params.vectors
    named = {UNNAMED: dense} if isinstance(dense, models.VectorParams) else dict(dense or {})
    out = {name: _dense_spec(item) for name, item in named.items()}
    for name, sparse in (params.sparse_vectors or {}).items():
        index = sparse.index
        out[name] = VectorSpec(kind="sparse", datatype=_datatype(index.datatype if index else None))
    return out


def _dense_spec(params: models.VectorParams) -> VectorSpec:
    return VectorSpec(
        kind="dense" if params.multivector_config is None else "multi",
        size=params.size,
        cosine=params.distance == models.Distance.COSINE,
        datatype=_datatype(params.datatype),
    )


def _datatype(value: models.Datatype | None) -> Literal["float32", "float16", "uint8"]:
    if value == models.Datatype.FLOAT16:
        return "float16"
    return "uint8" if value == models.Datatype.UINT8 else "float32"


def canonical(known: Specs, value: Any) -> Any:
    """The `vector` of an image as the store will return it; None where it is empty.

    Raises InvalidOperation for what the collection cannot hold.
    """
    if value is None:
        return None
    value = _plain(value)
    if UNNAMED in known and not isinstance(value, Mapping):
        return _one(known[UNNAMED], value, "vector")
    if not isinstance(value, Mapping) or (value and UNNAMED in known and len(known) == 1):
        raise InvalidOperation(
            "it does not fit the collection",
            field="vector",
            hint=_shape(known),
        )
    out = {}
    for name, item in value.items():
        if name not in known:
            raise UnknownField(
                "the collection has no such vector", field=f"vector.{name}", hint=did_you_mean(name, known)
            )
        if item is not None:
            out[name] = _one(known[name], _plain(item), f"vector.{name}")
    if list(out) == [UNNAMED]:
        return out[UNNAMED]
    return out or None


def _shape(known: Specs) -> str:
    if UNNAMED in known:
        return f"give a list of {known[UNNAMED].size} numbers"
    if not known:
        return "it has no vectors"
    return "give a mapping of names to vectors; known are " + ", ".join(sorted(known))


def _plain(value: Any) -> Any:
    """Arrays of NumPy and the like as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def one(spec: VectorSpec, value: Any, field: str) -> Any:
    """One vector as the store will return it; raises InvalidOperation naming `field`."""
    return _one(spec, _plain(value), field)


def _one(spec: VectorSpec, value: Any, field: str) -> Any:
    if spec.kind == "sparse":
        return _sparse(spec, value, field)
    if spec.kind == "dense":
        return _dense(spec, value, field)
    if not isinstance(value, list | tuple) or not value:
        raise InvalidOperation("a multivector is a non-empty list of vectors", field=field)
    return [_dense(spec, _plain(row), field) for row in value]


def _dense(spec: VectorSpec, value: Any, field: str) -> list[float]:
    if not isinstance(value, list | tuple):
        raise InvalidOperation(f"a vector is a list of numbers, not {type(value).__name__}", field=field)
    if len(value) != spec.size:
        raise InvalidOperation(
            f"it has {len(value)} dimensions, and the collection takes {spec.size}", field=field
        )
    if spec.datatype == "float16" and spec.cosine:
        raise InvalidOperation("cosine vectors of float16 do not read back as written", field=field)
    numbers = [_number(spec, item, field) for item in value]
    return normalise(spec, numbers)


def _sparse(spec: VectorSpec, value: Any, field: str) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping) or set(value) != {"indices", "values"}:
        raise InvalidOperation("a sparse vector is {'indices': [...], 'values': [...]}", field=field)
    indices, values = _plain(value["indices"]), _plain(value["values"])
    if not isinstance(indices, list | tuple) or not isinstance(values, list | tuple):
        raise InvalidOperation("indices and values of a sparse vector are lists", field=field)
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= _LAST_INDEX:
            raise InvalidOperation(f"{index!r} is no index of a sparse vector", field=field)
    if not indices or len(indices) != len(values) or len(set(indices)) != len(indices):
        raise InvalidOperation(
            "a sparse vector has at least one index, each once, and as many values", field=field
        )
    pairs = sorted(zip(indices, values, strict=True))
    return {
        "indices": [index for index, _ in pairs],
        "values": [_number(spec, item, field) for _, item in pairs],
    }


def _number(spec: VectorSpec, value: Any, field: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidOperation(f"vectors hold numbers, not {value!r}", field=field)
    if spec.datatype == "uint8" and not (value == value // 1 and 0 <= value <= _LAST_BYTE):
        raise InvalidOperation(f"{value!r} is no whole number from 0 to 255", field=field)
    try:
        number = float32(float(value))
        number = struct.unpack("<e", struct.pack("<e", number))[0] if spec.datatype == "float16" else number
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidOperation(f"{value!r} is no finite number of {spec.datatype}", field=field)
    return number


def normalise(spec: VectorSpec, numbers: list[float]) -> list[float]:
    """Unit length in float32 for a cosine vector. Sent like that, the server stores it bit by bit."""
    if not spec.cosine or spec.datatype != "float32":
        return numbers
    square = math.fsum(item * item for item in numbers)
    if square == 0 or abs(square - 1) <= _UNIT:
        return numbers
    length = math.sqrt(square)
    return [float32(item / length) for item in numbers]


def from_store(known: Specs, value: Any, *, local: bool) -> Any:
    """What the client returned as `vector`, as an image has it; None where the point has no vector.

    The local mode gives vectors after reopening as they were given, so there they are made unit length.
    """
    if isinstance(value, Mapping):
        named = {
            name: _read(known.get(name), item, local) for name, item in value.items() if item is not None
        }
        return named.get(UNNAMED) if list(named) == [UNNAMED] else named or None
    return None if value is None else _read(known.get(UNNAMED), value, local)


def _read(spec: VectorSpec | None, value: Any, local: bool) -> Any:
    if isinstance(value, models.SparseVector):
        pairs = sorted(zip(value.indices, value.values, strict=True))
        return {"indices": [index for index, _ in pairs], "values": [float32(item) for _, item in pairs]}
    if value and isinstance(value[0], list):
        return [_read(spec, row, local) for row in value]
    numbers = [float32(item) for item in value]
    return normalise(spec, numbers) if local and spec is not None else numbers


def to_store(value: Any) -> Any:
    """The `vector` of an image as the client takes it."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {name: to_query(item) for name, item in value.items()}
    return value


def to_query(value: Any) -> Any:
    """One vector as the client takes it."""
    return models.SparseVector(**value) if isinstance(value, Mapping) else value
