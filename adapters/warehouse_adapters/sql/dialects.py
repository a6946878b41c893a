"""What differs between PostgreSQL, MariaDB (or MySQL) and SQLite in the SQL that we write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import CITEXT, JSONB

from warehouse_adapters.sql import values
from warehouse_adapters.sql.tables import Column, Kind, Sql

_INT64 = range(-(2**63), 2**63)


class Dialect(ABC):
    """One kind of database; `oldest` is the first version that will do.

    * `mark`: a placeholder; `lock`: what makes a SELECT lock its rows; `rows`: what stands before a list of
      composite keys after IN.
    * `returning`: INSERT ... RETURNING; `one_statement`: a row can be changed and both images returned by one
      statement.
    * `dynamic`: a column may hold values of any type.
    * `text_json`: the driver gives and takes JSON as text.
    """

    name: ClassVar[str]
    oldest: ClassVar[tuple[int, ...]] = ()
    mark: ClassVar[str] = "%s"
    lock: ClassVar[str] = " FOR UPDATE"
    rows: ClassVar[str] = ""
    max_parameters: ClassVar[int] = 32_000
    returning: bool = True
    one_statement: ClassVar[bool] = False
    dynamic: ClassVar[bool] = False
    text_json: ClassVar[bool] = True
    operators: ClassVar[frozenset[str]] = frozenset(
        "$eq $ne $gt $gte $lt $lte $in $nin $exists $null $like $startsWith $endsWith $contains".split()
    )

    def __init__(self, quote: Callable[[str], str], compile_type: Callable[[Any], str]) -> None:
        self.quote = quote
        self._compile_type = compile_type

    def column(self, described: dict[str, Any], kind: Kind | None = None) -> Column:
        """The column that reflection described; `kind` where its type does not tell."""
        name, declared = described["name"], described["type"]
        quoted = self.quote(name)
        kind = kind or values.kind_of(declared)
        identity = described.get("identity") or {}
        return Column(
            name=name,
            kind=kind,
            quoted=quoted,
            shown=self._shown(quoted, declared),
            written=self._written(kind, declared),
            compared=self._compared(quoted, kind, declared),
            operand=self._operand(kind, declared),
            zoned=bool(getattr(declared, "timezone", False)),
            binary_json=isinstance(declared, JSONB),
            computed="computed" in described,
            always=bool(identity.get("always")),
        )

    def _shown(self, quoted: str, declared: Any) -> str:  # noqa: ARG002 - MySQL's floats need it
        return quoted

    def _written(self, kind: Kind, declared: Any) -> str:  # noqa: ARG002 - PostgreSQL's arrays need it
        return self.mark

    @abstractmethod
    def _compared(self, quoted: str, kind: Kind, declared: Any) -> str: ...

    def _operand(self, kind: Kind, declared: Any) -> str:
        return self._written(kind, declared)

    def ordered(self, column: Column) -> str:
        """`column.compared`, ordering text by code point."""
        return column.compared

    def guard(self, column: Column, value: Any) -> str:  # noqa: ARG002 - SQLite's types need it
        """What must hold besides so that the stored value is of the operand's kind; empty if nothing."""
        return ""

    def prefilters(self, column: Column) -> bool:  # noqa: ARG002 - MySQL's collations need it
        """Whether equality needs the column's own equality beside the exact one, to use an index."""
        return False

    @abstractmethod
    def order(self, column: Column, *, descending: bool) -> str:
        """A term of ORDER BY: nulls first, text by code point."""

    @abstractmethod
    def matches(self, column: Column, operator: str, text: str) -> Sql:
        """`$like`, `$startsWith`, `$endsWith`, `$contains` of text, by code point."""

    @abstractmethod
    def now(self, column: Column) -> Sql:
        """The store's time, as `$currentDate` writes it to `column`."""

    def bind(self, column: Column, value: Any, *, stored: bool = True) -> Any:
        """`value` as its driver takes it; raises InvalidOperation where it does not fit the column.

        `stored`: it is going to be written, and not only compared with.
        """
        if value is None:
            return None
        if stored and column.kind == "decimal" and isinstance(value, str):
            value = values.decimal(column, value)
        if not self._fits(column, value):
            raise values.misfit(column, value)
        if column.kind == "json" and self.text_json:
            return values.json_text(column, value)
        if values.is_numeric(column) and not self.dynamic:
            value = values.number(column, value, stored=stored)
        return self._adapt(column, value)

    def _fits(self, column: Column, value: Any) -> bool:
        return values.fits(column, value)

    @abstractmethod
    def _adapt(self, column: Column, value: Any) -> Any: ...


