"""PostgreSQL: its SQL, and its connections by psycopg."""

# ruff: noqa: S608 - names are quoted, and values are bound

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from typing import Any, ClassVar, Final

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import CITEXT, JSONB
from sqlalchemy.pool import PoolProxiedConnection

from warehouse.adapter import Outcome
from warehouse.errors import StoreError
from warehouse.patterns import fold
from warehouse_adapters.sql import values
from warehouse_adapters.sql.dialects import Dialect, like
from warehouse_adapters.sql.links import Link, Rows
from warehouse_adapters.sql.prepared import Prepared
from warehouse_adapters.sql.tables import Column, Kind, Sql


class PostgreSQL(Dialect):
    """PostgreSQL 13 or later, by psycopg."""

    name = "PostgreSQL"
    oldest = (13,)
    one_statement = True
    together = True
    text_json = False
    plain: ClassVar = {**Dialect.plain, "boolean": bool}

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
            case "$ilike":
                folded = f"translate({side}, '{_UPPER}', '{_UPPER.lower()}')"
                return Sql(f"{folded} LIKE %s ESCAPE '|'", (like(fold(text), "|%_"),))
            case "$regex":
                return Sql(
                    f"{side} ~ %s", (text,)
                )  # its dot matches a newline, and its $ nothing but the end
            case _:
                return Sql(f"{side} LIKE %s ESCAPE '|'", (like(text, "|%_"),))

    def json_test(self, column: Column, inside: str, operator: str, value: Any) -> Sql:
        document = column.compared
        found = f"({document} #> {_path_literal(inside)})" if inside else document
        kind = f"jsonb_typeof({found})"
        match operator:
            case "$null":
                return Sql(f"COALESCE({kind}, 'null') = 'null'")
            case "$containsAll":
                return Sql(f"{kind} IN ('array', 'string')")
            case "$eq":
                return Sql(f"{found} = %s", (self._operand_json(value),))
            case "$contains":
                elements = f"jsonb_array_elements(CASE WHEN {kind} = 'array' THEN {found} ELSE '[]' END)"
                listed = Sql(
                    f"EXISTS (SELECT 1 FROM {elements} AS e(v) WHERE v = %s)", (self._operand_json(value),)
                )
                if not isinstance(value, str):
                    return listed
                texts = self.matches(_text_of(column, found, kind), operator, value)
                return Sql(f"({texts.text} OR {listed.text})", texts.params + listed.params)
            case _ if operator in _JSON_ORDERS and not isinstance(value, str):
                of_kind = "boolean" if isinstance(value, bool) else "number"
                order = f"{found} {_JSON_ORDERS[operator]} %s"
                return Sql(f"({kind} = '{of_kind}' AND {order})", (self._operand_json(value),))
            case _ if operator in _JSON_ORDERS:
                text = self.ordered(_text_of(column, found, kind))
                return Sql(f"{text} {_JSON_ORDERS[operator]} %s", (value,))
        return self.matches(_text_of(column, found, kind), operator, value)

    def _operand_json(self, value: Any) -> Any:
        from psycopg.types.json import Jsonb

        return Jsonb(value)

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


_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_JSON_ORDERS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _path_literal(inside: str) -> str:
    """A path into a document as SQL. Its names come from the caller: they are quoted twice."""
    parts = (part.replace("\\", "\\\\").replace('"', '\\"') for part in inside.split("."))
    array = "{" + ",".join(f'"{part}"' for part in parts) + "}"
    return "'" + array.replace("'", "''").replace("%", "%%") + "'"


def _text_of(column: Column, found: str, kind: str) -> Column:
    """A column of text that is null where what was found is no text."""
    text = f"(CASE WHEN {kind} = 'string' THEN {found} #>> '{{}}' END)"
    return replace(column, kind="text", quoted=text, compared=text)


_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
# After a crash the server gives the id of a transaction that left nothing on its disk to another one. A crash (and
# nothing else but a reset by hand) begins its statistics anew: this tells one life of the server from the next.
_LIFE: Final = "coalesce(pg_stat_get_bgwriter_stat_reset_time()::text, '')"
_TOKEN: Final = f"SELECT pg_current_xact_id()::text || '@' || {_LIFE}"
_STATES: Final = {
    "committed": Outcome.COMMITTED,
    "aborted": Outcome.ROLLED_BACK,
    "in progress": Outcome.OPEN,
}


