"""From operations to steps: names, order, references, and every check before a store is touched."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import anyio

from warehouse import conditions, conversions, updates
from warehouse.adapter import EntityInfo, Request
from warehouse.conditions import EVERYTHING, Condition
from warehouse.engine.checks import (
    check_fields,
    check_guards,
    check_keys,
    check_operation,
    check_operators,
    check_paths,
    check_records,
    check_type,
    knows,
)
from warehouse.engine.references import Reference, reference, references, substitute, substitute_ends
from warehouse.errors import (
    ConfigError,
    InvalidOperation,
    NotPermitted,
    StoreUnavailable,
    UnknownField,
    WarehouseError,
    did_you_mean,
)
from warehouse.operations import Call, Delete, Insert, Operation, StoreOperation, Update, Upsert, parse
from warehouse.records import Entity
from warehouse.registry import Participant, Registry
from warehouse.updates import Assignment

D = TypeVar("D", bound="Draft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One operation, checked as far as that goes without asking its store.

    `depends` are the steps that must come before it.
    """

    index: int
    name: str
    operation: StoreOperation
    participant: Participant
    where: Condition
    assignments: tuple[Assignment, ...]
    depends: frozenset[int]
    refers: bool

    @property
    def tag(self) -> str:
        return self.participant.tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Draft):
    """One operation, checked, with what its store knows of its entity.

    `ready` is what the adapter executes, where no reference has to be resolved first.
    """

    info: EntityInfo
    ready: Request | None = None

    @property
    def store(self) -> str:
        """The identity of its store: steps of one store share a unit."""
        return self.participant.identity

    def request(self, lookup: Callable[[str], Any]) -> Request:
        """What the adapter executes, with every reference replaced by what `lookup` gives."""
        return self.ready or make_request(self, self.info, lookup)

    async def describe(self, entity: Entity) -> EntityInfo:
        """What is known of an entity that the step changed: its own, or a dependent's."""
        return self.info if entity == self.info.entity else await self.participant.adapter.describe(entity)

    def locate(self, error: WarehouseError) -> WarehouseError:
        """`error`, told where it happened."""
        return error.locate(step=self.name, tag=self.tag, entity=self.info.entity.name)


def make_request(item: Draft, info: EntityInfo, lookup: Callable[[str], Any]) -> Request:
    """What an adapter executes for `item`, with every reference replaced by what `lookup` gives."""
    operation = item.operation
    records: tuple[dict[str, Any], ...] = ()
    conflict_keys: tuple[str, ...] = ()
    update_fields = None
    if isinstance(operation, Insert | Upsert):
        related = operation.from_.relationship is not None
        fill = substitute_ends if related else substitute
        records = tuple(fill(record, lookup) for record in operation.records)
    if isinstance(operation, Upsert):
        conflict_keys = operation.conflict_keys or info.key
        update_fields = operation.update_fields

    def resolve(value: Any) -> Any:
        return substitute(value, lookup)

    where = conditions.bind(item.where, resolve)
    assignments = updates.bind(item.assignments, resolve)
    if configured := info.config.convert:
        records = tuple(conversions.convert_record(record, configured) for record in records)
        where = conversions.convert_condition(where, configured)
        assignments = tuple(conversions.convert_assignment(each, configured) for each in assignments)
    return Request(
        step=item.name,
        operation=operation.operation,
        info=info,
        records=records,
        where=where,
        assignments=assignments,
        conflict_keys=conflict_keys,
        update_fields=update_fields,
        detach=operation.detach if isinstance(operation, Delete) else True,
    )


def parse_all(operations: Sequence[Mapping[str, Any] | Operation]) -> dict[str, Operation]:
    """The operations by step name, in order. Raises InvalidOperation for what is malformed."""
    if isinstance(operations, Mapping | str | bytes) or not isinstance(operations, Sequence):
        raise InvalidOperation("a transaction takes a list of operations")
    if not operations:
        raise InvalidOperation("a transaction needs at least one operation")
    parsed = [parse(operation, _name(operation, index)) for index, operation in enumerate(operations)]
    names = [operation.name or f"step_{index}" for index, operation in enumerate(parsed)]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidOperation("two steps have this name", step=name, hint="names must differ")
    return dict(zip(names, parsed, strict=True))


def _name(operation: Any, index: int) -> str:
    name = operation.get("name") if isinstance(operation, Mapping) else getattr(operation, "name", None)
    return name if isinstance(name, str) and name else f"step_{index}"


async def plan(operations: Mapping[str, Operation], registry: Registry, deadline: float) -> list[Step]:
    """The steps of `operations`, in order. Raises InvalidOperation (or a subclass) for what cannot be run.

    Raises StoreUnavailable where a participant cannot be reached for its description, or not before `deadline`.
    """
    names = list(operations)
    drafts = [draft(item, index, names, registry) for index, item in enumerate(operations.values())]
    in_order(drafts, key=lambda item: item.index)
    steps: list[Step] = []
    with anyio.CancelScope(deadline=deadline):
        for item in drafts:
            steps.append(await check(item, registry))  # noqa: PERF401 - `late` looks at how far this came
        check_references(steps)
        return steps
    late = StoreUnavailable("it did not answer within the transaction's timeout", hint="raise `timeout`")
    raise _locate(late, drafts[len(steps)].name, drafts[len(steps)].operation)


