"""Changes and calls as bytes, as the journal keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from warehouse.actions import Called
from warehouse.errors import JournalUnavailable
from warehouse.journal.codec import decode, encode
from warehouse.records import Absent, Change, Effect, Entity


def pack(changes: Sequence[Change], called: Called | None = None) -> bytes:
    """The changes of one step, or its call, as bytes; TypeError names a value's type that nobody registered."""
    if called is None:
        return encode([_pack(change) for change in changes])
    output = None if called.output is None else list(called.output)
    return encode({"action": called.action, "args": called.args, "output": output, "status": called.status})


def unpack(body: bytes) -> tuple[tuple[Change, ...], Called | None]:
    """What `pack` was given. Raises JournalUnavailable where `body` is damaged."""
    with undamaged():
        content = decode(body)
        if isinstance(content, dict):
            output = content["output"]
            called = Called(
                content["action"],
                content["args"],
                None if output is None else tuple(output),
                content["status"],
            )
            return (), called
        return tuple(_unpack(item) for item in content), None


def mapping(body: bytes) -> dict[str, Any]:
    """What `encode` made of a dictionary. Raises JournalUnavailable where `body` is damaged."""
    with undamaged():
        content = decode(body)
        if not isinstance(content, dict):
            raise ValueError(f"a mapping is a {type(content).__name__}")  # noqa: TRY004 - as `decode`
    return content


@contextmanager
def undamaged(transaction_id: str | None = None) -> Iterator[None]:
    """Raise JournalUnavailable where what the journal has cannot be read, naming the transaction."""
    try:
        yield
    except JournalUnavailable as error:
        raise JournalUnavailable(_of(transaction_id) + error.message) from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        text = f"what the journal has is damaged: {error}"
        raise JournalUnavailable(_of(transaction_id) + text) from error


def _of(transaction_id: str | None) -> str:
    return "" if transaction_id is None else f"transaction {transaction_id}: "


def _pack(change: Change) -> list[Any]:
    return [
        change.entity.kind,
        change.entity.name,
        change.key,
        change.before,
        change.after,
        sorted(change.written),
        sorted(change.guard),
        {path: [effect.operator, effect.value] for path, effect in change.effects.items()},
        list(change.claims),
        change.dependent,
    ]


def _unpack(item: list[Any]) -> Change:
    kind, name, key, before, after, written, guard, effects, claims, dependent = item
    texts = [kind, name, *written, *guard, *effects]
    if not all(isinstance(text, str) for text in texts) or not isinstance(key, dict):
        raise ValueError("a change has another shape")
    if not all(isinstance(image, dict | Absent) for image in (before, after)):
        raise ValueError("an image has another shape")
    return Change(
        entity=Entity(name, kind),
        key=key,
        before=before,
        after=after,
        written=frozenset(written),
        guard=frozenset(guard),
        effects={path: Effect(*effect) for path, effect in effects.items()},
        claims=tuple(claims),
        dependent=dependent,
    )
