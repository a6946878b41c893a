"""Which database a URL means, its driver, and the engine (the pool) for it."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from warehouse.config import AdapterSettings
from warehouse.errors import ConfigError
from warehouse_adapters.sql.dialects import Dialect
from warehouse_adapters.sql.links import Link
from warehouse_adapters.sql.mysql import AsyncmyLink, MySQL
from warehouse_adapters.sql.postgres import PostgreSQL, PsycopgLink
from warehouse_adapters.sql.sqlite import AiosqliteLink, SQLite


def _psycopg(settings: AdapterSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_timeout": max(2, round(settings.connect_timeout))}
    if settings.tls is not None:
        options["sslmode"] = "require" if settings.tls else "disable"
    return options


def _asyncmy(settings: AdapterSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_timeout": settings.connect_timeout, "charset": "utf8mb4"}
    if settings.tls:
        options["ssl"] = ssl.create_default_context()
    return options


def _aiosqlite(_settings: AdapterSettings) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Backend:
    """One database and the driver for it.

    `arguments` makes the driver's from the settings. `identity` asks for what tells the server and its
    database apart: the first question that is answered counts. `prepares` asks how many transactions may be
    prepared, or for those that are: what answers anything but 0 can prepare.
    """

    driver: str
    extra: str
    dialect: type[Dialect]
    link: type[Link]
    arguments: Callable[[AdapterSettings], dict[str, Any]]
    identity: tuple[str, ...] = ()
    prepares: str = ""


_MYSQL: Final = Backend(
    "mysql+asyncmy",
    "mysql",
    MySQL,
    AsyncmyLink,
    _asyncmy,
    (
        "SELECT concat(@@server_uuid, '/', database())",
        "SELECT concat(@@hostname, ':', @@port, @@datadir, database())",
    ),
    prepares="XA RECOVER",
)
_BACKENDS: Final = {
    "postgresql": Backend(
        "postgresql+psycopg",
        "postgres",
        PostgreSQL,
        PsycopgLink,
        _psycopg,
        (
            "SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || current_database()",
            "SELECT concat(inet_server_addr(), ':', inet_server_port(), '/', current_database())",
        ),
        prepares="SHOW max_prepared_transactions",
    ),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite": Backend("sqlite+aiosqlite", "sqlite", SQLite, AiosqliteLink, _aiosqlite),
}


def parse(url: SecretStr) -> tuple[Backend, URL]:
    """The backend that `url` names, and the URL with its driver. Raises ConfigError, without the URL."""
    try:
        parsed = make_url(url.get_secret_value())
    except (ArgumentError, ValueError):
        raise ConfigError("the `url` of a sql adapter cannot be parsed", field="url") from None
    name, backend = parsed.get_backend_name(), _BACKENDS.get(parsed.get_backend_name())
    if backend is None or parsed.drivername not in {name, f"{name}+{backend.driver.partition('+')[2]}"}:
        raise ConfigError(
            f"{parsed.drivername!r} is no database that the sql adapter knows",
            field="url",
            hint="known are " + ", ".join(sorted({each.driver for each in _BACKENDS.values()})),
        )
    return backend, parsed.set(drivername=backend.driver)


def in_memory(url: URL) -> bool:
    """Whether the database is SQLite's in memory, which only its one connection sees."""
    return url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:"


def file_identity(url: URL) -> str:
    """What tells one SQLite database from another."""
    return uuid.uuid4().hex if in_memory(url) else str(Path(url.database or "").resolve())


def check_folder(url: URL) -> None:
    """Raise ConfigError where the folder of a SQLite database is missing: SQLite makes files only."""
    if url.get_backend_name() == "sqlite" and not in_memory(url):
        folder = Path(url.database or "").absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {str(folder)!r}", field="url")


def create_engine(backend: Backend, url: URL, settings: AdapterSettings) -> AsyncEngine:
    """The pool, not connected yet. Raises ConfigError where the driver is missing."""
    try:
        return create_async_engine(
            url,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=1 if in_memory(url) else settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.connect_timeout,
            pool_reset_on_return=None,  # a unit gives back no connection with an open transaction
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args=backend.arguments(settings) | settings.options,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the driver {error.name!r} is not installed", hint=f"pip install 'warehouse[{backend.extra}]'"
        ) from error
