"""One explicit transaction of the driver, begun at its first statement; and reads without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio
from neo4j import AsyncDriver, AsyncResult, AsyncSession, AsyncTransaction

from warehouse.errors import StoreContention
from warehouse_adapters.neo4j.errors import ConstraintName, translated

CLEAN_UP: Final = 5.0  # seconds that a rollback may take before its connection is cut

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The rows of a statement, and how many nodes it created and relationships it deleted."""

    rows: list[Row]
    nodes_created: int
    relationships_deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How to reach one database: the driver, and the options of its sessions."""

    driver: AsyncDriver
    session: Mapping[str, Any]
    constraint: ConstraintName


class Transaction:
    """An explicit transaction. No statement is repeated (`execute_query` and managed transactions would be)."""

    def __init__(self, link: Link, *, patience: float) -> None:
        self._link = link
        self._patience = patience
        self._session: AsyncSession | None = None
        self._transaction: AsyncTransaction | None = None

    async def run(self, statement: str, **parameters: Any) -> Reply:
        """Run one statement and read its rows; begins the transaction if need be.

        Raises StoreContention where there is no answer within `patience` seconds: Neo4j bounds its waits
        for locks by a setting of the server, if at all. The connection is then cut, which rolls back.
        """
        with translated(self._link.constraint), _bounded(self._patience):
            if self._session is None:
                self._session = self._link.driver.session(**self._link.session)
            if self._transaction is None:
                self._transaction = await self._session.begin_transaction()
            return await _reply(await self._transaction.run(statement, parameters))

    async def commit(self) -> None:
        """Commit, if anything was begun. Raises StoreOutcomeUnknown where the reply was lost."""
        transaction = self._transaction
        if transaction is None:
            return
        with translated(self._link.constraint, committing=True):
            await transaction.commit()
        await self.rollback()

    async def rollback(self) -> None:
        """Give back the session: in order where it still works, else by cutting its connection. Never raises."""
        session, self._session, self._transaction = self._session, None, None
        if session is None:
            return
        with anyio.move_on_after(CLEAN_UP, shield=True), suppress(Exception):
            await session.close()
            return
        session.cancel()
        with suppress(Exception):
            await session.close()  # nothing is left to wait for: it only notes that it is closed


async def read(link: Link, statement: str, **parameters: Any) -> list[Row]:
    """The rows of a statement in a transaction of its own; one round trip.

    In a cluster the leader is asked, though it only reads: a follower may not know yet what was committed.
    """
    with translated(link.constraint):
        async with link.driver.session(**link.session) as session:
            return (await _reply(await session.run(statement, parameters))).rows


async def _reply(result: AsyncResult) -> Reply:
    # Statements of ours return maps, never nodes: nothing in a row is left to be taken apart, as `data` would.
    rows = [dict(record.items()) async for record in result]  # type: ignore[no-untyped-call]
    counters = (await result.consume()).counters
    return Reply(
        rows=rows,
        nodes_created=counters.nodes_created,
        relationships_deleted=counters.relationships_deleted,
    )


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise StoreContention(f"no answer within {seconds:g} seconds: another transaction may hold a lock")
