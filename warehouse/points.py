"""The ids of points, alike in all vector stores: an unsigned integer, a UUID in any spelling, or other text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from warehouse.conditions import And, Compare, Condition, Not, Or
from warehouse.errors import InvalidOperation

_LAST_ID: Final = 2**64 - 1
_HYPHENATED: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_UUID: Final = re.compile(rf"[0-9a-fA-F]{{32}}|(?:urn:uuid:)?{_HYPHENATED}|\{{{_HYPHENATED}\}}")


def canonical_id(value: Any) -> int | str:
    """An id as images show it: a number, a UUID in lower case with hyphens, or any other text as it is.

    Raises InvalidOperation for anything else.
    """
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str) and value:
        return str(UUID(value)) if is_uuid(value) else _encodable(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_ID:
        return value
    raise InvalidOperation(
        f"{value!r} is no id of a point", field="id", hint="give a number from 0 to 2**64-1, a UUID, or text"
    )


def is_uuid(text: str) -> bool:
    """Whether it spells a UUID."""
    return _UUID.fullmatch(text) is not None


def canonical_ids(condition: Condition) -> Condition:
    """The same condition with ids as images show them; what is no id stays, and matches nothing."""
    match condition:
        case Compare("id", _, list() | tuple() | set() | frozenset() as value):
            return replace(condition, value=[_shown(item) for item in value])
        case Compare("id", _, value):
            return replace(condition, value=_shown(value))
        case Compare():
            return condition
        case And(parts):
            return And(tuple(canonical_ids(part) for part in parts))
        case Or(parts):
            return Or(tuple(canonical_ids(part) for part in parts))
        case Not(part):
            return Not(canonical_ids(part))


def _shown(value: Any) -> Any:
    try:
        return canonical_id(value)
    except InvalidOperation:
        return value


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidOperation("text with a lone surrogate cannot be stored", field="id") from None
    return text
