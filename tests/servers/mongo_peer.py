"""A scripted peer that speaks MongoDB's wire protocol as a replica set of one, with transactions and faults.

MongoDB itself is in no package registry. This stands in for it where what counts is the protocol: which
commands are sent, in which session and transaction, and what happens when a reply is lost or says no.

    with MongoPeer().serving() as peer:
        client = AsyncMongoClient(peer.url)
        peer.fail("commitTransaction", lose="after")        # done, but the reply never comes
        peer.fail("update", skip=1, error={"code": 112, "errorLabels": ["TransientTransactionError"]})
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import bson

from servers.mongo_data import (
    DUPLICATE_KEY,
    WRITE_CONFLICT,
    Data,
    Document,
    Index,
    Refused,
    Transaction,
    updated,
)
from servers.mongo_wire import Lost, WireServer

_FIRST_BATCH: Final = 101
_WAIT: Final = 5.0  # how long a write of no transaction waits for one that holds its document
_SILENT: Final = frozenset({"hello", "ismaster", "isMaster", "endSessions", "killCursors"})
_NO_SUCH_TRANSACTION: Final = 251
_TRANSIENT: Final = {"errorLabels": ["TransientTransactionError"]}


@dataclass
class Fault:
    """What happens to one command of a name: its reply is lost, late or an error.

    With `abort=False` the error leaves the transaction open, as servers that imitate MongoDB may.
    """

    command: str
    skip: int = 0
    lose: Literal["before", "after"] | None = None
    error: Document | None = None
    write_error: Document | None = None
    answer: Document | None = None
    abort: bool = True
    delay: float = 0.0


@dataclass
class Session:
    """The last transaction of a logical session."""

    number: int = -1
    state: Literal["none", "open", "committed", "aborted"] = "none"
    transaction: Transaction | None = None


class MongoPeer:
    """The peer; it serves from a thread of its own, and may be read and scripted from any other."""

    def __init__(self) -> None:
        self.data = Data()
        self.commands: list[tuple[str, Document]] = []
        self._faults: list[Fault] = []
        self._sessions: dict[bytes, Session] = {}
        self._cursors: dict[int, list[Document]] = {}
        self._numbers = itertools.count(1)
        self._wire = WireServer(self._answer)

    def start(self) -> str:
        """Begin to serve; return the URL."""
        self._wire.start()
        return self.url

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self._wire.port}/?replicaSet=peer"

    def stop(self) -> None:
        """End, whatever is open; again: nothing."""
        self._wire.stop()

    @contextmanager
    def serving(self) -> Iterator[MongoPeer]:
        """Serve inside the block. A test may stop the peer before; clients close inside the block."""
        self.start()
        try:
            yield self
        finally:
            if not self._wire.stop():
                forget_broken_sockets()

    def index(self, database: str, collection: str, *fields: str) -> None:
        """Make a unique index that leaves nulls out."""
        filled = {"partialFilterExpression": {path: {"$type": "string"} for path in fields}}
        name = "_".join(f"{path}_1" for path in fields)
        self.data.indexes.setdefault(f"{database}.{collection}", []).append(Index(name, fields, True, filled))

    def fail(self, command: str, **how: Any) -> None:
        """Script the next command of that name (after `skip` others)."""
        self._faults.append(Fault(command, **how))

    def sent(self) -> list[str]:
        """The names of the commands since the last call."""
        names = [name for name, _ in self.commands]
        self.commands.clear()
        return names

    def documents(self, name: str) -> list[Document]:
        """What a collection ("database.collection") has committed."""
        return list(self.data.committed.get(name, {}).values())

    @property
    def transactions(self) -> int:
        """How many are open."""
        return len(self.data.open)

    # Commands

    async def _answer(self, command: Document) -> Document:
        name = next(iter(command))
        if name not in _SILENT:
            self.commands.append((name, command))
        fault = self._fault(name)
        await asyncio.sleep(fault.delay)
        if fault.lose == "before":
            raise Lost
        try:
            if fault.error:
                raise scripted(**fault.error)
            answer = fault.answer or await self._run(name, command, fault)
        except Refused as refusal:
            if fault.abort:
                self._failed(command)
            more = _TRANSIENT if refusal.code == WRITE_CONFLICT and "txnNumber" in command else {}
            answer = {"ok": 0.0, **more, **refusal.answer}
        if fault.lose == "after":
            raise Lost
        return {"ok": 1.0, **answer}

    def _fault(self, name: str) -> Fault:
        for fault in self._faults:
            if fault.command == name:
                if fault.skip:
                    fault.skip -= 1
                    break
                self._faults.remove(fault)
                return fault
        return Fault(name)

    async def _run(self, name: str, command: Document, fault: Fault) -> Document:
        handlers: dict[str, Callable[[Transaction, Document], Document]] = {
            "find": self._find,
            "insert": self._insert,
            "update": self._update,
            "delete": self._delete,
        }
        if name in handlers:
            transaction = self._transaction(command)
            if fault.write_error:
                self._failed(command)
                return {"n": 0, "nModified": 0, "writeErrors": [{"index": 0, **fault.write_error}]}
            if transaction is not None:
                return handlers[name](transaction, command)
            return await self._alone(handlers[name], command)
        plain: dict[str, Callable[[Document], Document]] = {
            "hello": self._hello,
            "ismaster": self._hello,
            "isMaster": self._hello,
            "ping": lambda _: {},
            "endSessions": lambda _: {},
            "killCursors": lambda _: {},
            "buildInfo": lambda _: {"version": "8.0.0"},
            "buildinfo": lambda _: {"version": "8.0.0"},
            "getMore": self._more,
            "listIndexes": self._list_indexes,
            "createIndexes": self._create_indexes,
            "commitTransaction": self._commit,
            "abortTransaction": self._abort,
        }
        if name not in plain:
            raise Refused(59, f"no such command: {name}")
        return plain[name](command)

    def _hello(self, _: Document) -> Document:
        address = f"127.0.0.1:{self._wire.port}"
        return {
            "helloOk": True,
            "ismaster": True,
            "isWritablePrimary": True,
            "setName": "peer",
            "setVersion": 1,
            "hosts": [address],
            "primary": address,
            "me": address,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "localTime": datetime.now(UTC),
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 25,
        }

    # Transactions

    def _session(self, command: Document) -> Session:
        return self._sessions.setdefault(command["lsid"]["id"], Session())

    def _transaction(self, command: Document) -> Transaction | None:
        """The open transaction that a command belongs to; None of a command that stands for itself."""
        if "txnNumber" not in command:
            return None
        session, number = self._session(command), command["txnNumber"]
        if command.get("autocommit") is not False:
            raise Refused(72, "the peer takes txnNumber with autocommit: false only")
        if command.get("startTransaction"):
            if number <= session.number or command.get("readConcern", {}).get("level") != "snapshot":
                raise Refused(72, "the peer begins a new transaction, with a snapshot")
            self._failed(command)
            session.number, session.state, session.transaction = number, "open", self.data.begin()
        elif "readConcern" in command or ("writeConcern" in command and command["$db"] != "admin"):
            raise Refused(72, "only the first command has a readConcern, only the last a writeConcern")
        if number != session.number or session.transaction is None:
            raise Refused(_NO_SUCH_TRANSACTION, f"Transaction {number} is not in progress", **_TRANSIENT)
        return session.transaction

    def _failed(self, command: Document) -> None:
        """Any error ends the transaction."""
        if "txnNumber" in command and command.get("lsid"):
            session = self._session(command)
            if session.transaction is not None:
                self.data.abort(session.transaction)
                session.state, session.transaction = "aborted", None

    def _commit(self, command: Document) -> Document:
        session = self._session(command)
        if session.number == command["txnNumber"] and session.state == "committed":
            return {}
        transaction = self._transaction(command)
        if transaction is None or command["writeConcern"]["w"] != "majority":
            raise Refused(72, "the peer commits a transaction, with a majority")
        self.data.commit(transaction)
        session.state, session.transaction = "committed", None
        return {}

    def _abort(self, command: Document) -> Document:
        self._transaction(command)
        self._failed(command)
        return {}

    async def _alone(
        self, handler: Callable[[Transaction, Document], Document], command: Document
    ) -> Document:
        """A command that stands for itself waits for transactions that hold its documents."""
        waited = 0.0
        while True:
            transaction = self.data.begin()
            try:
                answer = handler(transaction, command)
            except Refused as refusal:
                self.data.abort(transaction)
                if refusal.code != WRITE_CONFLICT or waited > _WAIT:
                    raise
                waited += 0.01
                await asyncio.sleep(0.01)
            else:
                self.data.commit(transaction)
                return answer

    # Reading and writing

    def _find(self, transaction: Transaction, command: Document) -> Document:
        _only(command, {"find", "filter", "limit", "singleBatch", "projection", "batchSize"})
        name = _namespace(command, "find")
        found = self.data.find(transaction, name, command.get("filter", {}))
        found = found[: command.get("limit") or None]
        cursor = next(self._numbers) if len(found) > _FIRST_BATCH else 0
        if cursor:
            self._cursors[cursor] = found[_FIRST_BATCH:]
        return {"cursor": {"firstBatch": found[:_FIRST_BATCH], "id": bson.Int64(cursor), "ns": name}}

    def _more(self, command: Document) -> Document:
        rest = self._cursors.pop(command["getMore"], [])
        name = f"{command['$db']}.{command['collection']}"
        return {"cursor": {"nextBatch": rest, "id": bson.Int64(0), "ns": name}}

    def _insert(self, transaction: Transaction, command: Document) -> Document:
        _only(command, {"insert", "documents", "ordered"})
        name = _namespace(command, "insert")

        def one(document: Document) -> int:
            self.data.insert(transaction, name, document)
            return 1

        return self._each(command, "documents", one)

    def _update(self, transaction: Transaction, command: Document) -> Document:
        _only(command, {"update", "updates", "ordered"})
        name = _namespace(command, "update")

        def one(statement: Document) -> int:
            _only(statement, {"q", "u", "multi", "upsert"})
            found = self.data.find(transaction, name, statement["q"])[:1]
            for document in found:
                self.data.replace(transaction, name, updated(document, statement["u"]))
            return len(found)

        answer = self._each(command, "updates", one)
        return {**answer, "nModified": answer["n"]}

    def _delete(self, transaction: Transaction, command: Document) -> Document:
        _only(command, {"delete", "deletes", "ordered"})
        name = _namespace(command, "delete")

        def one(statement: Document) -> int:
            found = self.data.find(transaction, name, statement["q"])[: statement["limit"] or None]
            for document in found:
                self.data.delete(transaction, name, document)
            return len(found)

        return self._each(command, "deletes", one)

    def _each(self, command: Document, field: str, one: Callable[[Document], int]) -> Document:
        done = 0
        for place, item in enumerate(command[field]):
            try:
                done += one(item)
            except Refused as refusal:
                if refusal.code != DUPLICATE_KEY:
                    raise
                self._failed(command)
                return {"n": done, "writeErrors": [{"index": place, **refusal.answer}]}
        return {"n": done}

    # Indexes

    def _list_indexes(self, command: Document) -> Document:
        name = _namespace(command, "listIndexes")
        if name not in self.data.indexes:
            raise Refused(26, f"ns does not exist: {name}")
        listed: list[Document] = [{"v": 2, "key": {"_id": 1}, "name": "_id_"}]
        listed += [index.description for index in self.data.indexes[name]]
        return {"cursor": {"firstBatch": listed, "id": bson.Int64(0), "ns": name}}

    def _create_indexes(self, command: Document) -> Document:
        name = _namespace(command, "createIndexes")
        for given in command["indexes"]:
            options = {
                key: value for key, value in given.items() if key not in {"key", "name", "unique", "v"}
            }
            index = Index(given["name"], tuple(given["key"]), given.get("unique", False), options)
            self.data.indexes.setdefault(name, []).append(index)
        return {}


def forget_broken_sockets() -> None:
    """A client of PyMongo's that is closed while it tries to connect leaves a socket to the collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def scripted(code: int, errmsg: str = "as scripted", **more: Any) -> Refused:
    return Refused(code, errmsg, **more)


def _namespace(command: Document, name: str) -> str:
    return f"{command['$db']}.{command[name]}"


_EVERYWHERE: Final = frozenset(
    "$db lsid txnNumber autocommit startTransaction readConcern writeConcern $readPreference $clusterTime".split()
)


def _only(command: Document, known: set[str]) -> None:
    """Refuse what would be ignored."""
    unknown = command.keys() - known - _EVERYWHERE
    if unknown:
        raise Refused(9, f"the peer does not understand {', '.join(sorted(unknown))}")
