"""Where the examples keep their data: embedded stores in a folder, or real servers.

Both give the same four tags: `records` (SQL), `documents`, `graph` and `vectors`.
"""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import arcadedb_server
from neo4j import GraphDatabase
from qdrant_client import QdrantClient, models


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What an example needs to find in its empty stores.

    `tables` are the SQL statements that make them; `documents` the names of collections; `labels` the unique
    property of each label; `vectors` the dimensions of each vector collection.
    """

    tables: Sequence[str]
    documents: Sequence[str]
    labels: Mapping[str, str]
    vectors: Mapping[str, int]


@dataclass(kw_only=True)
class Stores:
    """The configuration for a Warehouse, and where the Neo4j driver finds the graph (None: in memory)."""

    adapters: dict[str, dict[str, Any]]
    journal: dict[str, Any]
    graph: tuple[str, tuple[str, str] | None] | None
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        return {"adapters": self.adapters, "journal": self.journal}


@contextmanager
def embedded(schema: Schema, folder: Path) -> Iterator[Stores]:
    """Stores that need no server and keep their files in `folder`."""
    with closing(sqlite3.connect(folder / "records.db")) as records:
        records.executescript("PRAGMA journal_mode = WAL;" + ";".join(schema.tables))
    with closing(sqlite3.connect(folder / "documents.db")) as documents:
        tables = [f"CREATE TABLE {name} (_id TEXT PRIMARY KEY, document JSON)" for name in schema.documents]
        documents.executescript("PRAGMA journal_mode = WAL;" + ";".join(tables))
    _create_collections(QdrantClient(path=str(folder / "vectors")), schema)
    stores = Stores(
        adapters={
            "records": {"adapter": "sql", "url": f"sqlite:///{folder}/records.db"},
            "documents": {"adapter": "sql", "url": f"sqlite:///{folder}/documents.db"},
            "vectors": {"adapter": "qdrant", "path": str(folder / "vectors")},
        },
        journal=_journal(folder),
        graph=None,
    )
    with ExitStack() as stack:
        try:
            url, user, password = stack.enter_context(_arcadedb(folder / "graph"))
        except (OSError, RuntimeError) as error:
            keys = {label: {"key": [unique]} for label, unique in schema.labels.items()}
            stores.adapters["graph"] = {"adapter": "memory", "type": "graph", "entities": keys}
            stores.notes.append(f"ArcadeDB cannot be used here ({error}): the graph is kept in memory.")
        else:
            stores.graph = url, (user, password)
            _create_labels(stores.graph, schema)
            database = arcadedb_server.DATABASE
            login = {"user": user, "password": password}
            stores.adapters["graph"] = {"adapter": "neo4j", "url": url, "database": database, **login}
        yield stores


@contextmanager
def servers(schema: Schema, folder: Path) -> Iterator[Stores]:
    """Real servers, by the URLs in WAREHOUSE_TEST_..._URL. What is made there is removed in the end."""
    name = f"warehouse_example_{secrets.token_hex(4)}"
    postgres, mongo, bolt = (_variable(kind) for kind in ("POSTGRES", "MONGO", "NEO4J"))
    qdrant = os.environ.get("WAREHOUSE_TEST_QDRANT_URL")
    with ExitStack() as stack:
        records = stack.enter_context(_postgres(postgres, name, schema))
        stack.enter_context(_mongo(mongo, name))
        stack.enter_context(_neo4j((bolt, None), schema))
        vectors: dict[str, Any] = {"url": qdrant} if qdrant else {"path": str(folder / "vectors")}
        _create_collections(QdrantClient(**vectors), schema, replace=True)
        yield Stores(
            adapters={
                "records": {"adapter": "sql", "url": records},
                "documents": {"adapter": "mongo", "url": mongo, "database": name},
                "graph": {"adapter": "neo4j", "url": bolt},
                "vectors": {"adapter": "qdrant", **vectors},
            },
            journal=_journal(folder),
            graph=(bolt, None),
            notes=[] if qdrant else ["No WAREHOUSE_TEST_QDRANT_URL: Qdrant runs in its local mode."],
        )


def _journal(folder: Path) -> dict[str, Any]:
    return {"url": f"sqlite:///{folder}/journal.db"}


def _variable(kind: str) -> str:
    name = f"WAREHOUSE_TEST_{kind}_URL"
    if name not in os.environ:
        sys.exit(f"{name} is not set: run `make demo STORES=servers`")
    return os.environ[name]


@contextmanager
def _arcadedb(folder: Path) -> Iterator[tuple[str, str, str]]:
    """ArcadeDB's server with its files in `folder`: URL, user and password. RuntimeError where it won't run."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = secrets.token_urlsafe(16)
    process = subprocess.Popen(
        [sys.executable, str(Path(arcadedb_server.__file__).resolve()), str(port)],
        cwd=folder,
        env={**os.environ, "ARCADEDB_PASSWORD": password},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us: we still need it to undo and to read
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            log = (folder / "arcadedb.log").read_text(encoding="utf-8", errors="replace").strip()
            raise RuntimeError(log.splitlines()[-1] if log else "it ended at once")
        yield f"bolt://127.0.0.1:{port}", arcadedb_server.USER, password
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@contextmanager
def _postgres(url: str, name: str, schema: Schema) -> Iterator[str]:
    """A new database on the server, with the tables: its URL."""
    import psycopg
    from sqlalchemy import make_url

    server = make_url(url).set(drivername="postgresql")
    own = server.set(database=name)
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            with psycopg.connect(own.render_as_string(hide_password=False)) as connection:
                for statement in schema.tables:
                    connection.execute(statement)
            yield own.render_as_string(hide_password=False)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _mongo(url: str, name: str) -> Iterator[None]:
    from pymongo import MongoClient

    try:
        yield
    finally:
        with MongoClient[dict[str, Any]](url) as client:
            client.drop_database(name)


@contextmanager
def _neo4j(graph: tuple[str, tuple[str, str] | None], schema: Schema) -> Iterator[None]:
    """The constraints. Community servers have one database: nodes of these labels are removed before and after."""
    _create_labels(graph, schema)
    _remove_nodes(graph, schema)
    try:
        yield
    finally:
        _remove_nodes(graph, schema)


def _create_labels(graph: tuple[str, tuple[str, str] | None], schema: Schema) -> None:
    url, auth = graph
    with GraphDatabase.driver(url, auth=auth) as driver:
        for label, unique in schema.labels.items():
            driver.execute_query(
                f"CREATE CONSTRAINT IF NOT EXISTS FOR (n:{label}) REQUIRE n.{unique} IS UNIQUE"
            )


def _remove_nodes(graph: tuple[str, tuple[str, str] | None], schema: Schema) -> None:
    url, auth = graph
    with GraphDatabase.driver(url, auth=auth) as driver:
        for label in schema.labels:
            driver.execute_query(f"MATCH (n:{label}) DETACH DELETE n")


def _create_collections(client: QdrantClient, schema: Schema, *, replace: bool = False) -> None:
    with closing(client):
        for name, dimensions in schema.vectors.items():
            if replace and client.collection_exists(name):
                client.delete_collection(name)
            params = models.VectorParams(size=dimensions, distance=models.Distance.EUCLID)
            client.create_collection(name, vectors_config=params)
