"""How values are read from PostgreSQL without loss: as text, where Python or the journal has no type for them.

psycopg alone would read a month as 30 days and raise on an infinite date.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import AsyncConnection, postgres
from psycopg.abc import AdaptContext
from psycopg.adapt import Loader
from psycopg.errors import DataError

_AS_TEXT: Final = (
    "inet cidr int4range int8range numrange daterange tsrange tstzrange int4multirange int8multirange"
    " nummultirange datemultirange tsmultirange tstzmultirange record"
).split()
_BOUNDED: Final = ("date", "time", "timetz", "timestamp", "timestamptz", "interval")


class TextLoader(Loader):
    """The value as PostgreSQL writes it."""

    def load(self, data: Any) -> str:
        return bytes(data).decode()


class BoundedLoader(Loader):
    """What psycopg makes of the value, or its text: infinite, out of its range, counted in months."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        found = postgres.adapters.get_loader(oid, self.format)
        if found is None:
            raise TypeError(f"psycopg has no loader for the type {oid}")
        self._exact = found(oid, context)

    def load(self, data: Any) -> Any:
        text = bytes(data)
        if b"mon" in text or b"year" in text:
            return text.decode()
        try:
            return self._exact.load(data)
        except (DataError, NotImplementedError):
            return text.decode()


def register(connection: AsyncConnection[Any]) -> None:
    """Make `connection` read by these loaders."""
    for name in _AS_TEXT:
        connection.adapters.register_loader(name, TextLoader)
    for name in _BOUNDED:
        connection.adapters.register_loader(name, BoundedLoader)
