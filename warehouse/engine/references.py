"""References between steps (`{"$ref": "step.field"}`) and escaped values (`{"$literal": ...}`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any, Final

from warehouse.errors import InvalidOperation

# Most values are these, and to ask whether something is a Mapping is slow.
_SCALARS: Final = (str, int, float, bytes, NoneType)
_MAPPINGS: Final = (dict, Mapping)


def references(value: Any) -> Iterator[str]:
    """Every reference in `value`, at any depth."""
    if isinstance(value, _SCALARS):
        return
    if isinstance(value, _MAPPINGS):
        if len(value) == 1 and "$ref" in value:
            yield value["$ref"]
        elif len(value) != 1 or "$literal" not in value:
            for item in value.values():
                yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def split(reference: Any) -> tuple[str, str]:
    """The step and the path of a reference; InvalidOperation where it is none."""
    step, dot, path = reference.partition(".") if isinstance(reference, str) else ("", "", "")
    if not step or not dot or not path:
        raise InvalidOperation(f"the reference {reference!r} is not of the form 'step.field'")
    return step, path


def substitute(value: Any, lookup: Callable[[str], Any]) -> Any:
    """`value` with references replaced by what `lookup` gives, and literals unwrapped."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, _MAPPINGS):
        if len(value) == 1:
            if "$ref" in value:
                return lookup(value["$ref"])
            if "$literal" in value:
                return value["$literal"]
        return {name: substitute(item, lookup) for name, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, lookup) for item in value]
    if isinstance(value, tuple):
        return tuple(substitute(item, lookup) for item in value)
    return value
