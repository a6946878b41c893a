"""The table of MongoDB's and PyMongo's errors: which of ours each of them is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from warehouse.errors import (
    ConstraintViolated,
    StoreContention,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)

DRIVER_ERRORS: Final = (PyMongoError, BSONError)

DUPLICATE_KEY: Final = frozenset({11000, 11001, 12582})
DOCUMENT_VALIDATION: Final = 121
# LockTimeout, LockBusy, MaxTimeMSExpired, WriteConflict, TransactionTooOld, SnapshotUnavailable,
# NoSuchTransaction, ExceededTimeLimit, TransactionCoordinatorReachedAbortDecision
CONTENTION: Final = frozenset({24, 46, 50, 112, 225, 246, 251, 262, 273})
# NotWritablePrimary, NotPrimaryNoSecondaryOk: said before anything was done
NOT_PRIMARY: Final = frozenset({10107, 13435})
# the only answers to a commit that say that nothing was committed
NOT_COMMITTED: Final = frozenset({112, 225, 246, 251, 273})

_INDEX: Final = re.compile(r"index: (?:\S+\$)?(\S+)")
_NOISE: Final = re.compile(r",? (?:full error:|dup key:|Timeout: |Topology Description:).*", re.DOTALL)
_LONGEST: Final = 300


def translate(error: Exception, *, writing: bool) -> StoreError:
    """Our error for a driver's.

    `writing`: a write was under way that is not part of a transaction, so that a lost reply leaves open
    whether it was made.
    """
    text = _text(error)
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError):
        return StoreUnavailable(text)
    if isinstance(error, NotPrimaryError) and _code(error) in NOT_PRIMARY:
        return StoreUnavailable(text)
    if isinstance(error, ConnectionFailure | WriteConcernError):
        return StoreOutcomeUnknown(text) if writing else StoreUnavailable(text)
    code = _code(error)
    if code in DUPLICATE_KEY:
        return ConstraintViolated(text, constraint=_index(error))
    if code == DOCUMENT_VALIDATION:
        return ConstraintViolated(text, constraint="validator")
    if code in CONTENTION or _labelled(error, "TransientTransactionError"):
        return StoreContention(text)
    if _details(error).get("writeConcernErrors") and writing:
        return StoreOutcomeUnknown(text)
    return StoreError(text)


def translate_commit(error: Exception) -> StoreError:
    """Our error for a driver's answer to a commit: known not to have happened, or else unknown."""
    unknown = _labelled(error, "UnknownTransactionCommitResult")
    if isinstance(error, OperationFailure) and not unknown and _code(error) in NOT_COMMITTED:
        return StoreContention(_text(error))
    return StoreOutcomeUnknown(_text(error))


@contextmanager
def translated(*, writing: bool = False) -> Iterator[None]:
    """Raise our errors in place of the driver's: see `translate`."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, writing=writing) from error


def violates(error: StoreError, key: tuple[str, ...]) -> bool:
    """Whether it was the record's own key, or its `_id`, that an insert found taken."""
    cause = error.__cause__
    if not isinstance(error, ConstraintViolated) or not isinstance(cause, Exception):
        return False
    pattern = _first(cause).get("keyPattern")
    fields = tuple(pattern) if isinstance(pattern, Mapping) else None
    return fields in {("_id",), key} or error.constraint in {"_id_", "_".join(f"{path}_1" for path in key)}


def _details(error: Exception) -> Mapping[str, Any]:
    details = getattr(error, "details", None)
    return details if isinstance(details, Mapping) else {}


def _first(error: Exception) -> Mapping[str, Any]:
    """What the server said; of a bulk write, about the first write that failed."""
    details = _details(error)
    if isinstance(error, BulkWriteError):
        failed = details.get("writeErrors") or details.get("writeConcernErrors") or [{}]
        return dict(failed[0])
    return details


def _code(error: Exception) -> int | None:
    return _first(error).get("code") or getattr(error, "code", None)


def _labelled(error: Exception, label: str) -> bool:
    return isinstance(error, PyMongoError) and error.has_error_label(label)


def _index(error: Exception) -> str | None:
    found = _INDEX.search(str(_first(error).get("errmsg") or error))
    return found.group(1) if found else None


def _text(error: Exception) -> str:
    """What the store said, short, and without the values of a duplicate key."""
    said = str(_first(error).get("errmsg") or error) or type(error).__name__
    return _NOISE.sub("", said)[:_LONGEST]
