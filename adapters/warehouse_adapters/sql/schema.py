"""Reading the schema: one table as a `Table`, by SQLAlchemy's inspector and two questions that it cannot answer."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import SAWarning

from warehouse.adapter import EntityInfo
from warehouse.config import AdapterSettings
from warehouse.errors import ConfigError, UnknownEntity, did_you_mean
from warehouse.records import Entity
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.tables import Column, Reference, Table

# What refers to the table with an action on delete: constraint, schema, table, column, referred column, cascades?
_REFERENCES: Final = {
    "PostgreSQL": """
        SELECT c.conname, n.nspname, r.relname, a.attname, p.attname, c.confdeltype = 'c'
        FROM pg_constraint c
        JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
        CROSS JOIN LATERAL unnest(c.conkey, c.confkey) WITH ORDINALITY AS k(child, parent, position)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.child
        JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = k.parent
        JOIN pg_class t ON t.oid = c.confrelid JOIN pg_namespace s ON s.oid = t.relnamespace
        WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confdeltype IN ('c', 'n', 'd')
          AND s.nspname = %s AND t.relname = %s
        ORDER BY n.nspname, r.relname, c.conname, k.position""",
    "MariaDB": """
        SELECT k.constraint_name, k.table_schema, k.table_name, k.column_name, k.referenced_column_name,
               r.delete_rule = 'CASCADE'
        FROM information_schema.key_column_usage k
        JOIN information_schema.referential_constraints r
          ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name
         AND r.table_name = k.table_name
        WHERE k.referenced_table_schema = %s AND k.referenced_table_name = %s
          AND r.delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
        ORDER BY k.table_schema, k.table_name, k.constraint_name, k.ordinal_position""",
    "SQLite": """
        SELECT m.name || ' (foreign key ' || f.id || ')', ?1, m.name, f."from", f."to", f.on_delete = 'CASCADE'
        FROM {schema}.sqlite_master m, pragma_foreign_key_list(m.name, ?1) f
        WHERE m.type = 'table' AND lower(f."table") = lower(?2)
          AND f.on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
        ORDER BY m.name, f.id, f.seq""",
}

# The triggers of the table: may it fill in what an insert leaves out? may it change a row after it was shown?
_TRIGGERS: Final = {
    "PostgreSQL": """
        SELECT coalesce(bool_or(g.tgtype & 6 = 6), false), coalesce(bool_or(g.tgtype & 66 = 0), false)
        FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid JOIN pg_namespace s ON s.oid = t.relnamespace
        WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND s.nspname = %s AND t.relname = %s""",
    "MariaDB": """
        SELECT coalesce(max(action_timing = 'BEFORE' AND event_manipulation = 'INSERT'), 0), 0
        FROM information_schema.triggers WHERE event_object_schema = %s AND event_object_table = %s""",
    "SQLite": """
        SELECT 0, count(*) FROM {schema}.sqlite_master
        WHERE type = 'trigger' AND ?1 <> '' AND lower(tbl_name) = lower(?2)""",
}
_CHECKS: Final = """
    SELECT check_clause FROM information_schema.check_constraints
    WHERE constraint_schema = %s AND table_name = %s"""
_COLLATIONS: Final = {
    "MariaDB": """
        SELECT column_name, collation_name FROM information_schema.columns
        WHERE table_schema = %s AND table_name = %s AND collation_name IS NOT NULL"""
}
_PARTIAL: Final = ("postgresql_where", "sqlite_where", "mysql_length", "mariadb_length")
_JSON_CHECK: Final = re.compile(r"json_valid\(`(.+)`\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a table is: `schema` None means the default one; `name` is what the entity is called."""

    schema: str | None
    table: str
    name: str
    default: str


