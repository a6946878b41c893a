"""A pooled connection, used by its driver's own calls: SQLAlchemy's execution would double their cost.

All connections are in autocommit mode; a unit's transaction is begun and ended by statements of ours, so that
nothing costs a round trip that does not have to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from warehouse.errors import StoreError, StoreOutcomeUnknown, StoreUnavailable
from warehouse_adapters.sql.errors import translate
from warehouse_adapters.sql.prepared import Prepared
from warehouse_adapters.sql.tables import Sql

Rows: TypeAlias = Sequence[Sequence[Any]]
_AGE = "warehouse.age"
# The age in which a connection answered SQLAlchemy, and was not set up for us.
ASKED = "warehouse.asked"


class Link(ABC):
    """One connection of the pool while somebody has it.

    Every method raises the store errors of `warehouse.errors`. `lost`: the connection is gone.
    `last_id`: the number that the last INSERT generated (MySQL).
    """

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        self._pooled = pooled
        self._driver: Any = pooled.driver_connection
        self.lost = False
        self.last_id = 0

    async def prepare(self, age: int) -> bool:
        """Set the connection up, the first time that it is used; False if it is of another age."""
        known = self._pooled.info.get(_AGE)
        if known is None and self._pooled.info.get(ASKED, age) != age:
            return False
        if known is None:
            try:
                await self._setup()
            except Exception as error:
                raise self._translated(error) from error
            self._pooled.info[_AGE] = age
        return known in {None, age}

    def is_of(self, age: int) -> bool:
        """Whether it was set up in this age."""
        return bool(self._pooled.info.get(_AGE) == age)

    async def run(self, sql: Sql) -> Rows:
        """Execute one statement; its rows, if it returns any."""
        try:
            return await self._execute(sql.text, sql.params)
        except Exception as error:
            raise self._translated(error) from error

    async def begin(self, lock_timeout: float, prepare_as: Prepared | None = None) -> str | None:
        """Begin a transaction; the token by which its outcome can be asked for, where there is one.

        `prepare_as`: it will be prepared under this name.
        """
        try:
            return await self._begin(lock_timeout, prepare_as)
        except Exception as error:
            raise self._translated(error) from error

    async def begin_with(self, lock_timeout: float, statements: Sequence[Sql]) -> tuple[str, list[Rows]]:
        """As `begin`, and run `statements`, in one round trip: only where the dialect says `together`."""
        raise NotImplementedError

    async def commit(self) -> None:
        """Commit; StoreOutcomeUnknown where the connection was lost on the way."""
        try:
            await self._commit()
        except Exception as error:
            found = self._translated(error)
            raise (StoreOutcomeUnknown(found.message) if self.lost else found) from error

    async def prepare_as(self, prepared: Prepared) -> None:
        """Prepare the transaction; where the connection was lost on the way, it may be prepared or not."""
        try:
            await self._prepare_as(prepared)
        except Exception as error:
            raise self._translated(error) from error

    async def finish(self, prepared: Prepared, *, commit: bool) -> None:
        """Commit what is prepared, or roll it back; StoreOutcomeUnknown where the connection was lost on the way."""
        try:
            await self._finish(prepared, commit=commit)
        except Exception as error:
            found = self._translated(error)
            raise (StoreOutcomeUnknown(found.message) if self.lost else found) from error

    async def rollback(self) -> bool:
        """Give the transaction up; False where the connection does not do even that."""
        if self.lost:
            return False
        try:
            await self._rollback()
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no use any more
            return False
        return True

    def release(self) -> None:
        """Give the connection back to the pool."""
        self._pooled.close()  # nothing is reset, so this waits for nothing

    async def discard(self) -> None:
        """Close the connection, whatever state it is in."""
        await greenlet_spawn(self._pooled.invalidate)
        await greenlet_spawn(self._pooled.close)

    def _translated(self, error: Exception) -> StoreError:
        found = translate(error)
        self.lost = self.lost or isinstance(found, StoreUnavailable)
        return found

    async def _commit(self) -> None:
        await self._execute("COMMIT", ())

    async def _rollback(self) -> None:
        await self._execute("ROLLBACK", ())

    async def _prepare_as(self, prepared: Prepared) -> None:
        raise NotImplementedError("this database cannot prepare")

    async def _finish(self, prepared: Prepared, *, commit: bool) -> None:
        raise NotImplementedError("this database cannot prepare")

    @abstractmethod
    async def _setup(self) -> None: ...

    @abstractmethod
    async def _execute(self, text: str, params: Sequence[Any]) -> Rows: ...

    @abstractmethod
    async def _begin(self, lock_timeout: float, prepare_as: Prepared | None) -> str | None: ...
