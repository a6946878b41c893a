"""The driver's errors as ours: one table, by the server's code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from neo4j.exceptions import (
    ConnectionPoolError,
    ConstraintError,
    DriverError,
    IncompleteCommit,
    Neo4jError,
    ServiceUnavailable,
    SessionExpired,
)

from warehouse.errors import (
    ConstraintViolated,
    StoreContention,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)

ConstraintName: TypeAlias = Callable[[str, tuple[str, ...]], str]

_LONGEST: Final = 300
_LOST: Final = (ServiceUnavailable, SessionExpired, ConnectionPoolError, OSError)
# What the driver raises where it cannot pack a value: before anything is sent.
_UNSENT: Final = (TypeError, ValueError, OverflowError)

# By the last part of the code; what begins with Neo.TransientError.Transaction is contention anyway.
_BY_NAME: Final[dict[str, type[StoreError]]] = {
    "DeadlockDetected": StoreContention,
    "EntityNotFound": StoreContention,
    "LockAcquisitionTimeout": StoreContention,
    "LockClientStopped": StoreContention,
    "Terminated": StoreContention,
    "TransactionTimedOut": StoreContention,
    "TransactionTimedOutClientConfiguration": StoreContention,
    "NotALeader": StoreUnavailable,
    "ForbiddenOnReadOnlyDatabase": StoreUnavailable,
    "DatabaseNotFound": StoreUnavailable,
    "TransactionCommitFailed": StoreOutcomeUnknown,
}

_NEO4J_UNIQUE: Final = re.compile(
    r"already exists with (?:label|type) `(.+?)` and propert(?:y|ies) (`.*)", re.DOTALL
)
_NEO4J_PROPERTY: Final = re.compile(r"`([^`]+)` = ")
_ARCADEDB_UNIQUE: Final = re.compile(r"Duplicated key .* found on index '(.+?)\[(.+?)\]'", re.DOTALL)
_CONNECTED: Final = re.compile(r"still has relationships")


@contextmanager
def translated(constraint: ConstraintName, *, committing: bool = False) -> Iterator[None]:
    """Raise the driver's errors as ours, with theirs as cause.

    While `committing`, a lost connection means that nobody knows.
    """
    try:
        yield
    except (DriverError, Neo4jError, OSError, *_UNSENT) as error:
        raise translate(error, constraint, committing=committing) from error


def translate(error: Exception, constraint: ConstraintName, *, committing: bool = False) -> StoreError:
    """The store error that `error` of the driver means."""
    text = str(error) if not isinstance(error, Neo4jError) else str(error.message or error.code)
    text = text.strip().partition("\n")[0][:_LONGEST]
    if isinstance(error, IncompleteCommit):
        return StoreOutcomeUnknown(text)
    if isinstance(error, _LOST):
        return StoreOutcomeUnknown(text) if committing else StoreUnavailable(text)
    if isinstance(error, Neo4jError):
        violated = _violated(error, text, constraint)
        return violated or _kind(error.code or "")(text)
    return StoreError(text)


def _kind(code: str) -> type[StoreError]:
    known = _BY_NAME.get(code.rpartition(".")[2])
    if known is not None:
        return known
    if code.startswith("Neo.TransientError.Transaction."):
        return StoreContention
    return StoreUnavailable if code.startswith("Neo.TransientError.") else StoreError


def _violated(error: Neo4jError, text: str, constraint: ConstraintName) -> ConstraintViolated | None:
    message = str(error.message or "")
    if _CONNECTED.search(message):
        return ConstraintViolated(text, constraint="relationships")
    if found := _NEO4J_UNIQUE.search(message):
        fields = tuple(_NEO4J_PROPERTY.findall(found[2]))
        return ConstraintViolated(text, constraint=constraint(found[1], fields))
    if found := _ARCADEDB_UNIQUE.search(message):
        fields = tuple(name.strip() for name in found[2].split(","))
        return ConstraintViolated(text, constraint=constraint(found[1], fields))
    return ConstraintViolated(text) if isinstance(error, ConstraintError) else None
