"""What the adapter refuses of an operation before the store is touched."""

from __future__ import annotations

from warehouse import conditions
from warehouse.adapter import Request
from warehouse.errors import InvalidOperation, UnknownField, did_you_mean
from warehouse.records import Record
from warehouse.updates import Assignment
from warehouse_adapters.qdrant import points, vectors
from warehouse_adapters.qdrant.points import CollectionInfo


def check(info: CollectionInfo, request: Request) -> None:
    """Raise InvalidOperation, naming the field, for what a point of the collection cannot hold."""
    for record in request.records:
        _check_record(info, record)
    for item in request.assignments:
        _check_assignment(info, item)
    for path in (
        *conditions.paths(request.where),
        *request.conflict_keys,
        *(request.update_fields or ()),
    ):
        _check_path(path)


def _check_record(info: CollectionInfo, record: Record) -> None:
    completed = points.complete(info, record)
    _check_reserved(info, completed["metadata"])


def _check_reserved(info: CollectionInfo, metadata: Record) -> None:
    if info.config.id_field in metadata:
        raise InvalidOperation(
            "this payload field keeps the id of points whose id is text",
            field=f"metadata.{info.config.id_field}",
            hint="choose another `id_field` in the entity's configuration",
        )


def _check_path(path: str) -> None:
    head = path.partition(".")[0]
    if head not in points.FIELDS:
        raise points.unknown_field(path)


def _check_assignment(info: CollectionInfo, item: Assignment) -> None:
    _check_path(item.path)
    head, _, rest = item.path.partition(".")
    if head == "id":
        raise InvalidOperation("the id of a point cannot be changed", field=item.path)
    if head == "vector":
        _check_vector(info, item, rest)
    elif not rest:
        if item.operator not in {"$set", "$unset"}:
            raise InvalidOperation(f"{item.operator} does not fit the whole metadata", field=item.path)
        if item.operator == "$set" and item.value is not None:
            _check_reserved(info, points.canonical_metadata(item.value))
    else:
        if rest.partition(".")[0] == info.config.id_field:
            _check_reserved(info, {info.config.id_field: None})
        if item.operator != "$unset":
            points.payload_value(item.value, item.path)


def _check_vector(info: CollectionInfo, item: Assignment, name: str) -> None:
    if item.operator not in {"$set", "$unset"}:
        raise InvalidOperation(f"{item.operator} does not fit a vector", field=item.path)
    if not name:
        vectors.canonical(info.vectors, None if item.operator == "$unset" else item.value)
        return
    if name not in info.vectors or "." in name:
        known = sorted(other for other in info.vectors if other and "." not in other)
        raise UnknownField(
            "the collection has no such vector",
            field=item.path,
            hint=did_you_mean(name, known) if known else "write `vector` as a whole",
        )
    if item.operator == "$set" and item.value is not None:
        vectors.one(info.vectors[name], item.value, item.path)
