"""From operations to steps: names, order, references, and every check before a store is touched."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse import conditions, updates
from warehouse.adapter import Capabilities, EntityInfo, Query, Request
from warehouse.conditions import Condition
from warehouse.engine.references import references, split, substitute
from warehouse.errors import (
    InvalidOperation,
    NotPermitted,
    UnknownField,
    WarehouseError,
    did_you_mean,
)
from warehouse.operations import (
    Call,
    Delete,
    Insert,
    Operation,
    Source,
    StoreOperation,
    Update,
    Upsert,
    parse,
)
from warehouse.records import ABSENT, get, overlaps
from warehouse.registry import Participant, Registry
from warehouse.updates import Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation, checked, with its participant; `depends` are the steps that must come before it."""

    index: int
    name: str
    operation: StoreOperation
    participant: Participant
    info: EntityInfo
    where: Condition
    assignments: tuple[Assignment, ...]
    depends: frozenset[int]

    @property
    def tag(self) -> str:
        return self.participant.tag

    @property
    def store(self) -> str:
        """The identity of its store: steps of one store share a unit."""
        return self.participant.identity

    def request(self, lookup: Callable[[str], Any]) -> Request:
        """What the adapter executes, with every reference replaced by what `lookup` gives."""
        operation = self.operation
        records: tuple[dict[str, Any], ...] = ()
        conflict_keys: tuple[str, ...] = ()
        update_fields = None
        if isinstance(operation, Insert | Upsert):
            records = tuple(substitute(record, lookup) for record in operation.records)
        if isinstance(operation, Upsert):
            conflict_keys = operation.conflict_keys or self.info.key
            update_fields = operation.update_fields

        def resolve(value: Any) -> Any:
            return substitute(value, lookup)

        return Request(
            step=self.name,
            operation=operation.operation,
            info=self.info,
            records=records,
            where=conditions.bind(self.where, resolve),
            assignments=updates.bind(self.assignments, resolve),
            conflict_keys=conflict_keys,
            update_fields=update_fields,
            detach=operation.detach if isinstance(operation, Delete) else True,
        )

    def locate(self, error: WarehouseError) -> WarehouseError:
        """`error`, told where it happened."""
        return error.locate(step=self.name, tag=self.tag, entity=self.info.entity.name)


def parse_all(operations: Sequence[Mapping[str, Any] | Operation]) -> dict[str, Operation]:
    """The operations by step name, in order. Raises InvalidOperation for what is malformed."""
    if isinstance(operations, Mapping) or not isinstance(operations, Sequence):
        raise InvalidOperation("a transaction takes a list of operations")
    if not operations:
        raise InvalidOperation("a transaction needs at least one operation")
    parsed = [parse(operation, _name(operation, index)) for index, operation in enumerate(operations)]
    names = [operation.name or f"step_{index}" for index, operation in enumerate(parsed)]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidOperation("two steps have this name", step=name, hint="names must differ")
    return dict(zip(names, parsed, strict=True))


async def plan(operations: Mapping[str, Operation], registry: Registry) -> list[Step]:
    """The steps of `operations`, in order. Raises InvalidOperation (or a subclass) for what cannot be run.

    Raises StoreUnavailable where a participant cannot be reached for its description.
    """
    names = list(operations)
    steps = [await plan_step(item, index, names, registry) for index, item in enumerate(operations.values())]
    in_order(steps, key=lambda step: step.index)
    return steps


def _name(operation: Any, index: int) -> str:
    name = operation.get("name") if isinstance(operation, Mapping) else operation.name
    return name if isinstance(name, str) and name else f"step_{index}"


async def plan_step(operation: Operation, index: int, names: Sequence[str], registry: Registry) -> Step:
    """One step of a transaction whose steps have `names`. Raises as `plan`."""
    name = names[index]
    tag = None if isinstance(operation, Call) else operation.from_.tag
    try:
        if isinstance(operation, Call):
            raise InvalidOperation("calls are not supported yet", hint="run the action before or after")
        depends = _depends(operation, index, names)
        participant = registry.get(operation.from_.tag)
        check_type(operation.from_, participant)
        if participant.settings.read_only:
            raise NotPermitted("the configuration says read_only", hint="write through another tag")
        participant = await registry.connected(operation.from_.tag)
        return await _checked(operation, index, name, participant, depends)
    except WarehouseError as error:
        entity = None if isinstance(operation, Call) else operation.from_.target.name
        error.locate(step=name, tag=tag, entity=entity)
        raise


async def _checked(
    operation: StoreOperation, index: int, name: str, participant: Participant, depends: frozenset[int]
) -> Step:
    """The step, once everything that the participant's description says has been checked."""
    where = conditions.parse(getattr(operation, "where", None))
    assignments = updates.parse(operation.data) if isinstance(operation, Update) else ()
    _check_operation(operation, participant.adapter.capabilities)
    _check_operators(where, assignments, participant.adapter.capabilities)
    info = await participant.adapter.describe(operation.from_.target)
    try:
        _check_fields(operation, where, assignments, info)
    except UnknownField:
        info = await participant.adapter.describe(operation.from_.target, fresh=True)
        _check_fields(operation, where, assignments, info)
    step = Step(
        index=index,
        name=name,
        operation=operation,
        participant=participant,
        info=info,
        where=where,
        assignments=assignments,
        depends=depends,
    )
    _check_keys(step)
    if not any(True for _ in references(_content(operation))):
        participant.adapter.check(step.request(_no_reference))
    return step


def _no_reference(reference: str) -> Any:
    raise InvalidOperation(f"the reference {reference!r} cannot be used here")


def _content(operation: StoreOperation) -> list[Any]:
    return [getattr(operation, "data", None), getattr(operation, "where", None)]


