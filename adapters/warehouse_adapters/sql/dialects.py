"""What differs between databases in the SQL that we write: one subclass of `Dialect` each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, ClassVar

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import JSONB

from warehouse.conversions import refusal
from warehouse_adapters.sql import values
from warehouse_adapters.sql.limits import limit_of, within
from warehouse_adapters.sql.tables import Column, Kind, Sql


class Dialect(ABC):
    """One kind of database; `oldest` is the first version that will do.

    * `mark`: a placeholder; `lock`: what makes a SELECT lock its rows; `rows`: what stands before a list of
      composite keys after IN.
    * `together`: its driver can send several statements before it waits for the first reply.
    * `returning`: INSERT ... RETURNING; `one_statement`: a row can be changed and both images returned by one
      statement.
    * `dynamic`: a column may hold values of any type.
    * `text_json`: the driver gives and takes JSON as text.
    * `plain`: by the kind of a column, the type of values that its driver takes as they are.
    * `json_paths`: it can evaluate conditions on what is inside of JSON; otherwise that is done here.
    """

    name: ClassVar[str]
    oldest: ClassVar[tuple[int, ...]] = ()
    mark: ClassVar[str] = "%s"
    lock: ClassVar[str] = " FOR UPDATE"
    rows: ClassVar[str] = ""
    max_parameters: ClassVar[int] = 32_000
    returning: bool = True
    one_statement: ClassVar[bool] = False
    together: ClassVar[bool] = False
    dynamic: ClassVar[bool] = False
    text_json: ClassVar[bool] = True
    json_paths: ClassVar[bool] = True
    plain: ClassVar[Mapping[str, type]] = {"text": str, "integer": int, "bytes": bytes}

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
            limit=limit_of(declared if kind != "json" else types.JSON(), self.name),
            element=values.element_of(declared),
            zoned=bool(getattr(declared, "timezone", False)),
            folds=str(described.get("collation") or "").endswith("_ci"),
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
        """`$like`, `$ilike`, `$regex`, `$startsWith`, `$endsWith`, `$contains` of text, by code point."""

    @abstractmethod
    def json_test(self, column: Column, inside: str, operator: str, value: Any) -> Sql:
        """A condition on what a JSON column has at the path `inside` (empty: on all of it).

        `operator` is `$eq`, an order, one of `matches`, `$null`; or `$containsAll`, which asks whether a list or
        a text is there.
        """

    @abstractmethod
    def now(self, column: Column) -> Sql:
        """The store's time, as `$currentDate` writes it to `column`."""

    def bind(self, column: Column, value: Any, *, stored: bool = True) -> Any:
        """`value` as its driver takes it; raises InvalidOperation where it does not fit the column.

        `stored`: it is going to be written, and not only compared with.
        """
        if value is None:
            return None
        if type(value) is self.plain.get(column.kind):
            if stored:
                self._check_limit(column, value)
            return value
        if stored and column.kind == "decimal" and isinstance(value, str):
            value = values.decimal(column, value)
        if not self._fits(column, value):
            raise values.misfit(column, value)
        if stored:
            self._check_limit(column, value)
        if column.kind == "json" and self.text_json:
            return values.json_text(column, value)
        if values.is_numeric(column) and not self.dynamic:
            value = values.number(column, value, stored=stored)
        return self._adapt(column, value)

    def bind_all(self, column: Column, values: Sequence[Any]) -> Sequence[Any]:
        """What `bind` makes of each, to be written; many at once where the driver takes all of them as they are."""
        if len(values) > 1 and self._takes_all(column, values):
            return values
        return [self.bind(column, value) for value in values]

    def _takes_all(self, column: Column, values: Sequence[Any]) -> bool:
        """Whether all are of the column's plain type (or null), and within its limit, looked at together."""
        kinds = set(map(type, values))
        if not kinds <= {self.plain.get(column.kind), NoneType}:
            return False
        return column.limit is None or within(column.limit, kinds, values)

    def _check_limit(self, column: Column, value: Any) -> None:
        if column.limit is not None and (reason := column.limit(value)) is not None:
            raise refusal(self.name, column.name, value, reason)

    def _fits(self, column: Column, value: Any) -> bool:
        return values.fits(column, value)

    @abstractmethod
    def _adapt(self, column: Column, value: Any) -> Any: ...


def like(pattern: str, special: str) -> str:
    """A LIKE pattern of ours (backslash escapes) with the first of `special` as its escape character."""
    return "".join(
        character if wild or character not in special else special[0] + character
        for character, wild in pattern_parts(pattern)
    )


def pattern_parts(pattern: str) -> list[tuple[str, bool]]:
    """The characters of a LIKE pattern, each with whether it is a wildcard."""
    out: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            out.append((next(characters, "\\"), False))
        else:
            out.append((character, character in "%_"))
    return out
