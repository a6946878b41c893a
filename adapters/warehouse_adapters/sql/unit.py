"""A unit: one connection, one transaction, begun by its first call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, TypeVarTuple, Unpack

from warehouse.adapter import EntityInfo, Query, Request, StepChanges, UnitSettings, Written
from warehouse.errors import InvalidOperation, StoreError
from warehouse.records import Change, Image, Key, Record
from warehouse_adapters.sql import inserts, statements, updates, writes
from warehouse_adapters.sql.connections import Connections
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.links import Link
from warehouse_adapters.sql.prepared import Prepared
from warehouse_adapters.sql.tables import Table
from warehouse_adapters.sql.work import Work

A = TypeVarTuple("A")
T = TypeVar("T")
_OPERATIONS = {
    "insert": inserts.insert,
    "update": updates.update,
    "upsert": inserts.upsert,
    "delete": updates.delete,
}


class SqlUnit:
    """See `warehouse.adapter.Unit`. After an error or a cancellation it can only be rolled back."""

    def __init__(
        self,
        connections: Connections,
        dialect: Dialect,
        table: Callable[[str], Table],
        settings: UnitSettings,
        prepare_as: Prepared | None = None,
    ) -> None:
        self._connections = connections
        self._dialect = dialect
        self._table = table
        self._settings = settings
        self._prepare_as = prepare_as
        self._prepared = False
        self._link: Link | None = None
        self._work: Work | None = None
        self._over = False
        self.token: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._prepared = False  # what is prepared stays so
        await self.rollback()

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:
        """See `Unit.execute`."""
        done = await self._do(_execute_apart if savepoint else _execute, request)
        if isinstance(done, StoreError):
            raise done
        return StepChanges(changes=tuple(done), affected=sum(not change.dependent for change in done))

    async def execute_together(self, requests: Sequence[Request]) -> list[StepChanges] | None:
        """See `TogetherUnit.execute_together`: inserts of one record each."""
        tables = [self._table(request.entity.name) for request in requests]
        pairs = list(zip(tables, requests, strict=True))
        if not all(inserts.is_plain(table, request) for table, request in pairs):
            return None
        self._check()
        self._over = True  # until all of it has succeeded
        texts = [inserts.statement(self._dialect, table, request) for table, request in pairs]
        link = self._link = await self._connections.acquire()
        self.token, rows = await link.begin_with(self._settings.lock_timeout, texts)
        made = zip(pairs, rows, strict=True)
        done = [inserts.change(table, request, table.records(some)) for (table, request), some in made]
        self._work, self._over = Work(link, self._dialect, self._table), False
        return [StepChanges(changes=(item,), affected=1) for item in done]

    async def find(self, query: Query) -> list[Record]:
        """See `Unit.find`."""
        return await self._do(_find, query)

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """See `Unit.read`."""
        return await self._do(_read, info, keys)

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        """See `Unit.write`. Where the list ends with REFUSED, PostgreSQL can only roll back."""
        return await self._do(writes.write, changes)

    async def prepare(self) -> None:
        """See `Unit.prepare`."""
        self._check()
        if self._link is None:
            self._work = await self._begin()
        self._over, self._prepared = True, True
        await self._started().prepare_as(self._name())
        self._over = False

    async def commit(self) -> None:
        """See `Unit.commit`."""
        self._check()
        self._over = True
        if self._link is not None:
            prepared, self._prepared = self._prepared, False
            if prepared:
                await self._link.finish(self._name(), commit=True)
            else:
                await self._link.commit()
            link, self._link = self._link, None
            self._connections.release(link)

    async def rollback(self) -> None:
        """See `Unit.rollback`. A connection that does not answer is cut."""
        self._over = True
        link, self._link = self._link, None
        prepared, self._prepared = self._prepared, False
        if link is None:
            return
        if prepared:
            await self._connections.roll_back_prepared(link, self._name())
        else:
            await self._connections.give_up(link)

    def _name(self) -> Prepared:
        if self._prepare_as is None:
            raise RuntimeError("the unit was not opened to be prepared")
        return self._prepare_as

    def _started(self) -> Link:
        if self._link is None:
            raise StoreError("the unit has no connection")
        return self._link

    def _check(self) -> None:
        if self._over:
            raise StoreError("the unit has ended, or failed before and can only be rolled back")

    async def _do(self, job: Callable[[Work, Unpack[A]], Awaitable[T]], *arguments: *A) -> T:
        """Run `job` in the transaction, which the first one begins."""
        self._check()
        try:
            if self._work is None:
                self._work = await self._begin()
            return await job(self._work, *arguments)
        except InvalidOperation as error:
            self._over = True
            raise _late(error) from error
        except BaseException:
            self._over = True
            raise

    async def _begin(self) -> Work:
        self._link = await self._connections.acquire()
        self.token = await self._link.begin(self._settings.lock_timeout, self._prepare_as)
        return Work(self._link, self._dialect, self._table)


async def _find(work: Work, query: Query) -> list[Record]:
    table = work.table(query.info.entity.name)
    rows = await work.rows(table, statements.find(work.dialect, table, query))
    return statements.found(work.dialect, table, query, rows)


async def _read(work: Work, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
    return await work.read(work.table(info.entity.name), keys, lock=True)


async def _execute(work: Work, request: Request) -> list[Change]:
    return await _OPERATIONS[request.operation](work, work.table(request.entity.name), request)


async def _execute_apart(work: Work, request: Request) -> list[Change] | StoreError:
    """Within a savepoint: an error is returned once the unit is as it was before."""

    async def job() -> list[Change]:
        try:
            return await _execute(work, request)
        except InvalidOperation as error:
            raise _late(error) from error

    return await work.apart(job)


def _late(error: InvalidOperation) -> StoreError:
    """The engine has `check` refuse what does not fit; what comes this late was brought by a reference."""
    return StoreError(error.message, entity=error.entity, field=error.field, hint=error.hint)
