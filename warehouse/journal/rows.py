"""Changes and calls as bytes, as the journal keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from warehouse.actions import Called
from warehouse.journal.codec import decode, encode
from warehouse.records import Change, Effect, Entity


def pack(changes: Sequence[Change], called: Called | None = None) -> bytes:
    """The changes of one step, or its call, as bytes; TypeError names a value's type that nobody registered."""
    if called is None:
        return encode([_pack(change) for change in changes])
    output = None if called.output is None else list(called.output)
    return encode({"action": called.action, "args": called.args, "output": output, "status": called.status})


def unpack(body: bytes) -> tuple[tuple[Change, ...], Called | None]:
    """What `pack` was given; ValueError where `body` is none of ours."""
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
