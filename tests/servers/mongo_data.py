"""What the scripted MongoDB peer keeps: documents under snapshot isolation, with unique indexes.

It understands the filters and updates that the adapter sends, as MongoDB does, and refuses all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import bson
from bson import Decimal128
from bson.codec_options import CodecOptions, DatetimeConversion

Document = dict[str, Any]
Place = tuple[str, Any]
OPTIONS: Final[CodecOptions[Document]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
MISSING: Final = object()
WRITE_CONFLICT, DUPLICATE_KEY, NOT_VIABLE, IMMUTABLE, NOT_UNDERSTOOD = 112, 11000, 28, 66, 9


class Refused(Exception):
    """What the server answers in place of a result."""

    def __init__(self, code: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.code = code
        self.answer = {"code": code, "errmsg": message, **more}


@dataclass(frozen=True)
class Index:
    name: str
    fields: tuple[str, ...]
    unique: bool
    options: Document

    @property
    def description(self) -> Document:
        key = dict.fromkeys(self.fields, 1)
        return {"v": 2, "key": key, "name": self.name, "unique": self.unique, **self.options}

    def entry(self, document: Document) -> tuple[Any, ...] | None:
        """What the index holds for a document; None where it leaves it out."""
        found = [lookup(document, path.split(".")) for path in self.fields]
        if self.options.get("sparse") and all(values == [MISSING] for values in found):
            return None
        if not matches(document, self.options.get("partialFilterExpression", {})):
            return None
        return tuple(rank(None if values == [MISSING] else values[0]) for values in found)


@dataclass
class Transaction:
    """The state of all collections when it began, and what it has written since."""

    snapshot: dict[str, dict[Any, Document]]
    began: int
    writes: dict[Place, Document | None] = field(default_factory=dict)


class Data:
    """The committed documents, and the transactions that are open over them."""

    def __init__(self) -> None:
        self.committed: dict[str, dict[Any, Document]] = {}
        self.indexes: dict[str, list[Index]] = {}
        self.open: list[Transaction] = []
        self._clock = 0
        self._versions: dict[Place, int] = {}

    def begin(self) -> Transaction:
        snapshot = {name: dict(documents) for name, documents in self.committed.items()}
        self.open.append(Transaction(snapshot, self._clock))
        return self.open[-1]

    def commit(self, transaction: Transaction) -> None:
        self.abort(transaction)
        self._clock += 1
        for (name, key), document in transaction.writes.items():
            documents = self.committed.setdefault(name, {})
            self._versions[name, key] = self._clock
            if document is None:
                documents.pop(key, None)
            else:
                documents[key] = document

    def abort(self, transaction: Transaction) -> None:
        self.open.remove(transaction)

    def find(self, transaction: Transaction, name: str, condition: Document) -> list[Document]:
        ids = _ids(condition.get("_id"))
        if ids is not None:
            rest = {field: test for field, test in condition.items() if field != "_id"}
            by_id = (self._one(transaction, name, rank(value)) for value in ids)
            return [found for found in by_id if found is not None and matches(found, rest)]
        own = {key: document for (other, key), document in transaction.writes.items() if other == name}
        documents: dict[Any, Document | None] = {**transaction.snapshot.get(name, {}), **own}
        return [found for found in documents.values() if found is not None and matches(found, condition)]

    def _one(self, transaction: Transaction, name: str, key: Any) -> Document | None:
        if (name, key) in transaction.writes:
            return transaction.writes[name, key]
        return transaction.snapshot.get(name, {}).get(key)

    def insert(self, transaction: Transaction, name: str, document: Document) -> None:
        key = rank(document["_id"])
        self._lock(transaction, (name, key))
        if self.find(transaction, name, {"_id": {"$eq": document["_id"]}}):
            raise _duplicate(name, "_id_", ("_id",), document)
        self._put(transaction, name, document)

    def replace(self, transaction: Transaction, name: str, document: Document) -> None:
        self._lock(transaction, (name, rank(document["_id"])))
        self._put(transaction, name, document)

    def delete(self, transaction: Transaction, name: str, document: Document) -> None:
        place = name, rank(document["_id"])
        self._lock(transaction, place)
        transaction.writes[place] = None

    def _lock(self, transaction: Transaction, place: Place) -> None:
        theirs = any(place in other.writes for other in self.open if other is not transaction)
        if theirs or self._versions.get(place, 0) > transaction.began:
            raise Refused(
                WRITE_CONFLICT, "WriteConflict error: this operation conflicted with another operation"
            )

    def _put(self, transaction: Transaction, name: str, document: Document) -> None:
        key = rank(document["_id"])
        for index in self.indexes.get(name, []):
            entry = index.entry(document) if index.unique else None
            if entry is None:
                continue
            for other_key, other in self._others(transaction, name):
                if other_key != key and index.entry(other) == entry:
                    self._lock(transaction, (name, other_key))
                    raise _duplicate(name, index.name, index.fields, document)
        transaction.writes[name, key] = document

    def _others(self, transaction: Transaction, name: str) -> Iterator[tuple[Any, Document]]:
        """Every document that a unique index must look at: committed, our own, and others' uncommitted."""
        own = {key: document for (other, key), document in transaction.writes.items() if other == name}
        for key, document in self.committed.get(name, {}).items():
            if key not in own:
                yield key, document
        yield from ((key, document) for key, document in own.items() if document is not None)
        for other in self.open:
            if other is not transaction:
                yield from (
                    (key, item) for (where, key), item in other.writes.items() if where == name and item
                )