def _depends(operation: StoreOperation, index: int, names: Sequence[str]) -> frozenset[int]:
    """The indexes of the steps that `after` and the references name."""
    out = set()
    for name in operation.after:
        if name not in names:
            raise InvalidOperation(
                f"`after` names the step {name!r}, which is not there",
                field="after",
                hint=did_you_mean(name, names),
            )
        out.add(names.index(name))
    for reference in references(_content(operation)):
        name, _ = split(reference)
        if name not in names[:index]:
            problem = "comes later" if name in names else "is not there"
            raise InvalidOperation(
                f"the reference {reference!r} names a step that {problem}",
                hint=did_you_mean(name, names[:index]),
            )
        out.add(names.index(name))
    if index in out:
        raise InvalidOperation("a step cannot come after itself", field="after")
    return frozenset(out)


# Checks


def check_type(source: Source, participant: Participant) -> None:
    """Refuse a source whose `type` is not that of its tag."""
    if source.type is not None and source.type != participant.adapter.type:
        raise InvalidOperation(
            f"the tag {source.tag!r} is a {participant.adapter.type}, not a {source.type}", field="from.type"
        )


def _check_operation(operation: StoreOperation, capabilities: Capabilities) -> None:
    if operation.operation not in capabilities.operations:
        raise InvalidOperation(f"{capabilities.store} cannot {operation.operation}")
    if operation.from_.relationship is not None and not capabilities.relationships:
        raise InvalidOperation(f"{capabilities.store} has no relationships", field="from.relationship")


def _check_operators(where: Condition, assignments: Sequence[Assignment], capabilities: Capabilities) -> None:
    store = capabilities.store
    for item in conditions.comparisons(where):
        if item.operator not in capabilities.conditions:
            raise InvalidOperation(f"{store} does not support {item.operator}", field=item.path)
    for assignment in assignments:
        if assignment.operator not in capabilities.updates:
            raise InvalidOperation(f"{store} does not support {assignment.operator}", field=assignment.path)


def _check_fields(
    operation: StoreOperation, where: Condition, assignments: Sequence[Assignment], info: EntityInfo
) -> None:
    written = _written(operation, assignments)
    named = {*written, *conditions.paths(where), *(operation.returning or ())}
    if isinstance(operation, Upsert):
        named |= {*(operation.conflict_keys or ()), *(operation.update_fields or ())}
    _check_known(info, named)
    for path in sorted(written):
        if path.partition(".")[0] in info.generated:
            raise InvalidOperation("the store generates this field; it cannot be written", field=path)


def _knows(info: EntityInfo, paths: Iterable[str]) -> bool:
    return info.fields is None or all(path.partition(".")[0] in info.fields for path in paths)


def _check_known(info: EntityInfo, paths: Iterable[str]) -> None:
    for path in sorted(paths):
        if not _knows(info, [path]):
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


def _check_keys(step: Step) -> None:
    operation, info = step.operation, step.info
    for item in step.assignments:
        if any(overlaps(item.path, part) for part in info.key):
            raise InvalidOperation(
                "a key cannot be changed",
                field=item.path,
                hint="delete the record and insert it under its new key",
            )
    if isinstance(operation, Upsert):
        _check_conflict_keys(operation, info)
    capabilities = step.participant.adapter.capabilities
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


async def plan_query(
    source: Source, query: Mapping[str, Any], registry: Registry
) -> tuple[Participant, Query]:
    """A read, checked like a step. `query` has the fields of `Query`, with `where` and `fields` as written."""
    participant = registry.get(source.tag)
    try:
        check_type(source, participant)
        participant = await registry.connected(source.tag)
        capabilities = participant.adapter.capabilities
        where = conditions.parse(query["where"])
        where = conditions.bind(where, lambda value: substitute(value, _no_reference))
        _check_operators(where, (), capabilities)
        if query["near"] is not None and participant.adapter.type != "vector":
            raise InvalidOperation(f"{capabilities.store} has no vectors to be near to", field="near")
        order_by = tuple(query["order_by"] or ())
        named = {
            *conditions.paths(where),
            *(query["fields"] or ()),
            *(name.removeprefix("-") for name in order_by),
        }
        info = await participant.adapter.describe(source.target)
        if not _knows(info, named):
            info = await participant.adapter.describe(source.target, fresh=True)
            _check_known(info, named)
    except WarehouseError as error:
        error.locate(tag=source.tag, entity=source.target.name)
        raise
    return participant, Query(
        info=info,
        where=where,
        order_by=order_by,
        limit=query["limit"],
        offset=query["offset"] or 0,
        near=query["near"],
        lock=query["lock"],
    )


# Order


def in_order(steps: Iterable[Step], key: Callable[[Step], Any]) -> list[Step]:
    """`steps` with everything after what it depends on, otherwise by `key`. InvalidOperation on a circle."""
    waiting = {step.index: step for step in steps}
    if not any(step.depends for step in waiting.values()):
        return sorted(waiting.values(), key=key)
    known = set(waiting)
    ready: list[tuple[Any, int]] = []
    missing = {index: set(step.depends) & known for index, step in waiting.items()}
    for index, step in waiting.items():
        if not missing[index]:
            heapq.heappush(ready, (key(step), index))
    out: list[Step] = []
    while ready:
        _, index = heapq.heappop(ready)
        out.append(waiting[index])
        for other, left in missing.items():
            if index in left:
                left.discard(index)
                if not left:
                    heapq.heappush(ready, (key(waiting[other]), other))
    if len(out) < len(waiting):
        circle = [step.name for step in waiting.values() if step not in out]
        raise InvalidOperation(f"the steps {', '.join(circle)} wait for each other", field="after")
    return out
