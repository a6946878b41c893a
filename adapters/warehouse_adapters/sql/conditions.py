"""Conditions as SQL, with the two-valued logic of `warehouse.conditions`.

A comparison may be NULL where the field is; WHERE takes that for false, and every negation settles it by
COALESCE first. AND and OR keep it apart from true, so this agrees with the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from warehouse.conditions import And, Compare, Condition, Not, Or, comparisons, evaluate
from warehouse.errors import InvalidOperation
from warehouse.records import Key, Record
from warehouse_adapters.sql import values
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.tables import Column, Sql, Table

TRUE: Final = Sql("1 = 1")
FALSE: Final = Sql("1 = 0")
_ORDERS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_UNORDERED: Final = frozenset({"array"})
_TEXTUAL: Final = frozenset({"$like", "$ilike", "$startsWith", "$endsWith", "$contains", "$regex"})


def render(dialect: Dialect, table: Table, condition: Condition) -> Sql:
    """`condition` on `table`; raises InvalidOperation for what the column cannot be compared with."""
    match condition:
        case Compare(path, operator, value):
            column, inside = table.place(path)
            if column.kind == "json":
                return _inside(dialect, column, inside, operator, value)
            return _compare(dialect, column, operator, value)
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
        case "$containsAll":
            parts = [_textual(dialect, column, "$contains", item) for item in value]
            return join([_is_list_or_text(dialect, column), *parts], " AND ", TRUE)
        case "$containsAny":
            return join([_textual(dialect, column, "$contains", item) for item in value], " OR ", FALSE)
        case _ if operator in _TEXTUAL:
            return _textual(dialect, column, operator, value)
        case _ if operator in _ORDERS:
            return _ordered(dialect, column, operator, value)
    raise InvalidOperation(f"{operator} is not supported here", field=column.name)


def _in(dialect: Dialect, column: Column, values: Sequence[Any]) -> Sql:
    """Equality with one of `values`; a null among them matches null."""
    parts = [Sql(f"{column.quoted} IS NULL")] if any(value is None for value in values) else []
    groups: dict[str, list[Any]] = {}
    for value in values:
        if value is not None and not _between_doubles(dialect, column, value):
            bound = dialect.bind(column, value, stored=False)
            groups.setdefault(dialect.guard(column, value), []).append(bound)
    for guard, bound in groups.items():
        parts.append(_one_of(dialect, column, guard, bound))
    return join(parts, " OR ", FALSE)


def _between_doubles(dialect: Dialect, column: Column, value: Any) -> bool:
    """Whether a column of doubles can hold nothing equal to this integer, which the store would round for it."""
    if column.kind != "float" or dialect.dynamic or not isinstance(value, int):
        return False
    return abs(value) < 2**1023 and float(value) != value


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
    if _between_doubles(dialect, column, value):
        above = float(value) > value
        operator = (
            ("$gte" if above else "$gt") if operator in {"$gt", "$gte"} else ("$lt" if above else "$lte")
        )
        value = float(value)
    bound = dialect.bind(column, value, stored=False)
    part = Sql(f"{dialect.ordered(column)} {_ORDERS[operator]} {column.operand}", (bound,))
    guard = dialect.guard(column, value)
    return join([part, Sql(guard)], " AND ", TRUE) if guard else part


def _is_list_or_text(dialect: Dialect, column: Column) -> Sql:
    if not (column.kind in {"array", "text"} or dialect.dynamic):
        raise InvalidOperation(f"a column of kind {column.kind} contains nothing", field=column.name)
    return join(
        [Sql(f"{column.quoted} IS NOT NULL"), *map(Sql, filter(None, [dialect.guard(column, "")]))],
        " AND ",
        TRUE,
    )


def _inside(dialect: Dialect, column: Column, inside: str, operator: str, value: Any) -> Sql:
    """A condition on a JSON column, or on what is inside of it."""
    path = f"{column.name}.{inside}" if inside else column.name
    for item in value if isinstance(value, list | tuple | set | frozenset) else [value]:
        values.json_text(column, item, path)
    if operator in {"$null", "$exists"}:
        null = dialect.json_test(column, inside, "$null", None)
        return null if value is (operator == "$null") else _negated(null)
    match operator:
        case "$ne":
            return _negated(_inside(dialect, column, inside, "$eq", value))
        case "$in" | "$nin":
            among = [_inside(dialect, column, inside, "$eq", item) for item in value]
            found = join(among, " OR ", FALSE)
            return found if operator == "$in" else _negated(found)
        case "$eq" if value is None:
            return dialect.json_test(column, inside, "$null", None)
        case "$containsAll":
            parts = [_inside(dialect, column, inside, "$contains", item) for item in value]
            return join([dialect.json_test(column, inside, "$containsAll", None), *parts], " AND ", TRUE)
        case "$containsAny":
            return join(
                [_inside(dialect, column, inside, "$contains", item) for item in value], " OR ", FALSE
            )
        case _ if operator in _ORDERS and (value is None or isinstance(value, list | tuple | dict)):
            return FALSE if value is None else _no_order(operator, path)
    return dialect.json_test(column, inside, operator, value)


def _no_order(operator: str, path: str) -> Sql:
    raise InvalidOperation(f"{operator} takes a number, text or a boolean here", field=path)


def is_exact(dialect: Dialect, table: Table, condition: Condition) -> bool:
    """Whether the database can evaluate `condition` itself."""
    return all(_is_exact(dialect, table, item) for item in comparisons(condition))


def _is_exact(dialect: Dialect, table: Table, item: Compare) -> bool:
    column, inside = table.place(item.path)
    null = item.operator in {"$null", "$exists"} or (item.operator in {"$eq", "$ne"} and item.value is None)
    return dialect.json_paths or column.kind != "json" or (null and not inside)


def superset(dialect: Dialect, table: Table, condition: Condition) -> Sql:
    """What the database can evaluate of `condition`: it matches all that `condition` does, or more."""
    if is_exact(dialect, table, condition):
        return render(dialect, table, condition)
    if isinstance(condition, And):
        return join([superset(dialect, table, part) for part in condition.conditions], " AND ", TRUE)
    return TRUE


def matching(dialect: Dialect, table: Table, condition: Condition, records: Sequence[Record]) -> list[Record]:
    """Those of `records`, which `superset` matched, that `condition` matches."""
    if is_exact(dialect, table, condition):
        return list(records)
    stored = _as_stored(dialect, table, condition)
    return [record for record in records if evaluate(stored, record)]


def _as_stored(dialect: Dialect, table: Table, condition: Condition) -> Condition:
    """`condition` with operands as they are in images: a boolean is a number in MySQL."""
    match condition:
        case Compare(path, operator, value):
            column, _ = table.place(path)
            if column.kind == "json" or operator in {"$null", "$exists"}:
                return condition
            items = value if isinstance(value, list | tuple | set | frozenset) else [value]
            bound = [dialect.bind(column, item, stored=False) for item in items]
            return Compare(path, operator, bound if items is value else bound[0])
        case And(parts):
            return And(tuple(_as_stored(dialect, table, part) for part in parts))
        case Or(parts):
            return Or(tuple(_as_stored(dialect, table, part) for part in parts))
        case Not(part):
            return Not(_as_stored(dialect, table, part))


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
