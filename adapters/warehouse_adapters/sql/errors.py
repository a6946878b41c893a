"""What the drivers report, in the words of `warehouse.errors`: one table for psycopg, asyncmy and sqlite3."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy.exc import TimeoutError as PoolTimeout

from warehouse.errors import ConstraintViolated, StoreContention, StoreError, StoreUnavailable

# By SQLSTATE, or by its class of two characters.
_POSTGRES: Final[dict[str, type[StoreError]]] = {
    "23": ConstraintViolated,
    "40": StoreContention,  # serialisation failure, deadlock
    "55P03": StoreContention,  # lock not available
    "08": StoreUnavailable,
    "53300": StoreUnavailable,  # too many connections
    "57P": StoreUnavailable,  # shutting down, starting up
}

# By the server's number, or the client's (from 2000).
_MYSQL: Final[dict[int, type[StoreError]]] = {
    **dict.fromkeys((1048, 1062, 1216, 1217, 1364, 1451, 1452, 1557, 1586, 3819, 4025), ConstraintViolated),
    **dict.fromkeys((1020, 1205, 1213, 1402, 1613, 1614, 3572), StoreContention),
    **dict.fromkeys((0, 1040, 1053, 1158, 1159, 1160, 1161, 1203, 1927), StoreUnavailable),
    **dict.fromkeys((2002, 2003, 2006, 2013, 2014, 2055), StoreUnavailable),
}

# By the primary result code.
_SQLITE: Final[dict[int, type[StoreError]]] = {
    5: StoreContention,  # busy
    6: StoreContention,  # locked
    19: ConstraintViolated,
    10: StoreUnavailable,  # disk I/O
    14: StoreUnavailable,  # cannot open
}

# How each names the constraint in its message. Unlike the rest of a message, these carry no values.
_NAMED: Final = re.compile(
    r"for key '(?P<key>[^']+)'"
    r"|CONSTRAINT `(?P<constraint>[^`]+)`"
    r"|[Cc]heck constraint '(?P<check>[^']+)'"
    r"|(?:Column|Field) '(?P<column>[^']+)'"
    r"|(?:UNIQUE|CHECK|NOT NULL|PRIMARY KEY) constraint failed: (?P<sqlite>.+)"
)


def translate(error: BaseException) -> StoreError:
    """The store error for what a driver, or the pool, raised; the caller chains `error` to it."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, PoolTimeout):
        return StoreContention("all connections of the pool are in use; raise pool_size")
    error = getattr(error, "orig", None) or error
    sqlstate, number = getattr(error, "sqlstate", None), _number(error)
    if hasattr(error, "diag"):
        return _postgres(error, sqlstate)
    if number is not None:
        table = _SQLITE if hasattr(error, "sqlite_errorcode") else _MYSQL
        text = str(error.args[-1])
        return _made(table.get(number, StoreError), text, _constraint(text))
    if isinstance(error, OSError) or type(error).__name__ in {"TimeoutError", "InterfaceError"}:
        return StoreUnavailable(_short(str(error)) or type(error).__name__)
    return StoreError(_short(f"{type(error).__name__}: {error}"))


def _number(error: Any) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    first = error.args[0] if error.args else None
    return first if type(error).__module__.startswith("asyncmy") and isinstance(first, int) else None


def _postgres(error: Any, sqlstate: str | None) -> StoreError:
    text = error.diag.message_primary or str(error)
    if sqlstate is None:
        lost = type(error).__name__ in {"OperationalError", "ConnectionTimeout", "InterfaceError"}
        return _made(StoreUnavailable if lost else StoreError, text, None)
    kind = next(
        (found for length in (5, 3, 2) if (found := _POSTGRES.get(sqlstate[:length])) is not None), StoreError
    )
    return _made(kind, text, error.diag.constraint_name or error.diag.column_name)


def _made(kind: type[StoreError], text: str, constraint: str | None) -> StoreError:
    if issubclass(kind, ConstraintViolated):
        message = _short(text)
        if constraint and constraint not in message:
            message = f"{message} ({constraint})"
        return ConstraintViolated(message, constraint=constraint)
    return kind(_short(text))


def _constraint(text: str) -> str | None:
    found = _NAMED.search(text)
    return next((name for name in found.groups() if name), None) if found else None


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
