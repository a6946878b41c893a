"""The one table that maps what the Qdrant client raises to the errors of Warehouse."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from warehouse.errors import StoreError, StoreOutcomeUnknown, StoreUnavailable

_LONGEST: Final = 300
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_TIME_OUT: Final = 408
_SERVER_ERROR: Final = 500
# The local mode raises plain exceptions.
DRIVER_ERRORS: Final = (
    ApiException,
    QdrantException,
    grpc.RpcError,
    sqlite3.Error,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
)
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
_REFUSED: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class NotFound(StoreError):
    """The collection or the point is not there."""


@contextmanager
def store_errors(*, writing: bool = False) -> Iterator[None]:
    """Raise what the driver raises inside as our store errors; `writing`: a lost reply may hide a write."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, writing=writing) from error


def translate(error: Exception, *, writing: bool) -> StoreError:
    """The store error that a driver's exception stands for."""
    match error:
        case UnexpectedResponse():
            return _of_status(error, writing=writing)
        case ResourceExhaustedResponse():
            return StoreUnavailable(_short(error.message), hint="the server limits the rate of requests")
        case ResponseHandlingException():
            text = _named(error.source)
            return StoreUnavailable(text) if isinstance(error.source, _NEVER_SENT) else _lost(text, writing)
        case grpc.RpcError():
            return _of_code(error, writing=writing)
        case KeyError():
            return NotFound(f"no point {error.args[0]!r}")
        case ValueError() | TypeError():
            text = _short(str(error))
            return NotFound(text) if "not found" in text else StoreError(text)
        case _:
            return _lost(_named(error), writing)


def _of_status(error: UnexpectedResponse, *, writing: bool) -> StoreError:
    text, status = _said(error), error.status_code or _SERVER_ERROR
    if status == _NOT_FOUND:
        return NotFound(text)
    if status == _TOO_MANY:
        return StoreUnavailable(text)
    if status == _TIME_OUT or status >= _SERVER_ERROR:
        return _lost(text, writing)
    return StoreError(text)


def _of_code(error: Any, *, writing: bool) -> StoreError:
    text, code = _short(error.details() or str(error.code())), error.code()
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return StoreUnavailable(text)
    return StoreError(text) if code in _REFUSED else _lost(text, writing)


def _lost(text: str, writing: bool) -> StoreError:
    return StoreOutcomeUnknown(text) if writing else StoreUnavailable(text)


def _said(error: UnexpectedResponse) -> str:
    """The server's own words out of its JSON, else its status line."""
    try:
        said = json.loads(error.content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        said = ""
    return _short(f"{error.status_code} {error.reason_phrase}: {said}".rstrip(": "))


def _named(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {error}".rstrip(": "))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
