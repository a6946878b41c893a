"""The unit of a MongoDB with transactions: one session, one transaction under snapshot isolation.

MongoDB has no locking read. It needs none here: what this transaction read and then writes it can only write
if nobody has written it since; otherwise the write fails, and with it the transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import anyio
from pymongo import AsyncMongoClient, DeleteOne, InsertOne, ReadPreference, UpdateOne, WriteConcern
from pymongo.read_concern import ReadConcern

from warehouse import conditions, updates
from warehouse.adapter import EntityInfo, NeverPrepared, Query, Request, StepChanges, Written
from warehouse.errors import StoreError
from warehouse.planning import by_entity, claimed
from warehouse.records import ABSENT, Absent, Change, Entity, Image, Key, Record, get, key_of
from warehouse.updates import Assignment
from warehouse.upserts import Present, any_of
from warehouse_adapters.mongo.documents import Database, Document, Documents, Session, Write
from warehouse_adapters.mongo.errors import DRIVER_ERRORS, translate_commit, translated
from warehouse_adapters.mongo.guarded import apply
from warehouse_adapters.mongo.language import in_order, targets, update
from warehouse_adapters.mongo.values import identity

Client: TypeAlias = AsyncMongoClient[Document]
Planned: TypeAlias = list[tuple[Change, Write | None]]
DURABLE: Final = WriteConcern(w="majority", j=True)
_ABORT_SECONDS: Final = 5.0
_LOCK: Final = "_warehouse_lock"
_ASKED: Final = 500  # combinations of conflict keys in one read


class HeldUnit(NeverPrepared):
    """A `Unit` whose transaction begins with its first call. Any error aborts it at once."""

    token: str | None = None

    def __init__(
        self, client: Client, database: Database, describe: Callable[[Entity], Awaitable[EntityInfo]]
    ) -> None:
        self._client = client
        self._database = database
        self._describe = describe
        self._session: Session | None = None
        self._failed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.rollback()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Documents]:
        """The documents as the open transaction sees them; it is aborted where the block fails."""
        if self._failed:
            raise StoreError("an earlier error has ended this transaction")
        self._failed = True
        if self._session is None:
            with translated():
                self._session = self._client.start_session(causal_consistency=False)
                await self._session.start_transaction(
                    ReadConcern("snapshot"), DURABLE, ReadPreference.PRIMARY
                )
        try:
            yield Documents(self._database, self._session)
        except Exception:
            await self.rollback()
            raise
        self._failed = False

    # Executing

    async def execute(self, request: Request, *, savepoint: bool = False) -> StepChanges:  # noqa: ARG002
        """See `Unit.execute`: an insert is one round trip, anything else two."""
        async with self._transaction() as documents:
            try:
                planned = await self._plan(documents, request)
            except TypeError as error:
                raise StoreError(str(error)) from error
            await documents.send(request.info, [write for _, write in planned if write is not None])
        changes = tuple(change for change, _ in planned)
        return StepChanges(changes=changes, affected=len(changes))

    async def _plan(self, documents: Documents, request: Request) -> Planned:
        info = request.info
        match request.operation:
            case "insert":
                return [_insert(request, given, documents.complete(info, given)) for given in request.records]
            case "update":
                items = in_order(request.assignments)
                matched = await documents.select(info, request.where)
                return [_update(documents, request, record, items) for record in matched]
            case "upsert":
                return await self._upsert(documents, request)
            case "delete":
                matched = await documents.select(info, request.where)
                return [_delete(request, record) for record in matched]

    async def _upsert(self, documents: Documents, request: Request) -> Planned:
        """Records of one upsert see each other, as if they came one by one."""
        records = [documents.complete(request.info, record) for record in request.records]
        present = await self._conflicting(documents, request, records)
        planned: Planned = []
        for given, record in zip(request.records, records, strict=True):
            existing = present.like(record)
            if existing is not None:
                fields = given if request.update_fields is None else request.update_fields
                planned.append(_update(documents, request, existing, _overwriting(request, record, fields)))
            else:
                planned.append(_insert(request, given, record))
            present.replace(planned[-1][0].before, planned[-1][0].after)
        return planned

    @staticmethod
    async def _conflicting(documents: Documents, request: Request, records: list[Record]) -> Present:
        """What is there already of `records`."""
        present = Present(request.conflict_keys, lambda record: identity([record["_id"]]))
        wanted = [values for record in records if (values := present.values(record)) is not None]
        for start in range(0, len(wanted), _ASKED):
            where = any_of(request.conflict_keys, wanted[start : start + _ASKED])
            for record in await documents.scan(Query(info=request.info, where=where)):
                present.replace(ABSENT, record)
        return present

    # Reading and writing

    async def find(self, query: Query) -> list[Record]:
        """See `Unit.find`."""
        async with self._transaction() as documents:
            found = await documents.find(query)
            if query.lock:
                await documents.send(query.info, [write for record in found for write in _touch(record)])
        return found

    async def read(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """See `Unit.read`. Nothing is locked: a write of what somebody wrote meanwhile fails instead."""
        async with self._transaction() as documents:
            return await documents.load(info, keys)

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        """See `Unit.write`. What the server refuses has ended the transaction."""
        async with self._transaction() as documents:

            async def write(entity: Entity, together: Sequence[Change]) -> list[Written]:
                return await apply(documents, await self._describe(entity), together)

            out = await by_entity(write, changes)
        if out and out[-1].error is not None:
            self._failed = True
            await self.rollback()
        return out

    # Ending

    async def commit(self) -> None:
        """See `Unit.commit`. The driver repeats a commit once whose reply was lost.

        After StoreOutcomeUnknown it may be called again: it asks the server again, for the same transaction.
        """
        if self._failed:
            raise StoreError("an earlier error has ended this transaction")
        if self._session is None:
            return
        try:
            await self._session.commit_transaction()
        except DRIVER_ERRORS as error:
            raise translate_commit(error) from error

    async def rollback(self) -> None:
        """See `Unit.rollback`. A server that cannot be told ends the transaction by itself."""
        session, self._session = self._session, None
        if session is None:
            return
        with anyio.move_on_after(_ABORT_SECONDS, shield=True), suppress(*DRIVER_ERRORS):
            await session.end_session()


# What becomes of one record


def _change(request: Request, before: Image, after: Image, written: frozenset[str], **more: Any) -> Change:
    info = request.info
    image = before if isinstance(after, Absent) else after
    try:
        key = key_of({} if isinstance(image, Absent) else image, info.key)
    except KeyError as missing:
        path = missing.args[0]
        raise StoreError(f"the key field {path!r} is missing", field=path) from None
    claims = claimed(info, before, after)
    return Change(
        entity=info.entity, key=key, before=before, after=after, written=written, claims=claims, **more
    )


def _insert(request: Request, given: Record, record: Record) -> tuple[Change, Write]:
    return _change(request, ABSENT, record, frozenset(given)), InsertOne(dict(record))


def _update(
    documents: Documents, request: Request, before: Record, items: Sequence[Assignment]
) -> tuple[Change, Write | None]:
    written = frozenset(item.path for item in items)
    after = documents.complete(request.info, updates.apply(items, before))
    change = _change(
        request,
        before,
        after,
        written,
        guard=conditions.paths(request.where),
        effects=updates.effects(items),
    )
    document = update(after, targets(before, after, written))
    return change, UpdateOne({"_id": {"$eq": before["_id"]}}, document) if document else None


def _delete(request: Request, before: Record) -> tuple[Change, Write]:
    guard = conditions.paths(request.where)
    change = _change(request, before, ABSENT, frozenset(before), guard=guard)
    return change, DeleteOne({"_id": {"$eq": before["_id"]}})


def _overwriting(request: Request, record: Record, fields: Iterable[str]) -> tuple[Assignment, ...]:
    """What an upsert writes where the record is there: `fields`, but for what identifies it."""
    own = {*request.conflict_keys, *request.info.key}
    return in_order(Assignment(path, "$set", get(record, path)) for path in fields if path not in own)


def _touch(record: Record) -> list[Write]:
    """Two writes that lock a record until the transaction ends, and leave it as it is."""
    own = {"_id": {"$eq": record["_id"]}}
    return [UpdateOne(own, {"$set": {_LOCK: True}}), UpdateOne(own, {"$unset": {_LOCK: ""}})]
