"""What the adapter knows of a table: its columns, what identifies a row, and which tables a delete reaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from warehouse.adapter import EntityInfo
from warehouse.errors import ConstraintViolated, InvalidOperation, StoreError, UnknownField, did_you_mean
from warehouse.records import Key, Record, key_of

Kind: TypeAlias = Literal[
    "integer",
    "decimal",
    "float",
    "text",
    "boolean",
    "bytes",
    "datetime",
    "date",
    "time",
    "interval",
    "uuid",
    "json",
    "array",
    "other",
]
NUMBERS = frozenset({"integer", "decimal", "float"})


class Sql(NamedTuple):
    """A statement or a part of one, and the values of its placeholders in order."""

    text: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    * `quoted`: its name in SQL; `shown`: the SQL that reads it without loss; `written`: the placeholder of a
      value for it.
    * `compared`: the SQL that compares it by value, with `operand` as the placeholder of the other side.
    * `zoned`: a point in time with its zone; `folds`: its collation ignores case (MySQL).
    * `limit`: says why a value would not be kept exactly (see `limits`).
    * `element`: the kind of the elements of an array.
    * `computed`: the store calculates it; `always`: the store numbers it, unless overridden.
    """

    name: str
    kind: Kind
    quoted: str
    shown: str
    written: str
    compared: str
    operand: str
    limit: Callable[[Any], str | None] | None = None
    element: Kind | None = None
    zoned: bool = False
    folds: bool = False
    binary_json: bool = False
    computed: bool = False
    always: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key of the table `child` that acts on its rows when the row it refers to is deleted."""

    constraint: str
    child: str
    columns: tuple[str, ...]
    parents: tuple[str, ...]
    cascades: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it was when it was described.

    * `rereads`: triggers may change a row after RETURNING has shown it.
    * `constraints`: the columns of the primary key and of the unique constraints, by the names that the
      store's errors give them.
    * `decoded`: JSON columns that the driver gives as text.
    """

    info: EntityInfo
    quoted: str
    columns: dict[str, Column]
    rereads: bool
    constraints: dict[str, tuple[str, ...]]
    references: tuple[Reference, ...]
    decoded: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.info.entity.name

    @property
    def key(self) -> tuple[str, ...]:
        return self.info.key

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @cached_property
    def shown(self) -> str:
        """The select list of a whole row."""
        return ", ".join(column.shown for column in self.columns.values())

    @cached_property
    def inserts(self) -> dict[tuple[Any, ...], str]:
        """The texts of statements that insert one row, by its fields."""
        return {}

    def column(self, path: str) -> Column:
        """The column `path`; raises UnknownField or, for a path into a value, InvalidOperation."""
        found = self.columns.get(path)
        if found is not None:
            return found
        if path.partition(".")[0] in self.columns:
            raise InvalidOperation(
                "a path into a value stands for no column",
                entity=self.name,
                field=path,
                hint="name the whole column",
            )
        raise UnknownField(
            f"the table has no column {path!r}",
            entity=self.name,
            field=path,
            hint=did_you_mean(path, self.columns),
        )

    def place(self, path: str) -> tuple[Column, str]:
        """The column that `path` is in, and the rest of it.

        Raises UnknownField, and InvalidOperation for a path into what has nothing inside.
        """
        head, _, inside = path.partition(".")
        if path in self.columns or not inside or head not in self.columns:
            return self.column(path), ""
        column = self.columns[head]
        if column.kind != "json":
            raise InvalidOperation(
                f"a column of kind {column.kind} has nothing inside", entity=self.name, field=path
            )
        return column, inside

    def is_about(self, error: ConstraintViolated, names: Sequence[str]) -> bool:
        """Whether what was violated is the uniqueness of exactly these columns."""
        name = error.constraint or ""
        found = self.constraints.get(name) or self.constraints.get(name.rpartition(".")[2])
        return found is not None and set(found) == set(names)

    def record(self, row: Sequence[Any]) -> Record:
        """The image of a row that was read by `shown`."""
        record = dict(zip(self.names, row, strict=True))
        for name in self.decoded:
            if record[name] is not None:
                record[name] = _from_json(record[name], name)
        return record

    def records(self, rows: Iterable[Sequence[Any]]) -> list[Record]:
        return [self.record(row) for row in rows]

    def key_of(self, record: Record) -> Key:
        """The key of a row; StoreError where a part of it is null."""
        try:
            return key_of(record, self.key)
        except KeyError as missing:
            raise StoreError(
                f"the key field {missing.args[0]!r} is null", entity=self.name, field=missing.args[0]
            ) from None


def _from_json(text: Any, name: str) -> Any:
    if isinstance(text, int | float):
        return text  # SQLite makes a number of a text that is one
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise StoreError(f"the column {name!r} is declared as JSON and holds something else") from error
