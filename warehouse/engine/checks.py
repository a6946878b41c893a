"""What is refused before any store is written: what it cannot do, does not have, or could not undo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from warehouse import conditions
from warehouse.adapter import Capabilities, EntityInfo
from warehouse.conditions import Condition
from warehouse.engine.references import is_flat
from warehouse.errors import ConfigError, InvalidOperation, UnknownField, did_you_mean
from warehouse.operations import Insert, Source, StoreOperation, Upsert
from warehouse.records import ABSENT, get, overlaps
from warehouse.registry import Participant
from warehouse.updates import Assignment


def check_records(operation: Insert | Upsert) -> None:
    """Refuse records whose fields could not be told apart from paths and operators."""
    known: set[tuple[str, ...]] = set()  # most records have the same fields
    for record in operation.records:
        names = tuple(record)
        if names not in known:
            _check_fields(names)
            known.add(names)
        for name, value in () if is_flat(record) else record.items():
            if isinstance(value, dict):
                if any(str(key).startswith("$") for key in value):
                    _check_value(name, value)
                _check_names(name, value)
    if isinstance(operation, Upsert):
        for path in operation.update_fields or ():
            if any(get(record, path) is ABSENT for record in operation.records):
                raise InvalidOperation("a record lacks this one of its update_fields", field=path)


def _check_fields(names: Iterable[str]) -> None:
    for name in names:
        if not name or name.startswith("$") or "\0" in name:
            raise InvalidOperation(f"{name!r} is no field name", field="data")
        if "." in name:
            raise InvalidOperation(
                "a record's field cannot have a dot in its name",
                field=name,
                hint="write what is nested as a nested mapping",
            )


def _check_names(path: str, value: Any) -> None:
    """Refuse names inside a value that no store could keep."""
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and (not isinstance(name, str) or "\0" in name):
            raise InvalidOperation(
                f"{name!r} is no name: those in a mapping are text without NUL", field=path
            )
        if isinstance(item, dict | list):
            _check_names(f"{path}.{name}", item)


def _check_value(name: str, value: dict[str, Any]) -> None:
    conditions.refuse_company(name, value)
    if set(value) not in ({"$ref"}, {"$literal"}):
        raise InvalidOperation(
            f"{next(iter(value))} is not for new records",
            field=name,
            hint="use it in an update, or write {'$literal': ...} if it is a value",
        )


def check_paths(operation: StoreOperation) -> None:
    """Refuse what is no path in any of the lists of fields."""
    for name in ("returning", "conflict_keys", "update_fields"):
        for path in getattr(operation, name, None) or ():
            try:
                conditions.check_path(path)
            except InvalidOperation as error:
                error.locate(field=name)
                raise


def check_type(source: Source, participant: Participant) -> None:
    """Refuse a source whose `type` is not that of its tag."""
    if source.type is not None and source.type != participant.adapter.type:
        raise InvalidOperation(
            f"the tag {source.tag!r} is a {participant.adapter.type}, not a {source.type}", field="from.type"
        )


def check_operation(operation: StoreOperation, capabilities: Capabilities) -> None:
    if operation.operation not in capabilities.operations:
        raise InvalidOperation(f"{capabilities.store} cannot {operation.operation}")
    if operation.from_.relationship is not None and not capabilities.relationships:
        raise InvalidOperation(f"{capabilities.store} has no relationships", field="from.relationship")


def check_operators(where: Condition, assignments: Sequence[Assignment], capabilities: Capabilities) -> None:
    store = capabilities.store
    for item in conditions.comparisons(where):
        if item.operator not in capabilities.conditions:
            raise InvalidOperation(f"{store} does not support {item.operator}", field=item.path)
    for assignment in assignments:
        if assignment.operator not in capabilities.updates:
            raise InvalidOperation(f"{store} does not support {assignment.operator}", field=assignment.path)


def check_fields(
    operation: StoreOperation, where: Condition, assignments: Sequence[Assignment], info: EntityInfo
) -> None:
    check_convert(info)
    written = _written(operation, assignments)
    check_known(info, written)
    if info.generated:
        for path in sorted(written):
            if path.partition(".")[0] in info.generated:
                raise InvalidOperation("the store generates this field; it cannot be written", field=path)
    check_known(info, conditions.paths(where))
    check_known(info, operation.returning or ())
    if isinstance(operation, Upsert):
        check_known(info, operation.conflict_keys or ())
        check_known(info, operation.update_fields or ())


def check_convert(info: EntityInfo) -> None:
    """Refuse a configured conversion of a field that the entity does not have."""
    for path in info.config.convert:
        if not knows(info, [path]):
            raise ConfigError(
                "`convert` names a field that is not there",
                field=path,
                hint=did_you_mean(path, info.fields or ()),
            )


def knows(info: EntityInfo, paths: Iterable[str]) -> bool:
    fields = info.fields
    if fields is None:
        return True
    return all(path in fields or path.partition(".")[0] in fields for path in paths)


def check_known(info: EntityInfo, paths: Iterable[str]) -> None:
    if knows(info, paths):
        return
    for path in sorted(paths):
        if not knows(info, [path]):
            hint = did_you_mean(path, info.fields or ())
            if "metadata" in (info.fields or ()):
                hint = f"payload fields are written as 'metadata.{path}'"
            raise UnknownField(f"{info.entity.name!r} has no such field", field=path, hint=hint)


def _written(operation: StoreOperation, assignments: Sequence[Assignment]) -> set[str]:
    if isinstance(operation, Insert | Upsert):
        if operation.from_.relationship is not None:
            return set()
        return {str(name) for record in operation.records for name in record}
    return {item.path for item in assignments}


def check_keys(operation: StoreOperation, assignments: Sequence[Assignment], info: EntityInfo) -> None:
    """Refuse to change a key, or to upsert by what is no key."""
    for item in assignments:
        if any(overlaps(item.path, part) for part in info.key):
            raise InvalidOperation(
                "a key cannot be changed",
                field=item.path,
                hint="delete the record and insert it under its new key",
            )
    if isinstance(operation, Upsert):
        _check_conflict_keys(operation, info)


def check_guards(capabilities: Capabilities, info: EntityInfo) -> None:
    """Refuse writes that could silently overwrite those of others."""
    if not capabilities.holds and capabilities.guards == "none" and not info.config.allow_unguarded:
        raise InvalidOperation(
            f"{capabilities.store} {capabilities.version} cannot guard its writes",
            hint="set allow_unguarded for the entity if nobody else writes to it",
        )


def _check_conflict_keys(operation: Upsert, info: EntityInfo) -> None:
    keys = operation.conflict_keys or info.key
    if not keys:
        raise InvalidOperation("an upsert needs `conflict_keys`, or a key in the store or the configuration")
    unique = [set(info.key), *(set(fields) for fields in info.unique)]
    if info.fields is not None and set(keys) not in unique:
        known = " or ".join(str(sorted(fields)) for fields in unique if fields)
        raise InvalidOperation(
            f"no unique constraint covers the conflict_keys {list(keys)}",
            field="conflict_keys",
            hint=f"use {known}" if known else None,
        )
    if info.entity.kind == "record":
        for record in operation.records:
            for path in keys:
                if _missing(get(record, path)):
                    raise InvalidOperation("a record lacks this one of its conflict_keys", field=path)


def _missing(value: Any) -> bool:
    return value is None or value is ABSENT
