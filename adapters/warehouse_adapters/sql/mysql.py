"""MariaDB and MySQL: their SQL, and their connections by asyncmy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import types

from warehouse.patterns import anchored
from warehouse_adapters.sql import values
from warehouse_adapters.sql.dialects import Dialect, like, pattern_parts
from warehouse_adapters.sql.links import Link, Rows
from warehouse_adapters.sql.prepared import Prepared
from warehouse_adapters.sql.tables import Column, Kind, Sql

_TIMEOUT: Final = "warehouse.timeout"


class MySQL(Dialect):
    """MariaDB 10.5 or later, or MySQL 8, by asyncmy.

    Its collations ignore case and trailing blanks, so text is compared as bytes, which for UTF-8 is the order
    of the code points. A FLOAT is read as the double that it is, since its text has six digits only. Sessions
    are in UTC: in any zone with summer time, a TIMESTAMP of the doubled hour reads back as another.
    """

    name = "MariaDB"
    json_paths = False

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
            case "$ilike" | "$regex":
                pattern = _folding(text) if operator == "$ilike" else anchored(text, r"\z")
                exact = f"CONVERT({column.quoted} USING utf8mb4) COLLATE utf8mb4_bin"
                found = Sql(f"{exact} REGEXP %s", (f"(?s){pattern}",))
                if (
                    operator == "$ilike" and column.folds
                ):  # what its collation takes for equal can use an index
                    near = Sql(f"{column.quoted} LIKE %s ESCAPE '|'", (like(text, "|%_"),))
                    return Sql(f"({near.text} AND {found.text})", near.params + found.params)
                return found
            case _:
                exact = f"CONVERT({column.quoted} USING utf8mb4) COLLATE utf8mb4_bin"
                return Sql(f"{exact} LIKE %s ESCAPE '|'", (like(text, "|%_"),))

    def json_test(self, column: Column, inside: str, operator: str, value: Any) -> Sql:  # noqa: ARG002
        """Only whether the whole is null is asked of it: paths are evaluated here (`json_paths`)."""
        return Sql(f"({column.quoted} IS NULL OR JSON_TYPE({column.quoted}) = 'NULL')")

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


def _folding(pattern: str) -> str:
    """A LIKE pattern of ours as a regular expression that folds ASCII letters, and no others."""
    out = []
    for character, wild in pattern_parts(pattern):
        if wild:
            out.append(".*" if character == "%" else ".")
        elif character.isascii() and character.isalpha():
            out.append(f"[{character.lower()}{character.upper()}]")
        else:
            out.append(re.escape(character))
    return rf"\A{''.join(out)}\z"


class AsyncmyLink(Link):
    """asyncmy, for MariaDB and MySQL: it sends no statement before the last is answered."""

    _open_as: Prepared | None = None

    async def _setup(self) -> None:
        await self._execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", ())
        await self._execute("SET SESSION time_zone = '+00:00'", ())
        # Its way to escape bytes is unsafe in this mode.
        await self._execute("SET SESSION sql_mode = REPLACE(@@sql_mode, 'NO_BACKSLASH_ESCAPES', '')", ())

    async def _execute(self, text: str, params: Sequence[Any]) -> Rows:
        cursor = self._driver.cursor()
        await cursor.execute(text, tuple(params))
        self.last_id = cursor.lastrowid
        return await cursor.fetchall() if cursor.description else ()

    async def _begin(self, lock_timeout: float, prepare_as: Prepared | None) -> str | None:
        wait = max(1, round(lock_timeout))
        if self._pooled.info.get(_TIMEOUT) != wait:
            await self._execute(f"SET SESSION innodb_lock_wait_timeout = {wait}", ())
            self._pooled.info[_TIMEOUT] = wait
        self._open_as = prepare_as
        await self._execute("START TRANSACTION" if prepare_as is None else f"XA START {prepare_as.xid}", ())
        return None

    async def _commit(self) -> None:
        if self._open_as is None:
            await super()._commit()
            return
        opened, self._open_as = self._open_as, None
        await self._execute(f"XA END {opened.xid}", ())
        await self._execute(f"XA COMMIT {opened.xid} ONE PHASE", ())

    async def _rollback(self) -> None:
        """What was prepared is left alone: the statement then fails, and the connection is cut."""
        if self._open_as is None:
            await super()._rollback()
            return
        opened, self._open_as = self._open_as, None
        with suppress(Exception):  # after a deadlock it has ended
            await self._execute(f"XA END {opened.xid}", ())
        await self._execute(f"XA ROLLBACK {opened.xid}", ())

    async def _prepare_as(self, prepared: Prepared) -> None:
        await self._execute(f"XA END {prepared.xid}", ())
        await self._execute(f"XA PREPARE {prepared.xid}", ())
        self._open_as = None

    async def _finish(self, prepared: Prepared, *, commit: bool) -> None:
        await self._execute(f"XA {'COMMIT' if commit else 'ROLLBACK'} {prepared.xid}", ())
