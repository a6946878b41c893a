"""A place of one's own on a server, such as a journal needs; each is empty before, and gone after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import URL, make_url

from servers.base import Server


@contextmanager
def database(server: Server) -> Iterator[str]:
    """A PostgreSQL database."""
    name, url = _name(), make_url(server.url)
    _postgres(url, f"CREATE DATABASE {name}")
    try:
        yield _text(url.set(drivername="postgresql+psycopg", database=name))
    finally:
        _postgres(url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def schema_of(server: Server) -> Iterator[str]:
    """A MariaDB database."""
    name, url = _name(), make_url(server.url)
    _mariadb(url, f"CREATE DATABASE {name}")
    try:
        yield _text(url.set(database=name))
    finally:
        _mariadb(url, f"DROP DATABASE {name}")


@contextmanager
def emptied(server: Server) -> Iterator[str]:
    """Redis' first database, which nobody else uses."""
    _flush(server.url)
    try:
        yield server.url
    finally:
        _flush(server.url)


def _name() -> str:
    return f"place_{uuid4().hex[:12]}"


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _postgres(url: URL, statement: str) -> None:
    import psycopg

    with psycopg.connect(_text(url.set(drivername="postgresql")), autocommit=True) as connection:
        connection.execute(statement.encode())


def _mariadb(url: URL, statement: str) -> None:
    import pymysql

    connection: Any = pymysql.connect(
        host=url.host, port=url.port or 3306, user=url.username, password=url.password or "", autocommit=True
    )
    with connection:
        connection.cursor().execute(statement)


def _flush(url: str) -> None:
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushdb()
