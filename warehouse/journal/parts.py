"""Large images: kept in parts, each a durable write of its own before that of the step, which only names them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final
from uuid import uuid4

import sqlalchemy as sa

from warehouse.journal import schema

# What is larger, as it is kept, is kept in parts of so many bytes: servers limit what one statement may carry.
SIZE: Final = 1 << 20
# The first byte of what stands for parts in a step; their name follows. See `seal` for the others.
_PARTS: Final = b"\x03"
# Parts without a transaction after so many seconds: whoever wrote them never came to its step.
_STALE: Final = 86_400


def split(kept: bytes) -> tuple[bytes, Iterator[bytes]]:
    """What stands for `kept` in a step, and the parts."""
    name = _PARTS + uuid4().hex.encode()
    return name, (kept[start : start + SIZE] for start in range(0, len(kept), SIZE))


def add(connection: sa.Connection, transaction_id: str, name: bytes, number: int, part: bytes) -> None:
    """Keep one part. What stands for it is in no step yet."""
    connection.execute(
        schema.parts.insert().values(
            name=_text(name), part=number, transaction_id=transaction_id, written=time.time(), body=part
        )
    )


def whole(connection: sa.Connection, kept: bytes) -> bytes:
    """What a step has, with its parts in place of their name."""
    if kept[:1] != _PARTS:
        return kept
    columns = schema.parts.c
    found = sa.select(columns.body).where(columns.name == _text(kept)).order_by(columns.part)
    return b"".join(bytes(part) for part in connection.scalars(found))


def drop(connection: sa.Connection, kept: Iterable[bytes]) -> None:
    """Remove the parts of what steps had."""
    names = [_text(item) for item in kept if item[:1] == _PARTS]
    if names:
        connection.execute(schema.parts.delete().where(schema.parts.c.name.in_(names)))


def drop_of(connection: sa.Connection, transactions: list[str]) -> None:
    """Remove the parts of all steps of these transactions."""
    connection.execute(schema.parts.delete().where(schema.parts.c.transaction_id.in_(transactions)))


def drop_stale(connection: sa.Connection) -> None:
    """Remove what has been left by transactions that never came to be."""
    columns = schema.parts.c
    there = sa.select(schema.transactions.c.id)
    old = columns.written < time.time() - _STALE
    connection.execute(schema.parts.delete().where(old, columns.transaction_id.not_in(there)))


def _text(name: bytes) -> str:
    return name[1:].decode()