def draft(operation: Operation, index: int, names: Sequence[str], registry: Registry) -> Draft:
    """One operation of a transaction whose steps have `names`, before its store is asked. Raises as `plan`."""
    try:
        if isinstance(operation, Call):
            raise InvalidOperation("calls are not supported yet", hint="run the action before or after")
        found = list(references(_content(operation)))
        depends = _depends(operation, found, index, names)
        participant = registry.get(operation.from_.tag)
        check_type(operation.from_, participant)
        if participant.settings.read_only:
            raise NotPermitted("the configuration says read_only", hint="write through another tag")
        check_paths(operation)
        if isinstance(operation, Insert | Upsert) and operation.from_.relationship is None:
            check_records(operation)
        return Draft(
            index=index,
            name=names[index],
            operation=operation,
            participant=participant,
            where=conditions.parse(operation.where) if isinstance(operation, Update | Delete) else EVERYTHING,
            assignments=updates.parse(operation.data) if isinstance(operation, Update) else (),
            depends=depends,
            refers=bool(found),
        )
    except WarehouseError as error:
        _locate(error, names[index], operation)
        raise


async def check(item: Draft, registry: Registry) -> Step:
    """The step, once its store was connected and everything that it says was checked. Raises as `plan`."""
    try:
        await registry.connected(item.tag)
        return await _checked(item)
    except WarehouseError as error:
        _locate(error, item.name, item.operation)
        raise


def _locate(error: WarehouseError, name: str, operation: Operation) -> WarehouseError:
    if isinstance(operation, Call):
        return error.locate(step=name)
    return error.locate(step=name, tag=operation.from_.tag, entity=operation.from_.target.name)


async def _checked(item: Draft) -> Step:
    operation, adapter = item.operation, item.participant.adapter
    check_operation(operation, adapter.capabilities)
    check_operators(item.where, item.assignments, adapter.capabilities)
    info = await adapter.describe(operation.from_.target)
    try:
        check_fields(operation, item.where, item.assignments, info)
    except (UnknownField, ConfigError):
        info = await adapter.describe(operation.from_.target, fresh=True)
        check_fields(operation, item.where, item.assignments, info)
    check_keys(operation, item.assignments, info)
    check_guards(adapter.capabilities, info)
    ready = None
    if not item.refers:
        ready = make_request(item, info, no_reference)
        adapter.check(ready)
    return Step(
        index=item.index,
        name=item.name,
        operation=operation,
        participant=item.participant,
        info=info,
        where=item.where,
        assignments=item.assignments,
        depends=item.depends,
        refers=item.refers,
        ready=ready,
    )


def check_references(steps: Sequence[Step]) -> None:
    """Refuse a reference to what the step that it names cannot put out."""
    by_name = {step.name: step for step in steps}
    for step in steps:
        if step.refers:
            for found in map(reference, references(_content(step.operation))):
                try:
                    _check_reference(found, by_name[found.step])
                except WarehouseError as error:
                    step.locate(error)
                    raise


def _check_reference(found: Reference, target: Step) -> None:
    operation = target.operation
    if isinstance(operation, Insert | Upsert):
        found.check_count(len(operation.records))
    returning = operation.returning
    if returning is not None and not any(f"{found.path}.".startswith(f"{item}.") for item in returning):
        raise InvalidOperation(
            f"the reference {found.text!r} names a field that `returning` of {target.name} leaves out",
            hint="name it there",
        )
    if not knows(target.info, [found.path]):
        raise UnknownField(
            f"the reference {found.text!r} names a field that {target.info.entity.name!r} does not have",
            hint=did_you_mean(found.path, target.info.fields or ()),
        )


def no_reference(text: str) -> Any:
    """A `lookup` for where there are no other steps."""
    raise InvalidOperation(f"the reference {text!r} cannot be used here")


def _content(operation: StoreOperation) -> list[Any]:
    """The parts of an operation that may hold references."""
    if isinstance(operation, Delete):
        return [operation.where]
    return [operation.data, operation.where] if isinstance(operation, Update) else [operation.data]


_NOTHING: Final[frozenset[int]] = frozenset()


def _depends(
    operation: StoreOperation, found: Sequence[str], index: int, names: Sequence[str]
) -> frozenset[int]:
    """The indexes of the steps that `after` and the references that were found name."""
    if not found and not operation.after:
        return _NOTHING
    out = set()
    for name in operation.after:
        if name not in names:
            raise InvalidOperation(
                f"`after` names the step {name!r}, which is not there",
                field="after",
                hint=did_you_mean(name, names),
            )
        out.add(names.index(name))
    for text in found:
        name = reference(text).step
        if name not in names[:index]:
            raise _misdirected(text, name, index, names)
        out.add(names.index(name))
    if index in out:
        raise InvalidOperation("a step cannot come after itself", field="after")
    return frozenset(out)


def _misdirected(text: str, name: str, index: int, names: Sequence[str]) -> InvalidOperation:
    if name == names[index]:
        return InvalidOperation(f"the reference {text!r} names its own step")
    problem = "comes later" if name in names else "is not there"
    hint = did_you_mean(name, names[:index]) if index else "this is the first step"
    return InvalidOperation(f"the reference {text!r} names a step that {problem}", hint=hint)


# Order


def in_order(steps: Iterable[D], key: Callable[[D], Any]) -> list[D]:
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
    out: list[D] = []
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
