"""From operations to steps: names, order, references, and every check before a store is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from warehouse import conditions, conversions, updates
from warehouse.actions import Action, Actions
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
)
from warehouse.engine.dependencies import check_references, content, depends_on, in_order
from warehouse.engine.references import references, substitute, substitute_ends
from warehouse.errors import (
    ConfigError,
    InvalidOperation,
    NotPermitted,
    StoreUnavailable,
    UnknownField,
    WarehouseError,
)
from warehouse.operations import Call, Delete, Insert, Operation, StoreOperation, Update, Upsert, parse
from warehouse.records import Entity
from warehouse.registry import Participant, Registry
from warehouse.updates import Assignment


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStep:
    """A step that calls an action. It has no store; the journal knows what it did, and what takes that back."""

    index: int
    name: str
    operation: Call
    action: Action
    depends: frozenset[int]
    refers: bool

    @property
    def tag(self) -> str:
        return ""

    @property
    def store(self) -> str:
        return ""

    def arguments(self, lookup: Callable[[str], Any]) -> dict[str, Any]:
        """What the action is called with, with every reference replaced by what `lookup` gives."""
        return {name: substitute(value, lookup) for name, value in self.operation.args.items()}

    def locate(self, error: WarehouseError) -> WarehouseError:
        """`error`, told where it happened."""
        return error.locate(step=self.name)


AnyStep: TypeAlias = Step | CallStep


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


async def plan(
    operations: Mapping[str, Operation], registry: Registry, actions: Actions, deadline: float
) -> list[AnyStep]:
    """The steps of `operations`, in order. Raises InvalidOperation (or a subclass) for what cannot be run.

    Raises StoreUnavailable where a participant cannot be reached for its description, or not before `deadline`.
    """
    names = list(operations)
    drafts = [draft(item, index, names, registry, actions) for index, item in enumerate(operations.values())]
    in_order(drafts, key=lambda item: item.index)
    steps: list[AnyStep] = []
    with anyio.CancelScope(deadline=deadline):
        for item in drafts:
            steps.append(await check(item, registry))  # noqa: PERF401 - `late` looks at how far this came
        check_references(steps)
        return steps
    late = StoreUnavailable("it did not answer within the transaction's timeout", hint="raise `timeout`")
    raise _locate(late, drafts[len(steps)].name, drafts[len(steps)].operation)


def draft(
    operation: Operation, index: int, names: Sequence[str], registry: Registry, actions: Actions
) -> Draft | CallStep:
    """One operation of a transaction whose steps have `names`, before its store is asked. Raises as `plan`."""
    try:
        found = list(references(content(operation)))
        depends = depends_on(operation, found, index, names)
        if isinstance(operation, Call):
            return _call(operation, index, names[index], actions, depends, refers=bool(found))
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


def _call(
    operation: Call, index: int, name: str, actions: Actions, depends: frozenset[int], *, refers: bool
) -> CallStep:
    action = actions.get(operation.action)
    action.check(operation.args)
    return CallStep(
        index=index, name=name, operation=operation, action=action, depends=depends, refers=refers
    )


async def check(item: Draft | CallStep, registry: Registry) -> AnyStep:
    """The step, once its store was connected and everything that it says was checked. Raises as `plan`."""
    if isinstance(item, CallStep):
        return item
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


def no_reference(text: str) -> Any:
    """A `lookup` for where there are no other steps."""
    raise InvalidOperation(f"the reference {text!r} cannot be used here")