def _duplicate(name: str, index: str, fields: tuple[str, ...], document: Document) -> Refused:
    values = {path: document.get(path) for path in fields}
    message = f"E11000 duplicate key error collection: {name} index: {index} dup key: {values}"
    return Refused(DUPLICATE_KEY, message, keyPattern=dict.fromkeys(fields, 1), keyValue=values)


# Filters


def _ids(test: Any) -> list[Any] | None:
    """The ids that a filter asks for, each once: it then need not look at all documents."""
    if not isinstance(test, dict) or list(test) not in (["$eq"], ["$in"]):
        return None
    wanted = [test["$eq"]] if "$eq" in test else test["$in"]
    return list({rank(value): value for value in wanted}.values())


def matches(document: Document, condition: Document) -> bool:
    return all(_matches(document, name, operand) for name, operand in condition.items())


def _matches(document: Document, name: str, operand: Any) -> bool:
    if name == "$and":
        return all(matches(document, part) for part in operand)
    if name == "$or":
        return any(matches(document, part) for part in operand)
    if name.startswith("$") or not isinstance(operand, dict) or not all(key[0] == "$" for key in operand):
        raise Refused(NOT_UNDERSTOOD, f"the peer does not understand the filter {name}: {operand}")
    found = lookup(document, name.split("."))
    return all(_test(operator, found, value) for operator, value in operand.items())


def lookup(value: Any, path: list[str]) -> list[Any]:
    """Every value at a path, which goes into the elements of arrays; MISSING where there is none."""
    if not path:
        return [value]
    if isinstance(value, dict):
        return lookup(value[path[0]], path[1:]) if path[0] in value else [MISSING]
    if not isinstance(value, list):
        return [MISSING]
    found = [item for element in value if isinstance(element, dict) for item in lookup(element, path)]
    if path[0].isdigit() and int(path[0]) < len(value):
        found += lookup(value[int(path[0])], path[1:])
    return found


def _test(operator: str, found: list[Any], operand: Any) -> bool:
    elements = [item for value in found if isinstance(value, list) for item in value]
    match operator:
        case "$eq":
            wanted = rank(operand)
            absent = operand is None and MISSING in found
            return absent or any(rank(value) == wanted for value in found + elements if value is not MISSING)
        case "$in":
            return any(_test("$eq", found, item) for item in operand)
        case "$gte" | "$lte":
            return any(_ordered(operator, value, operand) for value in found + elements)
        case "$exists":
            return any(value is not MISSING for value in found) is operand
        case "$type":
            codes = {type_code(value) for value in found + elements if value is not MISSING}
            return (2 if operand == "string" else operand) in codes
        case "$not":
            return not all(_test(name, found, value) for name, value in operand.items())
        case "$elemMatch" if operand.keys() == {"$eq"}:
            return any(rank(item) == rank(operand["$eq"]) for item in elements)
    raise Refused(NOT_UNDERSTOOD, f"the peer does not understand {operator}")


def _ordered(operator: str, value: Any, operand: Any) -> bool:
    if value is MISSING or value is None or operand is None:
        return False
    (kind, left), (other, right) = rank(value), rank(operand)
    if kind != other or left != left or right != right:  # noqa: PLR0124 - not a number
        return False
    return bool(left >= right if operator == "$gte" else left <= right)


def type_code(value: Any) -> int:
    code = bson.encode({"": value}, codec_options=OPTIONS)[4]
    return -1 if code == 0xFF else code


def rank(value: Any) -> Any:
    """A hashable stand-in: equal where MongoDB compares equal; its second part orders within a kind."""
    if isinstance(value, bool) or value is None:
        return type(value).__name__, value
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, int | float | Decimal):
        return "number", "NaN" if value != value else value  # noqa: PLR0124 - not a number
    if isinstance(value, dict):
        return "document", tuple((name, rank(item)) for name, item in value.items())
    if isinstance(value, list):
        return "array", tuple(rank(item) for item in value)
    if isinstance(value, str | bson.DatetimeMS):
        return type(value).__name__, value if isinstance(value, str) else int(value)
    return type(value).__name__, bson.encode({"": value}, codec_options=OPTIONS)


# Updates


def updated(document: Document, change: Document) -> Document:
    """The document after an update; as MongoDB does, new fields come in the order of their names."""
    if not change or not change.keys() <= {"$set", "$unset"}:
        raise Refused(NOT_UNDERSTOOD, f"the peer does not understand the update {change}")
    items = [(path, value) for path, value in change.get("$set", {}).items()]
    items += [(path, MISSING) for path in change.get("$unset", {})]
    for path, value in sorted(items, key=lambda item: item[0].split(".")):
        if path.split(".")[0] == "_id":
            raise Refused(
                IMMUTABLE, "Performing an update on the path '_id' would modify the immutable field '_id'"
            )
        document = _with(document, path.split("."), value)
    return document


def _with(parent: Any, path: list[str], value: Any) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(parent, list) and name.isdigit() and int(name) < len(parent):
        child = parent[int(name)]
        new = _with(child, rest, value) if rest else (None if value is MISSING else value)
        return [*parent[: int(name)], new, *parent[int(name) + 1 :]]
    if not isinstance(parent, dict):
        if value is MISSING:
            return parent
        raise Refused(NOT_VIABLE, f"Cannot create field '{name}' in element")
    if value is MISSING and (not rest or name not in parent):
        return {key: item for key, item in parent.items() if rest or key != name}
    return {**parent, name: _with(parent.get(name, {}), rest, value) if rest else value}
