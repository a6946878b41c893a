"""A unit of work: one open transaction, in which what is read to be written is locked first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from warehouse.adapter import EntityInfo, NeverPrepared, Query, Request, StepChanges, Written
from warehouse.errors import InvalidOperation, StoreError
from warehouse.planning import by_entity
from warehouse.records import ABSENT, Change, Entity, Image, Key, Record
from warehouse_adapters.neo4j import creation, deletion, relationships, updating, writing
from warehouse_adapters.neo4j.deletion import ambiguous
from warehouse_adapters.neo4j.work import Work

Operation = Callable[[Work, Request], Awaitable[list[Change]]]

_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("record", "insert"): creation.insert,
    ("record", "update"): updating.update,
    ("record", "upsert"): creation.upsert,
    ("record", "delete"): deletion.delete,
    ("relationship", "insert"): relationships.insert,
    ("relationship", "update"): updating.update,
    ("relationship", "upsert"): relationships.upsert,
    ("relationship", "delete"): deletion.delete,
}


class Neo4jUnit(NeverPrepared):
    """See `warehouse.adapter.Unit`; an async context manager that rolls back what was not committed."""

    token: str | None = None

    def __init__(self, work: Work, describe: Callable[[Entity], Awaitable[EntityInfo]]) -> None:
        self._work = work
        self._describe = describe

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.rollback()

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:  # noqa: ARG002
        """Run one operation: see `Unit.execute`."""
        with _as_store_errors():
            operation = _OPERATIONS[request.entity.kind, request.operation]
            changes = await operation(self._work, request)
        return StepChanges(changes=tuple(changes), affected=sum(not change.dependent for change in changes))

    async def find(self, query: Query) -> list[Record]:
        """See `Unit.find`."""
        with _as_store_errors():
            return await self._work.find(query)

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """See `Unit.read`. Raises StoreError where several records have one key."""
        images: list[Image] = []
        with _as_store_errors():
            for found in await self._work.lookup(self._work.shape(info), keys):
                if len(found) > 1:
                    raise ambiguous(info, "it is not clear which one is meant")
                images.append(found[0].image if found else ABSENT)
        return images

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        """See `Unit.write`."""

        async def write(entity: Entity, together: Sequence[Change]) -> list[Written]:
            return await writing.write(self._work, await self._describe(entity), together)

        with _as_store_errors():
            return await by_entity(write, changes)

    async def commit(self) -> None:
        """See `Unit.commit`."""
        await self._work.transaction.commit()

    async def rollback(self) -> None:
        """See `Unit.rollback`."""
        await self._work.transaction.rollback()


@contextmanager
def _as_store_errors() -> Iterator[None]:
    """What `check` could not see, because a reference gave the value, is an error of the step."""
    try:
        yield
    except InvalidOperation as error:
        raise StoreError(error.message, field=error.field, hint=error.hint) from error
