"""Points as images: ids, metadata, and the translation to and from what the client takes.

A payload field that is null equals one that is missing, so images leave such fields out, at any depth; the
nulls that are elements of lists stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from qdrant_client import models

from warehouse.adapter import EntityInfo
from warehouse.errors import InvalidOperation, UnknownField
from warehouse.points import canonical_id, is_uuid
from warehouse.records import Record
from warehouse_adapters.qdrant import vectors

FIELDS: Final = frozenset({"id", "vector", "metadata"})
# Never to be changed: the ids of all points that were written under a text id follow from it.
TEXT_IDS: Final = UUID("6e1a7f7c-5f0b-5d0e-9a53-9d1f0c6a2b11")
_INTS: Final = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo(EntityInfo):
    """An entity with its vectors, and whether the version of a point tells who wrote it last.

    It does on a server with one shard and one replica. Elsewhere a write that lost to an equal one, between
    our comparison and it, is taken for ours.
    """

    vectors: vectors.Specs
    versions: bool = False


# Ids


def point_id(value: Any) -> int | str:
    """The id that the store knows the point by: for a text that is no UUID, a UUID made of it."""
    known = canonical_id(value)
    if isinstance(known, int) or is_uuid(known):
        return known
    return str(uuid5(TEXT_IDS, known))


# Images


def complete(info: CollectionInfo, record: Mapping[str, Any]) -> Record:
    """The image that the store will return of `record`; raises InvalidOperation for what it cannot hold."""
    for name in record:
        if name not in FIELDS:
            raise unknown_field(name)
    given = record.get("id")
    out: Record = {"id": str(uuid4()) if given is None else canonical_id(given)}
    vector = vectors.canonical(info.vectors, record.get("vector"))
    if vector is not None:
        out["vector"] = vector
    metadata = record.get("metadata")
    out["metadata"] = {} if metadata is None else canonical_metadata(metadata)
    return out


def unknown_field(name: str) -> UnknownField:
    """The error about a field beside the three that a point has."""
    return UnknownField(
        "a point has the fields id, vector and metadata",
        field=name,
        hint=f"a payload field is written `metadata.{name}`, or inside `metadata`",
    )


def canonical_metadata(value: Any) -> Record:
    """The metadata as the store will return it; raises InvalidOperation for what it cannot hold."""
    if not isinstance(value, Mapping):
        raise InvalidOperation(f"it is a mapping, not {type(value).__name__}", field="metadata")
    out = payload_value(value, "metadata")
    assert isinstance(out, dict)  # noqa: S101
    return out


def payload_value(value: Any, field: str) -> Any:
    """One payload value as the store will return it; raises InvalidOperation naming the field."""
    match value:
        case None | bool():
            return value
        case str():
            return _text(value, field)
        case int():
            if value not in _INTS:
                raise InvalidOperation(f"{value} is beyond 64 bits", field=field, hint="store it as text")
            return value
        case float():
            if not math.isfinite(value):
                raise InvalidOperation(f"a payload cannot hold {value!r}", field=field)
            return value
        case Mapping():
            return _mapping(value, field)
        case list() | tuple():
            return [payload_value(item, f"{field}.{index}") for index, item in enumerate(value)]
    raise InvalidOperation(
        f"a payload holds JSON, and no {type(value).__name__}", field=field, hint=_instead(value)
    )


def _mapping(value: Mapping[Any, Any], field: str) -> Record:
    out = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise InvalidOperation(f"names in a payload are text, not {name!r}", field=field)
        if item is not None:
            out[_text(name, field)] = payload_value(item, f"{field}.{name}")
    return dict(sorted(out.items()))


def _text(value: str, field: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidOperation("text with a lone surrogate cannot be stored", field=field) from None
    return value


def _instead(value: Any) -> str:
    if isinstance(value, date | time):
        return "give the text of its isoformat()"
    if isinstance(value, Decimal):
        return "give text or a float"
    return "give text, numbers, true or false, lists and mappings"


def image(info: CollectionInfo, point: models.Record | models.ScoredPoint, *, local: bool) -> Record:
    """The image of a point that the client returned."""
    metadata = dict(point.payload or {})
    shown: int | str = point.id if isinstance(point.id, int) else str(point.id)
    text = metadata.get(info.config.id_field)
    if isinstance(text, str) and text and text != shown and point_id(text) == shown:
        shown = metadata.pop(info.config.id_field)
    out: Record = {"id": shown}
    vector = vectors.from_store(info.vectors, point.vector, local=local)
    if vector is not None:
        out["vector"] = vector
    out["metadata"] = without_nulls(metadata)
    return out


def without_nulls(value: Any) -> Any:
    """`value` without the null fields of its mappings, their names sorted: a server keeps no order of them."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in sorted(value.items()) if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def point(info: CollectionInfo, record: Record) -> models.PointStruct:
    """The point that `record`, an image, is stored as."""
    known = point_id(record["id"])
    payload = dict(record.get("metadata") or {})
    if known != record["id"]:
        payload[info.config.id_field] = record["id"]
    return models.PointStruct(id=known, vector=vectors.to_store(record.get("vector")), payload=payload)
