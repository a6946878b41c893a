"""The statements: what is inserted, updated, deleted and read, as SQL for one table."""

# ruff: noqa: S608 - names are quoted, and values are bound

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

from warehouse.adapter import Query
from warehouse.conditions import Condition, sort_records
from warehouse.errors import InvalidOperation
from warehouse.records import Key, Record
from warehouse.updates import Assignment
from warehouse_adapters.sql.conditions import (
    among,
    by_key,
    greater,
    is_exact,
    matching,
    render,
    superset,
)
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.tables import Column, Sql, Table
from warehouse_adapters.sql.values import is_numeric, json_text

_ARITHMETIC: Final = {"$increment": "+", "$multiply": "*"}
_LISTS: Final = frozenset({"$push", "$pull", "$addToSet"})
# Rows in one statement; more cost no fewer round trips than they cost the planner.
_MAX_ROWS: Final = 1000
# Rows that one statement tells apart by a CASE, which looks at half of its branches for each.
_MAX_BRANCHES: Final = 200


def select(
    dialect: Dialect, table: Table, where: Sql, *, lock: bool, order: Sequence[str] | None = None
) -> Sql:
    """The whole rows that match, in the order of the key or of `order` (terms of ORDER BY)."""
    terms = order if order is not None else [table.columns[name].quoted for name in table.key]
    by = f" ORDER BY {', '.join(terms)}" if terms else ""
    return Sql(
        f"SELECT {table.shown} FROM {table.quoted} WHERE {where.text}{by}{dialect.lock if lock else ''}",
        where.params,
    )


def probe(table: Table, where: Sql) -> Sql:
    """One row if any matches."""
    return Sql(f"SELECT 1 FROM {table.quoted} WHERE {where.text} LIMIT 1", where.params)


def find(dialect: Dialect, table: Table, query: Query) -> Sql:
    """A read: conditions, order, limit and offset; without the last three where `found` has to see to them."""
    here = _is_finished_here(dialect, table, query)
    order = [
        dialect.order(table.column(name.removeprefix("-")), descending=name.startswith("-"))
        for name in (() if here else query.order_by)
    ]
    base = select(dialect, table, superset(dialect, table, query.where), lock=False, order=order)
    limits = ""
    if (query.limit is not None or query.offset) and not here:
        # There is no OFFSET without LIMIT in MySQL and SQLite.
        limits = f" LIMIT {query.limit if query.limit is not None else 2**63 - 1} OFFSET {query.offset}"
    return Sql(f"{base.text}{limits}{dialect.lock if query.lock else ''}", base.params)


def found(dialect: Dialect, table: Table, query: Query, records: Sequence[Record]) -> list[Record]:
    """The records of a read, from the rows that `find` gave."""
    if not _is_finished_here(dialect, table, query):
        return list(records)
    matched = sort_records(matching(dialect, table, query.where, records), query.order_by)
    return matched[query.offset :][: query.limit]


def _is_finished_here(dialect: Dialect, table: Table, query: Query) -> bool:
    """Whether the database cannot evaluate all of the read: what is inside of JSON has an order here only."""
    inside = any(table.place(name.removeprefix("-"))[0].kind == "json" for name in query.order_by)
    return inside or not is_exact(dialect, table, query.where)


def insert(
    dialect: Dialect,
    table: Table,
    names: Sequence[str],
    records: Sequence[Record],
    *,
    override: bool = False,
) -> Sql:
    """Insert `records`, all with the fields `names`, returning the rows where the store can.

    `override` writes numbers that the store would give itself.
    """
    columns = [table.column(name) for name in names]
    shape = (tuple(names), override)
    text = table.inserts.get(shape) if len(records) == 1 else None
    if text is None:
        text = _insert_text(dialect, table, columns, len(records), override)
        if len(records) == 1:
            table.inserts[shape] = text
    if len(records) == 1:
        return Sql(text, tuple(dialect.bind(column, records[0][column.name]) for column in columns))
    bound = [dialect.bind_all(column, [record[column.name] for record in records]) for column in columns]
    return Sql(text, tuple(chain.from_iterable(zip(*bound, strict=True))))