def asked(token: str) -> Sql:
    """The question for the outcome of a transaction; its answer is for `told`."""
    xid, _, life = token.partition("@")
    return Sql(f"SELECT pg_xact_status(CAST(%s AS xid8)), {_LIFE} = %s", (xid, life))


def told(rows: Rows) -> Outcome:
    """What the server says. `committed` counts only in the life of the server in which the token was given."""
    status, same_life = rows[0]
    outcome = _STATES.get(status, Outcome.UNKNOWN)
    return Outcome.UNKNOWN if outcome is Outcome.COMMITTED and not same_life else outcome


# Beyond so many placeholders psycopg takes a statement apart anew each time, which costs more than to run it.
_FEW: Final = 50
_MARK: Final = re.compile("%([s%])")


@lru_cache(maxsize=32)
def _numbered(text: str) -> str:
    """The statement with PostgreSQL's own placeholders, which psycopg hands on as they are."""
    numbers = count(1)
    return _MARK.sub(lambda found: f"${next(numbers)}" if found[1] == "s" else "%", text)


class PsycopgLink(Link):
    """psycopg: what begins a unit is pipelined."""

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        super().__init__(pooled)
        self._lock_timeout = -1.0
        self._make_cursors()

    def _make_cursors(self) -> None:
        from psycopg import AsyncRawCursor

        self._cursor: Any = self._driver.cursor()
        self._cursors: list[Any] = []
        self._raw: Any = AsyncRawCursor(self._driver)

    async def _setup(self) -> None:
        from warehouse_adapters.sql.loaders import register

        register(self._driver)
        self._make_cursors()  # those from before do not know what was registered

    async def _execute(self, text: str, params: Sequence[Any]) -> Rows:
        cursor = self._cursor
        if len(params) > _FEW:
            cursor, text = self._raw, _numbered(text)
        await cursor.execute(text, params)
        return await cursor.fetchall() if cursor.pgresult.nfields else ()

    async def begin_with(self, lock_timeout: float, statements: Sequence[Sql]) -> tuple[str, list[Rows]]:
        """Begin a transaction and run `statements` in it, all in one round trip; its token, and their rows."""
        try:
            await self._set_lock_timeout(lock_timeout)
            while len(self._cursors) <= len(statements):
                self._cursors.append(self._driver.cursor())
            asking, *cursors = self._cursors[: len(statements) + 1]
            async with self._driver.pipeline():
                await self._cursor.execute(_BEGIN)
                await asking.execute(_TOKEN)
                for cursor, sql in zip(cursors, statements, strict=True):
                    await cursor.execute(sql.text, sql.params)
            return str((await asking.fetchone())[0]), [await cursor.fetchall() for cursor in cursors]
        except Exception as error:
            raise self._translated(error) from error

    async def _set_lock_timeout(self, lock_timeout: float) -> None:
        if lock_timeout != self._lock_timeout:
            await self._cursor.execute(f"SET lock_timeout = {max(1, round(lock_timeout * 1000))}")
            self._lock_timeout = lock_timeout

    async def _begin(self, lock_timeout: float, prepare_as: Prepared | None) -> str | None:  # noqa: ARG002
        cursor = self._cursor
        await self._set_lock_timeout(lock_timeout)
        # One round trip: several statements may go together where none has parameters.
        await cursor.execute(f"{_BEGIN}; {_TOKEN}")
        cursor.nextset()
        return str((await cursor.fetchone())[0])

    async def _commit(self) -> None:
        await self._cursor.execute("COMMIT")
        if self._cursor.statusmessage != "COMMIT":
            raise StoreError("the transaction had failed before, and was rolled back")

    async def _prepare_as(self, prepared: Prepared) -> None:
        await self._cursor.execute(f"PREPARE TRANSACTION '{prepared.gid}'")
        if self._cursor.statusmessage != "PREPARE TRANSACTION":
            raise StoreError("the transaction had failed before, and was rolled back")

    async def _finish(self, prepared: Prepared, *, commit: bool) -> None:
        await self._cursor.execute(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{prepared.gid}'")
