"""References between steps (`{"$ref": "step.field"}`) and escaped values (`{"$literal": ...}`).

`step.field` is the field of the step's only record, or the list of it over several; `step.0.field` that of one
record, `step.*.field` always the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from types import NoneType
from typing import Any, Final, Literal
from uuid import UUID

from warehouse.errors import InvalidOperation
from warehouse.records import ABSENT, Record, get

# Most values are these, and to ask whether something is a Mapping is slow.
_SCALARS: Final = (str, int, float, bytes, NoneType)
_MAPPINGS: Final = (dict, Mapping)
_FLAT: Final = frozenset({*_SCALARS, bool, Decimal, UUID, datetime, date, time})


def is_flat(record: Any) -> bool:
    """Whether it is a mapping of plain values, with nothing inside that could stand for something else."""
    return type(record) is dict and len(record) != 1 and _FLAT.issuperset(map(type, record.values()))


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
            if not is_flat(item):
                yield from references(item)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference taken apart; `index` is that of one record, `*` for the list over all, or None."""

    text: str
    step: str
    index: int | Literal["*"] | None
    path: str

    def value(self, rows: Sequence[Record]) -> Any:
        """What it stands for, given the records of its step; InvalidOperation where that is nothing."""
        if self.index == "*":
            return [self._field(row) for row in rows]
        if not rows:
            raise InvalidOperation(f"the reference {self.text!r} names a step that has no output")
        if self.index is not None:
            self.check_count(len(rows))
            return self._field(rows[self.index])
        values = [self._field(row) for row in rows]
        return values[0] if len(values) == 1 else values

    def check_count(self, count: int) -> None:
        """Refuse an index that a step of `count` records does not have."""
        if isinstance(self.index, int) and self.index >= count:
            raise InvalidOperation(
                f"the reference {self.text!r} names record {self.index} of a step that has {count}",
                hint="they are counted from 0",
            )

    def _field(self, row: Record) -> Any:
        value = get(row, self.path)
        if value is ABSENT:
            raise InvalidOperation(
                f"the reference {self.text!r} names a field that is not in the step's output"
            )
        return value


def reference(text: Any) -> Reference:
    """A reference as `{"$ref": ...}` has it; InvalidOperation where it is none."""
    step, _, path = text.partition(".") if isinstance(text, str) else ("", "", "")
    index: int | Literal["*"] | None = None
    head, _, rest = path.partition(".")
    if head == "*":
        index, path = "*", rest
    elif head.isascii() and head.isdigit():
        index, path = int(head), rest
    if not step or not all(path.split(".")):
        raise InvalidOperation(
            f"the reference {text!r} is not of the form 'step.field'",
            hint="of one record 'step.0.field', of all 'step.*.field'",
        )
    return Reference(text, step, index, path)


def substitute(value: Any, lookup: Callable[[str], Any], *, wrapped: bool = False) -> Any:
    """`value` with references replaced by what `lookup` gives, and literals unwrapped.

    `wrapped`: what comes from either is left in a `$literal`, for what is parsed afterwards.
    """
    if isinstance(value, _SCALARS):
        return value
    if is_flat(value):
        return dict(value)
    if isinstance(value, _MAPPINGS):
        if len(value) == 1 and ("$ref" in value or "$literal" in value):
            found = lookup(value["$ref"]) if "$ref" in value else value["$literal"]
            return {"$literal": found} if wrapped else found
        return {name: substitute(item, lookup, wrapped=wrapped) for name, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, lookup, wrapped=wrapped) for item in value]
    if isinstance(value, tuple):
        return tuple(substitute(item, lookup, wrapped=wrapped) for item in value)
    return value


def substitute_ends(record: Record, lookup: Callable[[str], Any]) -> Record:
    """A new relationship with its references replaced; the conditions on its ends remain to be parsed."""
    return {name: substitute(part, lookup, wrapped=name in {"start", "end"}) for name, part in record.items()}