def _insert_text(
    dialect: Dialect, table: Table, columns: Sequence[Column], count: int, override: bool
) -> str:
    names = ", ".join(column.quoted for column in columns)
    row = "(" + ", ".join(column.written for column in columns) + ")"
    system = " OVERRIDING SYSTEM VALUE" if override else ""
    return f"INSERT INTO {table.quoted} ({names}){system} VALUES {', '.join([row] * count)}" + (
        f" RETURNING {table.shown}" if dialect.returning else ""
    )


def chunks(
    dialect: Dialect, items: Sequence[Any], width: int, most: int = _MAX_ROWS
) -> Iterator[Sequence[Any]]:
    """`items` in pieces that fit into one statement, each item taking `width` placeholders."""
    size = max(1, min(most, dialect.max_parameters // max(1, width)))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def update(dialect: Dialect, table: Table, assignments: Sequence[Assignment], where: Sql) -> Sql:
    """Set the columns of the rows that match."""
    sets = _sets(dialect, table, assignments)
    return Sql(f"UPDATE {table.quoted} SET {sets.text} WHERE {where.text}", sets.params + where.params)


def _sets(dialect: Dialect, table: Table, assignments: Sequence[Assignment]) -> Sql:
    columns = [table.column(item.path) for item in assignments]
    parts = [_assigned(dialect, column, item) for column, item in zip(columns, assignments, strict=True)]
    return Sql(
        ", ".join(f"{column.quoted} = {part.text}" for column, part in zip(columns, parts, strict=True)),
        tuple(value for part in parts for value in part.params),
    )


def branches(dialect: Dialect, items: Sequence[Any], width: int) -> Iterator[Sequence[Any]]:
    """As `chunks`, for a statement that tells its rows apart by a CASE."""
    return chunks(dialect, items, width, _MAX_BRANCHES)


def update_each(
    dialect: Dialect, table: Table, keys: Sequence[Key], records: Sequence[Record], names: Sequence[str]
) -> Sql:
    """Give each of the rows with these keys its own values for the columns `names`."""
    rows = [keyed(dialect, table, key) for key in keys]
    sets, params = [], []
    for column in map(table.column, names):
        # ELSE never applies: it tells PostgreSQL the type of the placeholders.
        whens = f" WHEN {rows[0].text} THEN {column.written}" * len(rows)
        sets.append(f"{column.quoted} = CASE{whens} ELSE {column.quoted} END")
        for row, record in zip(rows, records, strict=True):
            params += [*row.params, dialect.bind(column, record.get(column.name))]
    where = by_key(dialect, table, keys)
    return Sql(f"UPDATE {table.quoted} SET {', '.join(sets)} WHERE {where.text}", (*params, *where.params))


def select_each(
    dialect: Dialect, table: Table, columns: Sequence[Column], rows: Sequence[Sequence[Any]]
) -> Sql:
    """The rows that have one of these combinations of values, locked, each after the number of the first one.

    A null among the values finds nothing.
    """
    one = " AND ".join(f"{column.quoted} = {column.written}" for column in columns)
    whens = "".join(f" WHEN {one} THEN {number}" for number in range(len(rows)))
    where = among(dialect, columns, rows)
    order = ", ".join(table.columns[name].quoted for name in table.key)
    return Sql(
        f"SELECT CASE{whens} END, {table.shown} FROM {table.quoted} WHERE {where.text}"
        f" ORDER BY {order}{dialect.lock}",
        where.params * 2,
    )


def update_with_images(
    dialect: Dialect, table: Table, assignments: Sequence[Assignment], where: Condition
) -> Sql:
    """PostgreSQL: lock the rows, update them, and return each row before and after, in one statement.

    The names are such as no table or column has.
    """
    condition, sets = render(dialect, table, where), _sets(dialect, table, assignments)
    old = {name: f'"warehouse before {number}"' for number, name in enumerate(table.names)}
    new = {name: f'"warehouse after {number}"' for number, name in enumerate(table.names)}
    matched = " AND ".join(f"{table.columns[name].quoted} = {old[name]}" for name in table.key)
    joined = " AND ".join(f"{old[name]} = {new[name]}" for name in table.key)
    locked = select(dialect, table, condition, lock=True)
    text = (
        f'WITH "warehouse before" ({", ".join(old.values())}) AS MATERIALIZED ({locked.text}),'
        f' "warehouse after" ({", ".join(new.values())}) AS (UPDATE {table.quoted} SET {sets.text}'
        f' FROM "warehouse before" WHERE {matched} RETURNING {table.shown})'
        f' SELECT * FROM "warehouse before" LEFT JOIN "warehouse after" ON {joined}'
        f" ORDER BY {', '.join(old[name] for name in table.key)}"
    )
    return Sql(text, locked.params + sets.params)


def delete(table: Table, where: Sql, *, returning: bool = False) -> Sql:
    """Delete the rows that match."""
    tail = f" RETURNING {table.shown}" if returning else ""
    return Sql(f"DELETE FROM {table.quoted} WHERE {where.text}{tail}", where.params)


def computes(assignments: Sequence[Assignment]) -> bool:
    """Whether the new values must be computed here, since they are lists, or lie inside of columns."""
    return any(item.operator in _LISTS or "." in item.path for item in assignments)


def check_assignment(dialect: Dialect, table: Table, item: Assignment) -> None:
    """Refuse an update operator that the column's type does not take."""
    column, inside = table.place(item.path)
    if inside:
        _require(column, item, item.operator != "$currentDate")
        json_text(column, item.value, item.path)
        return
    if item.operator in _LISTS:
        if column.kind not in {"array", "json"}:
            raise InvalidOperation(f"{item.operator} needs a list", field=item.path)
        return
    _assigned(dialect, column, item)


def _assigned(dialect: Dialect, column: Column, item: Assignment) -> Sql:
    """The SQL of the new value; null counts as 0 in sums and products, and gives way to any value."""
    match item.operator:
        case "$set":
            return Sql(column.written, (dialect.bind(column, item.value),))
        case "$unset":
            return Sql("NULL")
        case "$currentDate":
            _require(column, item, column.kind in {"datetime", "date"} or dialect.dynamic)
            return dialect.now(column)
        case "$increment" | "$multiply":
            _require(column, item, is_numeric(column) or dialect.dynamic)
            mark = f"COALESCE({column.quoted}, 0) {_ARITHMETIC[item.operator]} {column.written}"
            return Sql(mark, (dialect.bind(column, item.value),))
        case "$min" | "$max":
            return _bounded(dialect, column, item)
    raise InvalidOperation(f"{item.operator} is not supported here", field=item.path)


def _bounded(dialect: Dialect, column: Column, item: Assignment) -> Sql:
    _require(column, item, column.kind not in {"json", "array"})
    if item.value is None:
        return Sql(column.quoted)
    beyond = greater(dialect, column, item.operator, item.value)
    value = dialect.bind(column, item.value)
    return Sql(
        f"CASE WHEN {column.quoted} IS NULL OR {beyond.text} THEN {column.written} ELSE {column.quoted} END",
        (*beyond.params, value),
    )


def _require(column: Column, item: Assignment, fits: bool) -> None:
    if not fits:
        raise InvalidOperation(
            f"{item.operator} does not apply to a column of kind {column.kind}", field=item.path
        )


def set_to(record: Record, names: Sequence[str]) -> tuple[Assignment, ...]:
    """Assignments that give the named columns the values of `record`; what it lacks becomes null."""
    return tuple(Assignment(name, "$set", record.get(name)) for name in names)


def keyed(dialect: Dialect, table: Table, key: Key) -> Sql:
    """The row with this key; the text depends on the table only."""
    columns = [table.columns[name] for name in table.key]
    text = " AND ".join(f"{column.quoted} = {column.written}" for column in columns)
    return Sql(text, tuple(dialect.bind(column, key[column.name], stored=False) for column in columns))