class Reflection:
    """Reads tables over one connection."""

    def __init__(self, connection: Connection, dialect: Dialect, settings: AdapterSettings) -> None:
        self._connection = connection
        self._inspector: Inspector = inspect(connection)
        self._dialect = dialect
        self._settings = settings

    def table(self, name: str) -> Table:
        """The table `name`, or `schema.name`. Raises UnknownEntity; ConfigError where its `key` is wrong."""
        place = self._locate(name)
        with warnings.catch_warnings():
            # Types that SQLAlchemy does not know are taken as they come.
            warnings.simplefilter("ignore", SAWarning)
            return self._read(place)

    def _locate(self, name: str) -> _Place:
        default = self._inspector.default_schema_name or "main"
        tables = self._inspector.get_table_names()
        if name in tables:
            return _Place(None, name, name, default)
        schema, dot, table = name.partition(".")
        if dot and schema in self._inspector.get_schema_names():
            own = schema == default
            tables = self._inspector.get_table_names(None if own else schema)
            if table in tables:
                return _Place(None if own else schema, table, table if own else name, default)
        else:
            schema, table = default, name
        if table in self._inspector.get_view_names(schema):
            raise UnknownEntity(f"{name!r} is a view", entity=name, hint="name the table behind it")
        raise UnknownEntity(f"there is no table {name!r}", entity=name, hint=did_you_mean(table, tables))

    def _read(self, place: _Place) -> Table:
        described = self._inspector.get_columns(place.table, place.schema)
        json, collations = self._json_columns(place), self._collations(place)
        columns = {
            each["name"]: self._dialect.column(
                {**each, "collation": collations.get(each["name"])},
                "json" if each["name"] in json else None,
            )
            for each in described
        }
        primary, unique = self._keys(place)
        fills_in, rereads = self._ask(_TRIGGERS, place)[0]
        config = self._settings.entities.get(place.name) or self._settings.entity(
            f"{place.default}.{place.name}"
        )
        key = config.key or self._key(primary, unique, described)
        if unknown := [name for name in key if name not in columns]:
            raise ConfigError(
                f"the key of {place.name!r} names the column {unknown[0]!r}, which it has not",
                hint=did_you_mean(unknown[0], columns),
            )
        info = EntityInfo(
            entity=Entity(place.name),
            key=tuple(key),
            fields=frozenset(columns),
            required=frozenset() if fills_in else _required(described, primary),
            generated=frozenset(name for name, column in columns.items() if column.computed or column.always),
            unique=tuple(dict.fromkeys(each for each in [*unique.values(), primary] if each and each != key)),
            config=config,
        )
        return Table(
            info=info,
            quoted=self._quoted(place),
            columns=columns,
            # SQLite's RETURNING shows 1.0 as 1.
            rereads=bool(rereads)
            or (self._dialect.dynamic and any(column.kind == "float" for column in columns.values())),
            constraints=self._named(place, primary, unique),
            references=tuple(self._references(place, primary)),
            decoded=tuple(self._decoded(columns)),
        )

    def _quoted(self, place: _Place) -> str:
        quote = self._dialect.quote
        return f"{quote(place.schema)}.{quote(place.table)}" if place.schema else quote(place.table)

    def _decoded(self, columns: dict[str, Column]) -> Iterator[str]:
        if self._dialect.text_json:
            yield from (name for name, column in columns.items() if column.kind == "json")

    def _collations(self, place: _Place) -> dict[str, str]:
        """The collation of each text column, where it decides whether an index can be used."""
        if self._dialect.name != "MariaDB":
            return {}
        return {str(name): str(collation) for name, collation in self._ask(_COLLATIONS, place)}

    def _json_columns(self, place: _Place) -> frozenset[str]:
        """MariaDB's JSON is text with a check; by that it is known."""
        if self._dialect.name != "MariaDB" or not getattr(self._connection.dialect, "is_mariadb", False):
            return frozenset()
        rows = self._ask({"MariaDB": _CHECKS}, place)
        found = (_JSON_CHECK.fullmatch(clause) for (clause,) in rows)
        return frozenset(match.group(1) for match in found if match)

    def _keys(self, place: _Place) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """The columns of the primary key, and those of each unique constraint or full unique index by name."""
        where = place.table, place.schema
        primary = tuple(self._inspector.get_pk_constraint(*where)["constrained_columns"])
        unique: dict[str, tuple[str, ...]] = {}
        options: dict[str, Any] = {}
        if self._dialect.name == "SQLite":
            # Its constraints are read from the text of the table, some not at all; their indexes are there.
            options = {"include_auto_indexes": True}
        else:
            for constraint in self._inspector.get_unique_constraints(*where):
                unique[constraint["name"] or ""] = tuple(constraint["column_names"])
        for index in self._inspector.get_indexes(*where, **options):
            name, details = index["name"] or "", index.get("dialect_options") or {}
            if any(details.get(detail) for detail in _PARTIAL) or None in index["column_names"]:
                unique.pop(name, None)  # MySQL lists an index on a prefix as a constraint, too
            elif index["unique"]:
                unique.setdefault(name, tuple(str(column) for column in index["column_names"]))
        return primary, unique

    def _key(
        self, primary: tuple[str, ...], unique: dict[str, tuple[str, ...]], described: Sequence[Any]
    ) -> tuple[str, ...]:
        if primary:
            return primary
        nullable = {each["name"] for each in described if each["nullable"]}
        return min((each for each in unique.values() if nullable.isdisjoint(each)), key=len, default=())

    def _named(
        self, place: _Place, primary: tuple[str, ...], unique: dict[str, tuple[str, ...]]
    ) -> dict[str, tuple[str, ...]]:
        """The constraints by the names that errors give them: SQLite names the columns, MySQL PRIMARY."""
        name = self._inspector.get_pk_constraint(place.table, place.schema)["name"]
        named = {name or "PRIMARY": primary, "PRIMARY": primary, **unique}
        if self._dialect.name == "SQLite":
            return {", ".join(f"{place.table}.{name}" for name in each): each for each in named.values()}
        return named

    def _references(self, place: _Place, primary: tuple[str, ...]) -> Iterator[Reference]:
        rows: dict[tuple[str, str, str], list[Any]] = {}
        for constraint, schema, table, child, parent, cascades in self._ask(_REFERENCES, place):
            rows.setdefault((constraint, schema, table), []).append((child, parent, cascades))
        for (constraint, schema, table), parts in rows.items():
            yield Reference(
                constraint=constraint,
                child=table if schema == place.default else f"{schema}.{table}",
                columns=tuple(child for child, _, _ in parts),
                # SQLite leaves the columns out where the primary key is meant.
                parents=tuple(parent or primary[at] for at, (_, parent, _) in enumerate(parts)),
                cascades=bool(parts[0][2]),
            )

    def _ask(self, questions: dict[str, str], place: _Place) -> Sequence[Any]:
        schema = place.schema or place.default
        text = questions[self._dialect.name].replace("{schema}", self._dialect.quote(schema))
        return self._connection.exec_driver_sql(text, (schema, place.table)).fetchall()


def _required(described: Sequence[Any], primary: tuple[str, ...]) -> frozenset[str]:
    """The columns that an insert must give: not null, and filled in by nobody."""
    numbered = {primary[0]} if len(primary) == 1 else set()
    return frozenset(
        each["name"]
        for each in described
        if not each["nullable"]
        and each.get("default") is None
        and "computed" not in each
        and "identity" not in each
        and not (each["name"] in numbered and each.get("autoincrement") is True)
    )
