"""What the operations of a unit share: its connection, the tables, and reading rows in images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeVar
from uuid import UUID

from warehouse.conditions import Condition
from warehouse.errors import StoreError
from warehouse.records import ABSENT, Change, Image, Key, Record
from warehouse_adapters.sql import statements
from warehouse_adapters.sql.conditions import by_key, matching, superset
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.links import Link
from warehouse_adapters.sql.tables import Sql, Table

T = TypeVar("T")
_SAVEPOINT: Final = "warehouse_step"


@dataclass(frozen=True, slots=True)
class Work:
    """One open transaction, for those who work in it. `table` finds a table that was described."""

    link: Link
    dialect: Dialect
    table: Callable[[str], Table]

    async def rows(self, table: Table, sql: Sql) -> list[Record]:
        """The rows that a statement returns, as images of `table`."""
        return table.records(await self.link.run(sql))

    async def locked(self, table: Table, where: Sql) -> list[Record]:
        """The rows that match, locked until the unit ends, in the order of their keys."""
        return await self.rows(table, statements.select(self.dialect, table, where, lock=True))

    async def matching(self, table: Table, where: Condition) -> list[Record]:
        """As `locked`. Rows that only `superset` matches are locked, too."""
        rows = await self.locked(table, superset(self.dialect, table, where))
        return matching(self.dialect, table, where, rows)

    async def read(self, table: Table, keys: Sequence[Key], *, lock: bool) -> list[Image]:
        """The images of `keys`, in order."""
        found: dict[Any, Record] = {}
        for some in statements.chunks(self.dialect, keys, len(table.key)):
            where = by_key(self.dialect, table, some)
            sql = statements.select(self.dialect, table, where, lock=lock)
            for record in await self.rows(table, sql):
                found[identify(table.key_of(record))] = record
        return [found.get(identify(key), ABSENT) for key in keys]

    async def reread(self, table: Table, records: Sequence[Record]) -> list[Record]:
        """The rows of `records` as they are now."""
        out: list[Record] = []
        for image in await self.read(table, [table.key_of(record) for record in records], lock=False):
            if image is ABSENT:
                raise StoreError("a row that was just written is not there", entity=table.name)
            out.append(image)
        return out

    async def apart(self, job: Callable[[], Awaitable[T]]) -> T | StoreError:
        """What `job` returns, which runs within a savepoint.

        An error of the store is returned once the unit is as it was before, and raised if it is not.
        """
        await self.link.run(Sql(f"SAVEPOINT {_SAVEPOINT}"))
        try:
            done = await job()
        except StoreError as failure:
            try:
                await self.link.run(Sql(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}"))
            except StoreError:
                # a deadlock may have ended the transaction, savepoint and all
                raise failure from failure.__cause__
            return failure
        await self.link.run(Sql(f"RELEASE SAVEPOINT {_SAVEPOINT}"))
        return done

    async def delete(self, table: Table, records: Sequence[Record]) -> None:
        """Delete these rows, which are locked."""
        keys = [table.key_of(record) for record in records]
        for some in statements.chunks(self.dialect, keys, len(table.key)):
            await self.link.run(statements.delete(table, by_key(self.dialect, table, some)))


def identify(key: Key) -> Any:
    """A hashable stand-in for a key, the same for every way to write one value."""
    return tuple(_identify(value) for value in key.values())


def _identify(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, float | Decimal | int) and not isinstance(value, bool):
        return ("number", value)
    return tuple(_identify(item) for item in value) if isinstance(value, list) else value


def claims(table: Table, after: Record, names: frozenset[str] | None = None) -> tuple[Key, ...]:
    """The unique values that `after` takes; of an update, those of the columns `names` only."""
    return tuple(
        {name: after[name] for name in unique}
        for unique in table.info.unique
        if (names is None or not names.isdisjoint(unique))
        and all(after.get(name) is not None for name in unique)
    )


def inserted(table: Table, given: Record, after: Record) -> Change:
    """The change of an insert of the fields `given`."""
    return Change(
        entity=table.info.entity,
        key=table.key_of(after),
        before=ABSENT,
        after=after,
        written=_names(tuple(given)),
        claims=claims(table, after),
    )


@lru_cache(maxsize=256)
def _names(names: tuple[str, ...]) -> frozenset[str]:
    """One set for all records with the same fields."""
    return frozenset(names)
