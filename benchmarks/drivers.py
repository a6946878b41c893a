"""The drivers themselves, as their users would use them."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url


def libpq(url: str, port: int | None = None) -> dict[str, Any]:
    """A SQLAlchemy URL as psycopg takes it, perhaps through another port."""
    plain = make_url(url).set(drivername="postgresql")
    if port is not None:
        plain = plain.set(port=port, host="127.0.0.1")
    return conninfo_to_dict(plain.render_as_string(hide_password=False))


async def postgres(url: str, port: int | None = None) -> AsyncConnection[Any]:
    """psycopg, each statement committed by itself."""
    return await AsyncConnection.connect(**libpq(url, port), autocommit=True)


async def mariadb(url: str) -> Any:
    """asyncmy, each statement committed by itself."""
    import asyncmy

    where = make_url(url)
    return await asyncmy.connect(
        host=where.host,
        port=where.port,
        user=where.username,
        password=where.password or "",
        db=where.database,
        autocommit=True,
    )


def neo4j(url: str) -> Any:
    import neo4j as driver

    return driver.AsyncGraphDatabase.driver(url)


def mongo(url: str) -> Any:
    from pymongo import AsyncMongoClient

    return AsyncMongoClient(url, retryWrites=False)


def qdrant(path: str) -> Any:
    from qdrant_client import AsyncQdrantClient

    return AsyncQdrantClient(path=path)
