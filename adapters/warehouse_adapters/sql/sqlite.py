"""SQLite: its SQL, and its connections by aiosqlite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import NoneType
from typing import Any, ClassVar, Final
from uuid import UUID

import anyio

from warehouse import conditions
from warehouse.records import ABSENT, get
from warehouse_adapters.sql import values
from warehouse_adapters.sql.dialects import Dialect, pattern_parts
from warehouse_adapters.sql.limits import IntegerLimit, TextLimit, within
from warehouse_adapters.sql.links import Link, Rows
from warehouse_adapters.sql.prepared import Prepared
from warehouse_adapters.sql.tables import Column, Kind, Sql

# How long SQLite waits for a lock at a time.
_SLICE_MS: Final = 50
# A function of ours, by which SQLite asks the reference for what it cannot evaluate itself.
_TEST: Final = "warehouse_test"
_INT64: Final = range(-(2**63), 2**63)
_INTEGERS: Final = IntegerLimit(-(2**63), 2**63 - 1)
_TEXT: Final = TextLimit(None, "SQLite")


class SQLite(Dialect):
    """SQLite 3.35 or later, by aiosqlite.

    Values are read as they are stored: a boolean is kept as 0 or 1; a Decimal, a UUID, a date or a time is
    bound as text (ISO 8601; a zoned time in UTC), and what a column's affinity makes of it is what it holds.
    Only columns declared as JSON are encoded and decoded.
    """

    name = "SQLite"
    oldest = (3, 35)
    mark = "?"
    lock = ""
    rows = "VALUES "
    dynamic = True
    plain: ClassVar = {"text": str, "bytes": bytes}  # an int may be too large

    _SCALARS: ClassVar = (bool, int, float, str, bytes, bytearray, memoryview, Decimal, UUID, date, time)
    _TYPES: ClassVar[tuple[tuple[type | tuple[type, ...], str], ...]] = (
        ((bool, int, float), "'integer', 'real'"),
        ((str, UUID, date, time), "'text'"),
        ((bytes, bytearray, memoryview), "'blob'"),
    )

    def __init__(self, quote: Callable[[str], str], compile_type: Callable[[Any], str]) -> None:
        super().__init__(quote, compile_type)
        self.quote = _backticks

    def _compared(self, quoted: str, kind: Kind, declared: Any) -> str:  # noqa: ARG002
        return f"{quoted} COLLATE BINARY"

    def guard(self, column: Column, value: Any) -> str:
        names = next((names for kinds, names in self._TYPES if isinstance(value, kinds)), None)
        return f"typeof({column.quoted}) IN ({names})" if names else ""

    def order(self, column: Column, *, descending: bool) -> str:
        return f"{column.compared} {'DESC' if descending else 'ASC'} NULLS FIRST"

    def matches(self, column: Column, operator: str, text: str) -> Sql:
        is_text = f"typeof({column.quoted}) = 'text'"
        match operator:
            case "$startsWith":
                return Sql(f"({is_text} AND substr({column.quoted}, 1, length(?)) = ?)", (text, text))
            case "$endsWith" if text:
                return Sql(f"({is_text} AND substr({column.quoted}, -length(?)) = ?)", (text, text))
            case "$endsWith":
                return Sql(is_text)
            case "$contains":
                return Sql(f"({is_text} AND instr({column.quoted}, ?) > 0)", (text,))
            case "$ilike" | "$regex":
                return Sql(
                    f"({is_text} AND {_TEST}({column.quoted}, '', ?, ?))", (operator, json.dumps(text))
                )
            case _:
                return Sql(f"({is_text} AND {column.quoted} GLOB ?)", (glob(text),))

    def json_test(self, column: Column, inside: str, operator: str, value: Any) -> Sql:
        if operator == "$containsAll":
            value = []
        return Sql(f"{_TEST}({column.quoted}, ?, ?, ?)", (inside or ".", operator, json.dumps(value)))

    def now(self, column: Column) -> Sql:
        return Sql("?", (self._adapt(column, datetime.now(UTC)),))

    def _takes_all(self, column: Column, values: Sequence[Any]) -> bool:
        kinds = set(map(type, values))
        if column.kind == "json" or len(kinds - {NoneType}) > 1:
            return False
        if kinds <= {int, NoneType}:
            return within(_INTEGERS, kinds, values)
        if kinds <= {bool, NoneType}:
            return True
        return kinds <= {str, NoneType} and within(_TEXT, kinds, values)

    def _fits(self, column: Column, value: Any) -> bool:
        return values.fits(column, value) if column.kind == "json" else isinstance(value, self._SCALARS)

    def _adapt(self, column: Column, value: Any) -> Any:
        if isinstance(value, bool | int) and value not in _INT64:
            raise values.misfit(column, value)
        if isinstance(value, float) and value != value:  # noqa: PLR0124 - it would be stored as null
            raise values.misfit(column, value)
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, datetime):
            moment = value if value.tzinfo is None else value.astimezone(UTC)
            return moment.isoformat(sep=" ")
        if isinstance(value, date | time):
            return value.isoformat()
        return str(value) if isinstance(value, Decimal | UUID) else value


def glob(pattern: str) -> str:
    """A LIKE pattern of ours as one of GLOB, which SQLite compares by code point."""
    wilds = {"%": "*", "_": "?"}
    return "".join(
        wilds[character] if wild else f"[{character}]" if character in "*?[" else character
        for character, wild in pattern_parts(pattern)
    )


def _test(value: Any, inside: str, operator: str, operand: str) -> bool | None:
    """What the function `warehouse_test` answers: a condition on a text; or, at a path (`.`: all), on JSON."""
    found = value
    if inside and value is not None:
        found = {"": json.loads(value) if isinstance(value, str | bytes) else value}
        found = get(found, "" if inside == "." else f".{inside}")
    return conditions.test(
        operator, None if found is ABSENT else found, True if operator == "$null" else json.loads(operand)
    )


class AiosqliteLink(Link):
    """aiosqlite: a thread each connection.

    SQLite waits for a lock inside of its thread, where no cancellation reaches it; so it waits briefly there,
    and the rest of the time here.
    """

    _wait = 5.0

    async def _setup(self) -> None:
        await self._execute("PRAGMA foreign_keys = ON", ())
        await self._execute(f"PRAGMA busy_timeout = {_SLICE_MS}", ())
        await self._driver.create_function(_TEST, 4, _test, deterministic=True)

    async def _execute(self, text: str, params: Sequence[Any]) -> Rows:
        end = anyio.current_time() + self._wait
        while True:
            try:
                rows: Rows = await self._driver.execute_fetchall(text, params)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or anyio.current_time() > end:
                    raise
                await anyio.sleep(_SLICE_MS / 10_000)
            else:
                return rows

    async def _begin(self, lock_timeout: float, prepare_as: Prepared | None) -> str | None:  # noqa: ARG002
        self._wait = lock_timeout
        await self._execute("BEGIN IMMEDIATE", ())
        return None


def _backticks(name: str) -> str:
    """A quoted name. A name in double quotes that SQLite does not know would silently be a text."""
    return "`" + name.replace("`", "``") + "`"
