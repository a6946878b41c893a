"""The documents of one database, read and written: inside a transaction's session, or each for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeAlias

from bson import ObjectId
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query, WriteStatus, Written
from warehouse.conditions import EVERYTHING, Condition
from warehouse.errors import ConstraintViolated, StoreContention, StoreError
from warehouse.planning import one_by_one
from warehouse.records import ABSENT, Absent, Change, Image, Key, Record, get
from warehouse_adapters.mongo.errors import translated, violates
from warehouse_adapters.mongo.language import guarded, narrow, targets, update
from warehouse_adapters.mongo.values import identity, keep

Document: TypeAlias = dict[str, Any]
Database: TypeAlias = AsyncDatabase[Document]
Session: TypeAlias = AsyncClientSession
Write: TypeAlias = InsertOne[Document] | UpdateOne | DeleteOne
_APPLIED: Final = Written(WriteStatus.APPLIED)
_CONFLICT: Final = Written(WriteStatus.CONFLICT)


class Documents:
    """A `PlanningStore`; with a session, everything happens inside its transaction."""

    def __init__(self, database: Database, session: Session | None = None) -> None:
        self._database = database
        self._session = session

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
            found = self._collection(info).find(narrow(where), limit=limit, session=self._session)
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
                await self._collection(info).find(_with_keys(info, keys), session=self._session).to_list()
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

    async def send(self, info: EntityInfo, writes: Sequence[Write]) -> None:
        """Make several writes in order, in one round trip.

        Raises StoreContention where one of them does not find its record.
        """
        if not writes:
            return
        with translated(writing=self._session is None):
            result = await self._collection(info).bulk_write(
                list(writes), ordered=True, session=self._session
            )
        if result.inserted_count + result.matched_count + result.deleted_count != len(writes):
            raise StoreContention("a record was changed by somebody else meanwhile")

    async def apply(self, info: EntityInfo, changes: Sequence[Change]) -> list[Written]:
        """See `PlanningStore.apply`. In a transaction, raises what is not about one change alone."""
        return await one_by_one(lambda change: self._apply(info, change), changes)

    async def _apply(self, info: EntityInfo, change: Change) -> Written:
        try:
            with translated(writing=self._session is None):
                return _APPLIED if await self._make(info, change) else _CONFLICT
        except StoreError as error:
            if change.before is ABSENT and violates(error, info.key):
                return Written(WriteStatus.CONFLICT, error)
            if self._session is not None and not isinstance(error, ConstraintViolated):
                raise
            return Written(WriteStatus.UNKNOWN if error.outcome_unknown else WriteStatus.REFUSED, error)

    async def _make(self, info: EntityInfo, change: Change) -> bool:
        """Whether the guard of `change` held, and the write was made."""
        collection, before, after = self._collection(info), change.before, change.after
        if isinstance(before, Absent):
            if not isinstance(after, Absent):
                await collection.insert_one(dict(after), session=self._session)
            return True
        compared = change.written | change.guard
        if isinstance(after, Absent):
            deleted = await collection.delete_one(guarded(before, compared), session=self._session)
            return deleted.deleted_count == 1
        paths = targets(before, after, change.written)
        condition, document = guarded(before, compared.union(paths)), update(after, paths)
        if not document:
            return await collection.find_one(condition, {"_id": 1}, session=self._session) is not None
        updated = await collection.update_one(condition, document, session=self._session)
        return updated.matched_count == 1


def _with_keys(info: EntityInfo, keys: Sequence[Key]) -> Document:
    if len(info.key) == 1:
        (path,) = info.key
        return {path: {"$in": [key[path] for key in keys]}}
    return {"$or": [{path: {"$eq": key[path]} for path in info.key} for key in keys]}
