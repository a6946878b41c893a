"""Statements that are compiled once for each kind of database, and then run by its driver.

SQLAlchemy says how they are written there; to have it run them costs many times what the driver needs, and every
transaction runs a dozen of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

Values: TypeAlias = Mapping[str, Any]


class Prepared:
    """A statement. `columns` are those that an insert or update sets, by their own names."""

    def __init__(self, statement: sa.ClauseElement, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = None if columns is None else list(columns)
        self._texts: dict[str, _Text] = {}

    def run(self, connection: sa.Connection, values: Values) -> int:
        """Run it once; how many rows it met. Raises what the driver raises."""
        cursor = self._executed(connection, values)
        try:
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def row(self, connection: sa.Connection, values: Values) -> Any:
        """Run a query; its first row, or None."""
        cursor = self._executed(connection, values)
        try:
            return cursor.fetchone()
        finally:
            cursor.close()

    def run_many(self, connection: sa.Connection, rows: Sequence[Values]) -> None:
        """Run it for each of `rows`."""
        if len(rows) == 1:
            self.run(connection, rows[0])
            return
        text = self._text(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(text.text, [text.given(values) for values in rows])
        finally:
            cursor.close()

    def _executed(self, connection: sa.Connection, values: Values) -> Any:
        text = self._text(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text.text, text.given(values))
        except BaseException:
            cursor.close()
            raise
        return cursor

    def _text(self, connection: sa.Connection) -> _Text:
        dialect = connection.dialect
        found = self._texts.get(dialect.name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=dialect, column_keys=self._columns)
            fixed = {name: value for name, value in compiled.params.items() if value is not None}
            order = compiled.positiontup
            found = _Text(str(compiled), fixed, None if order is None else tuple(order))
            self._texts[dialect.name] = found
        return found


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement as one kind of database takes it, with the values in it that are always the same."""

    text: str
    fixed: Values
    order: tuple[str, ...] | None

    def given(self, values: Values) -> Any:
        """The values as the driver takes them: by name, or by place."""
        if self.fixed:
            values = {**self.fixed, **values}
        return values if self.order is None else tuple(values[name] for name in self.order)
