"""What steps depend on: the references between them, and the order that follows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from warehouse.engine.checks import knows
from warehouse.engine.references import Reference, reference, references
from warehouse.errors import InvalidOperation, UnknownField, WarehouseError, did_you_mean
from warehouse.operations import Call, Delete, Insert, Operation, Update, Upsert

if TYPE_CHECKING:
    from warehouse.engine.plan import AnyStep, CallStep, Draft

D = TypeVar("D", bound="Draft | CallStep")


def content(operation: Operation) -> list[Any]:
    """The parts of an operation that may hold references."""
    if isinstance(operation, Call):
        return [operation.args]
    if isinstance(operation, Delete):
        return [operation.where]
    return [operation.data, operation.where] if isinstance(operation, Update) else [operation.data]


_NOTHING: Final[frozenset[int]] = frozenset()


def depends_on(
    operation: Operation, found: Sequence[str], index: int, names: Sequence[str]
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


def check_references(steps: Sequence[AnyStep], earlier: Iterable[AnyStep] = ()) -> None:
    """Refuse a reference of `steps` to what the step that it names (one of them, or `earlier`) cannot put out."""
    by_name = {step.name: step for step in (*earlier, *steps)}
    for step in steps:
        if step.refers:
            for found in map(reference, references(content(step.operation))):
                try:
                    _check_reference(found, by_name[found.step])
                except WarehouseError as error:
                    step.locate(error)
                    raise


def _check_reference(found: Reference, target: AnyStep) -> None:
    info, operation = getattr(target, "info", None), target.operation
    if info is None or isinstance(operation, Call):
        return  # what a call puts out is known once it was made
    if isinstance(operation, Insert | Upsert):
        found.check_count(len(operation.records))
    returning = operation.returning
    if returning is not None and not any(f"{found.path}.".startswith(f"{item}.") for item in returning):
        raise InvalidOperation(
            f"the reference {found.text!r} names a field that `returning` of {target.name} leaves out",
            hint="name it there",
        )
    if not knows(info, [found.path]):
        raise UnknownField(
            f"the reference {found.text!r} names a field that {info.entity.name!r} does not have",
            hint=did_you_mean(found.path, info.fields or ()),
        )


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
