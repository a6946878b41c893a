"""The documents of one database, read and written: inside a transaction's session, or each for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

from bson import ObjectId
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query
from warehouse.conditions import EVERYTHING, Condition
from warehouse.errors import StoreContention, StoreError
from warehouse.records import ABSENT, Image, Key, Record, get
from warehouse_adapters.mongo.errors import translated
from warehouse_adapters.mongo.language import narrow
from warehouse_adapters.mongo.values import identity, keep

Document: TypeAlias = dict[str, Any]
Database: TypeAlias = AsyncDatabase[Document]
Session: TypeAlias = AsyncClientSession
Write: TypeAlias = InsertOne[Document] | UpdateOne | DeleteOne


class Documents:
    """What is in a database; with a session, everything happens inside its transaction."""

    def __init__(self, database: Database, session: Session | None = None) -> None:
        self._database = database
        self.session = session

    def _collection(self, info: EntityInfo) -> AsyncCollection[Document]:
        return self._database[info.entity.name]

    # Reading

    async def scan(self, query: Query) -> list[Record]:
        """See `PlanningStore.scan`."""
        return [record async for record in self._stream(query.info, query.where)]

    async def find(self, query: Query) -> list[Record]:
        """The records of `query`, in its order."""
        end = None if query.limit is None else query.offset + query.limit
        if end is None or query.order_by:
            found = await self.select(query.info, query.where)
            return conditions.sort_records(found, query.order_by)[query.offset : end]
        return (await self.select(query.info, query.where, end))[query.offset :]

    async def select(self, info: EntityInfo, where: Condition, most: int | None = None) -> list[Record]:
        """The records that match exactly, at most the first `most` of them."""
        found: list[Record] = []
        if most == 0:
            return found
        async for record in self._stream(info, where, most):
            if conditions.evaluate(where, record):
                found.append(record)
                if len(found) == most:
                    break
        return found

    async def _stream(
        self, info: EntityInfo, where: Condition, most: int | None = None
    ) -> AsyncIterator[Record]:
        limit = most if most is not None and where == EVERYTHING else 0
        with translated():
            found = self._collection(info).find(narrow(where), limit=limit, session=self.session)
            async with found as cursor:
                async for record in cursor:
                    yield record

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """See `PlanningStore.load`. Raises StoreError where a key does not identify one record."""
        if not keys:
            return []
        found: dict[Any, Record] = {}
        with translated():
            records = (
                await self._collection(info).find(_with_keys(info, keys), session=self.session).to_list()
            )
        for record in records:
            place = identity(get(record, path) for path in info.key)
            if place in found:
                raise StoreError(f"several records have the key {', '.join(info.key)}")
            found[place] = record
        return [found.get(identity(key[path] for path in info.key), ABSENT) for key in keys]

    # Writing

    def complete(self, info: EntityInfo, record: Record) -> Record:  # noqa: ARG002 - all collections are alike
        """See `PlanningStore.complete`."""
        return keep(record if "_id" in record else {"_id": ObjectId(), **record})

    async def bulk(self, info: EntityInfo, writes: Sequence[Write]) -> int:
        """Make several writes in order, in one round trip; how many of them found their record."""
        if not writes:
            return 0
        with translated(writing=self.session is None):
            result = await self._collection(info).bulk_write(list(writes), ordered=True, session=self.session)
        return result.inserted_count + result.matched_count + result.deleted_count

    async def send(self, info: EntityInfo, writes: Sequence[Write]) -> None:
        """Make several writes in order, each of a record that was read before.

        Raises StoreContention where one of them does not find its record.
        """
        if await self.bulk(info, writes) != len(writes):
            raise StoreContention("a record was changed by somebody else meanwhile")


def _with_keys(info: EntityInfo, keys: Sequence[Key]) -> Document:
    if len(info.key) == 1:
        (path,) = info.key
        return {path: {"$in": [key[path] for key in keys]}}
    return {"$or": [{path: {"$eq": key[path]} for path in info.key} for key in keys]}
