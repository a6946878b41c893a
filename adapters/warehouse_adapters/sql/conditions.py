"""Conditions as SQL, with the two-valued logic of `warehouse.conditions`.

A comparison may be NULL where the field is; WHERE takes that for false, and every negation settles it by
COALESCE first. AND and OR keep it apart from true, so this agrees with the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from warehouse.conditions import And, Compare, Condition, Not, Or
from warehouse.errors import InvalidOperation
from warehouse.records import Key
from warehouse_adapters.sql import values
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.tables import Column, Sql, Table

TRUE: Final = Sql("1 = 1")
FALSE: Final = Sql("1 = 0")
_ORDERS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_UNORDERED: Final = frozenset({"json", "array"})
_TEXTUAL: Final = frozenset({"$like", "$startsWith", "$endsWith", "$contains"})


def render(dialect: Dialect, table: Table, condition: Condition) -> Sql:
    """`condition` on `table`; raises InvalidOperation for what the column cannot be compared with."""
    match condition:
        case Compare(path, operator, value):
            return _compare(dialect, table.column(path), operator, value)
        case And(parts):
            return join([render(dialect, table, part) for part in parts], " AND ", TRUE)
        case Or(parts):
            return join([render(dialect, table, part) for part in parts], " OR ", FALSE)
        case Not(part):
            return _negated(render(dialect, table, part))


def join(parts: Sequence[Sql], word: str, empty: Sql) -> Sql:
    """The parts in brackets, joined by AND or OR; `empty` where there is none."""
    if not parts:
        return empty
    if len(parts) == 1:
        return parts[0]
    return Sql(
        "(" + word.join(part.text for part in parts) + ")", tuple(p for part in parts for p in part.params)
    )


def _negated(part: Sql) -> Sql:
    return Sql(f"NOT COALESCE(({part.text}), 1 = 0)", part.params)


def _compare(dialect: Dialect, column: Column, operator: str, value: Any) -> Sql:
    match operator:
        case "$eq":
            return _in(dialect, column, [value])
        case "$ne":
            return _negated(_in(dialect, column, [value]))
        case "$in":
            return _in(dialect, column, list(value))
        case "$nin":
            return _negated(_in(dialect, column, list(value)))
        case "$null" | "$exists":
            null = value if operator == "$null" else not value
            return Sql(f"{column.quoted} IS {'' if null else 'NOT '}NULL")
        case _ if operator in _TEXTUAL:
            return _textual(dialect, column, operator, value)
        case _ if operator in _ORDERS:
            return _ordered(dialect, column, operator, value)
    raise InvalidOperation(f"{operator} is not supported here", field=column.name)


def _in(dialect: Dialect, column: Column, values: Sequence[Any]) -> Sql:
    """Equality with one of `values`; a null among them matches null."""
    if column.kind == "json" and dialect.text_json and any(value is not None for value in values):
        raise InvalidOperation("JSON columns can only be tested for null here", field=column.name)
    parts = [Sql(f"{column.quoted} IS NULL")] if any(value is None for value in values) else []
    groups: dict[str, list[Any]] = {}
    for value in values:
        if value is not None:
            bound = dialect.bind(column, value, stored=False)
            groups.setdefault(dialect.guard(column, value), []).append(bound)
    for guard, bound in groups.items():
        parts.append(_one_of(dialect, column, guard, bound))
    return join(parts, " OR ", FALSE)


def _one_of(dialect: Dialect, column: Column, guard: str, bound: list[Any]) -> Sql:
    params = tuple(bound)
    exact = Sql(f"{column.compared} IN ({', '.join([column.operand] * len(bound))})", params)
    parts = [exact]
    if dialect.prefilters(column):
        parts.insert(0, Sql(f"{column.quoted} IN ({', '.join([dialect.mark] * len(bound))})", params))
    if guard:
        parts.append(Sql(guard))
    return join(parts, " AND ", TRUE)


def _ordered(dialect: Dialect, column: Column, operator: str, value: Any) -> Sql:
    if value is None:
        return FALSE
    if column.kind in _UNORDERED:
        raise InvalidOperation(
            f"{operator} does not apply to a column of kind {column.kind}", field=column.name
        )
    bound = dialect.bind(column, value, stored=False)
    part = Sql(f"{dialect.ordered(column)} {_ORDERS[operator]} {column.operand}", (bound,))
    guard = dialect.guard(column, value)
    return join([part, Sql(guard)], " AND ", TRUE) if guard else part


def greater(dialect: Dialect, column: Column, operator: str, value: Any) -> Sql:
    """Whether the column lies beyond `value`, so that `$min` or `$max` has to replace it."""
    return _ordered(dialect, column, "$gt" if operator == "$min" else "$lt", value)


def _textual(dialect: Dialect, column: Column, operator: str, value: Any) -> Sql:
    if operator == "$contains" and column.kind == "array" and value is not None:
        if column.element is not None and not values.fits(replace(column, kind=column.element), value):
            raise values.misfit(column, value)
        return Sql(f"{dialect.mark} = ANY({column.quoted})", (value,))
    if not isinstance(value, str) or not (column.kind == "text" or dialect.dynamic) or column.kind == "json":
        raise InvalidOperation(
            f"{operator} of {value!r} does not apply to a column of kind {column.kind}", field=column.name
        )
    return dialect.matches(column, operator, value)


def by_key(dialect: Dialect, table: Table, keys: Sequence[Key]) -> Sql:
    """The rows with one of `keys`, by the store's own equality of the key."""
    columns = [table.columns[name] for name in table.key]
    return among(dialect, columns, [tuple(key[column.name] for column in columns) for key in keys])


def among(dialect: Dialect, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Sql:
    """The rows whose `columns` have one of these combinations of values."""
    params = tuple(
        dialect.bind(column, value, stored=False)
        for row in rows
        for column, value in zip(columns, row, strict=True)
    )
    marks = ", ".join(column.written for column in columns)
    if len(columns) == 1:
        return Sql(f"{columns[0].quoted} IN ({', '.join([marks] * len(rows))})", params)
    names = ", ".join(column.quoted for column in columns)
    return Sql(f"({names}) IN ({dialect.rows}{', '.join([f'({marks})'] * len(rows))})", params)