class PostgreSQL(Dialect):
    """PostgreSQL 13 or later, by psycopg."""

    name = "PostgreSQL"
    oldest = (13,)
    one_statement = True
    text_json = False

    def _written(self, kind: Kind, declared: Any) -> str:
        return f"CAST(%s AS {self._compile_type(declared)})" if kind == "array" else "%s"

    def _compared(self, quoted: str, kind: Kind, declared: Any) -> str:
        if isinstance(declared, CITEXT | types.Enum):
            return f"CAST({quoted} AS text)"
        return f"CAST({quoted} AS jsonb)" if kind == "json" and not isinstance(declared, JSONB) else quoted

    def _operand(self, kind: Kind, declared: Any) -> str:
        if kind == "json":
            return "CAST(%s AS jsonb)"
        return "CAST(%s AS real)" if isinstance(declared, types.REAL) else self._written(kind, declared)

    def ordered(self, column: Column) -> str:
        return f'{column.compared} COLLATE "C"' if column.kind == "text" else column.compared

    def order(self, column: Column, *, descending: bool) -> str:
        return f"{self.ordered(column)} {'DESC' if descending else 'ASC'} NULLS FIRST"

    def matches(self, column: Column, operator: str, text: str) -> Sql:
        side = self.ordered(column)
        match operator:
            case "$startsWith":
                return Sql(f"starts_with({side}, %s)", (text,))
            case "$endsWith":
                return Sql(f"right({side}, length(%s::text)) = %s", (text, text))
            case "$contains":
                return Sql(f"strpos({side}, %s) > 0", (text,))
            case _:
                return Sql(f"{side} LIKE %s ESCAPE '|'", (like(text, "|%_"),))

    def now(self, column: Column) -> Sql:
        return Sql("clock_timestamp()" if column.zoned else "(clock_timestamp() AT TIME ZONE 'UTC')")

    def _adapt(self, column: Column, value: Any) -> Any:
        if column.kind == "json":
            return self._json(column, value)
        if isinstance(value, datetime) and value.tzinfo is not None and not column.zoned:
            return value.astimezone(UTC).replace(tzinfo=None)
        return values.uniform(value) if column.kind == "array" else value

    def _json(self, column: Column, value: Any) -> Any:
        from psycopg.types.json import Json, Jsonb

        values.json_text(column, value)
        return Jsonb(value) if column.binary_json else Json(value)


class MySQL(Dialect):
    """MariaDB 10.5 or later, or MySQL 8, by asyncmy.

    Its collations ignore case and trailing blanks, so text is compared as bytes, which for UTF-8 is the order
    of the code points. A FLOAT is read as the double that it is, since its text has six digits only. Sessions
    are in UTC: in any zone with summer time, a TIMESTAMP of the doubled hour reads back as another.
    """

    name = "MariaDB"

    def _shown(self, quoted: str, declared: Any) -> str:
        single = isinstance(declared, types.FLOAT) and not isinstance(declared, types.DOUBLE)
        return f"({quoted} + 0e0)" if single else quoted

    def _compared(self, quoted: str, kind: Kind, declared: Any) -> str:  # noqa: ARG002
        return f"CAST(CONVERT({quoted} USING utf8mb4) AS BINARY)" if kind == "text" else quoted

    def _operand(self, kind: Kind, declared: Any) -> str:  # noqa: ARG002
        return "CAST(%s AS BINARY)" if kind == "text" else "%s"

    def prefilters(self, column: Column) -> bool:
        return column.kind == "text"

    def order(self, column: Column, *, descending: bool) -> str:
        direction = "DESC" if descending else "ASC"
        return f"{column.quoted} IS NOT NULL, {column.compared} {direction}"

    def matches(self, column: Column, operator: str, text: str) -> Sql:
        side, mark = column.compared, column.operand
        match operator:
            case "$startsWith":
                return Sql(f"LEFT({side}, LENGTH({mark})) = {mark}", (text, text))
            case "$endsWith":
                return Sql(f"RIGHT({side}, LENGTH({mark})) = {mark}", (text, text))
            case "$contains":
                return Sql(f"LOCATE({mark}, {side}) > 0", (text,))
            case _:
                exact = f"CONVERT({column.quoted} USING utf8mb4) COLLATE utf8mb4_bin"
                return Sql(f"{exact} LIKE %s ESCAPE '|'", (like(text, "|%_"),))

    def now(self, column: Column) -> Sql:  # noqa: ARG002
        return Sql("UTC_TIMESTAMP(6)")

    def _fits(self, column: Column, value: Any) -> bool:
        if isinstance(value, bool) and column.kind == "integer":
            return True
        return super()._fits(column, value)

    def _adapt(self, column: Column, value: Any) -> Any:
        values.finite(column, value)
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC).replace(tzinfo=None)
        return value


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

    _SCALARS: ClassVar = (bool, int, float, str, bytes, bytearray, memoryview, Decimal, UUID, date, time)
    _TYPES: ClassVar[tuple[tuple[type | tuple[type, ...], str], ...]] = (
        ((bool, int, float), "'integer', 'real'"),
        ((str, UUID, date, time), "'text'"),
        ((bytes, bytearray, memoryview), "'blob'"),
    )

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
            case _:
                return Sql(f"({is_text} AND {column.quoted} GLOB ?)", (glob(text),))

    def now(self, column: Column) -> Sql:
        return Sql("?", (self._adapt(column, datetime.now(UTC)),))

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


def like(pattern: str, special: str) -> str:
    """A LIKE pattern of ours (backslash escapes) with the first of `special` as its escape character."""
    return "".join(
        character if wild or character not in special else special[0] + character
        for character, wild in _parts(pattern)
    )


def glob(pattern: str) -> str:
    """A LIKE pattern of ours as one of GLOB, which SQLite compares by code point."""
    wilds = {"%": "*", "_": "?"}
    return "".join(
        wilds[character] if wild else f"[{character}]" if character in "*?[" else character
        for character, wild in _parts(pattern)
    )


def _parts(pattern: str) -> list[tuple[str, bool]]:
    """The characters of a LIKE pattern, each with whether it is a wildcard."""
    out: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            out.append((next(characters, "\\"), False))
        else:
            out.append((character, character in "%_"))
    return out
