"""The stores of a round by their drivers alone: made, looked at, and written to behind the warehouse's back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import neo4j
import psycopg
import pymongo
import pymysql
from sqlalchemy import make_url

from campaign.layout import Layout, records_of

DATABASE = "campaign"
_PATIENCE = 5  # seconds that a driver waits for a server


@dataclass(frozen=True)
class Cell:
    """One record: how often transactions wrote it, the key of the last, and how often it was written otherwise."""

    n: int
    last: str
    f: int


class Vault(Protocol):
    def make(self) -> None: ...
    def touch(self, group: str) -> None:
        """Count up `f` of a record; returns when it is durable."""

    def cells(self) -> dict[str, Cell]: ...
    def ledger(self) -> list[str]: ...
    def prepared(self) -> list[str]:
        """What is left prepared in the server."""

    def remove(self) -> None: ...
    def close(self) -> None: ...


class _Sql:
    """The statements that both SQL servers take."""

    def __init__(self, layout: Layout, tag: str) -> None:
        self.layout, self.tag = layout, tag
        self.connection: Any = self.connect()

    def connect(self) -> Any:
        raise NotImplementedError

    def run(self, statement: str, parameters: tuple[Any, ...] = ()) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(statement, parameters or None)
        return cursor

    def make(self) -> None:
        self.run(
            f"CREATE TABLE {self.layout.records} (id varchar(9) PRIMARY KEY, n integer NOT NULL,"
            " last varchar(40) NOT NULL, f integer NOT NULL)"
        )
        self.run(f"CREATE TABLE {self.layout.ledger} (id varchar(40) PRIMARY KEY)")
        for group in records_of(self.tag):
            self.run(f"INSERT INTO {self.layout.records} VALUES (%s, 0, '', 0)", (group,))

    def touch(self, group: str) -> None:
        self.run(f"UPDATE {self.layout.records} SET f = f + 1 WHERE id = %s", (group,))

    def cells(self) -> dict[str, Cell]:
        rows = self.run(f"SELECT id, n, last, f FROM {self.layout.records}").fetchall()
        return {group: Cell(n, last, f) for group, n, last, f in rows}

    def ledger(self) -> list[str]:
        return [key for (key,) in self.run(f"SELECT id FROM {self.layout.ledger}").fetchall()]

    def remove(self) -> None:
        for table in (self.layout.records, self.layout.ledger):
            self.run(f"DROP TABLE IF EXISTS {table}")

    def close(self) -> None:
        self.connection.close()


class Postgres(_Sql):
    def __init__(self, url: str, layout: Layout) -> None:
        self.url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        super().__init__(layout, "pg")

    def connect(self) -> Any:
        return psycopg.connect(self.url, autocommit=True, connect_timeout=_PATIENCE)

    def prepared(self) -> list[str]:
        return [gid for (gid,) in self.run("SELECT gid FROM pg_prepared_xacts").fetchall()]


class MariaDB(_Sql):
    def __init__(self, url: str, layout: Layout) -> None:
        self.url = make_url(url)
        super().__init__(layout, "maria")

    def connect(self) -> Any:
        return pymysql.connect(
            host=self.url.host, port=self.url.port, user=self.url.username, password=self.url.password or "",
            database=self.url.database, autocommit=True, connect_timeout=_PATIENCE, read_timeout=60,
        )  # fmt: skip

    def prepared(self) -> list[str]:
        return [str(row[-1]) for row in self.run("XA RECOVER").fetchall()]


class Neo4j:
    def __init__(self, url: str, layout: Layout) -> None:
        self.layout = layout
        self.driver = neo4j.GraphDatabase.driver(
            url, connection_timeout=_PATIENCE, max_transaction_retry_time=0
        )

    def run(self, query: str, **parameters: Any) -> list[Any]:
        with self.driver.session() as session:  # one try each: whether it took effect must be known
            return list(session.run(query, parameters))

    def make(self) -> None:
        for label in (self.layout.records, self.layout.ledger):
            self.run(f"CREATE CONSTRAINT {label} FOR (n:{label}) REQUIRE n.id IS UNIQUE")
        self.run(
            f"UNWIND $groups AS id CREATE (:{self.layout.records} {{id: id, n: 0, last: '', f: 0}})",
            groups=records_of("graph"),
        )

    def touch(self, group: str) -> None:
        self.run(f"MATCH (n:{self.layout.records} {{id: $id}}) SET n.f = n.f + 1", id=group)

    def cells(self) -> dict[str, Cell]:
        rows = self.run(f"MATCH (n:{self.layout.records}) RETURN n.id, n.n, n.last, n.f")
        return {row[0]: Cell(row[1], row[2], row[3]) for row in rows}

    def ledger(self) -> list[str]:
        return [row[0] for row in self.run(f"MATCH (n:{self.layout.ledger}) RETURN n.id")]

    def prepared(self) -> list[str]:
        return []

    def remove(self) -> None:
        for label in (self.layout.records, self.layout.ledger):
            self.run(f"MATCH (n:{label}) CALL (n) {{ DETACH DELETE n }} IN TRANSACTIONS OF 1000 ROWS")
            self.run(f"DROP CONSTRAINT {label} IF EXISTS")

    def close(self) -> None:
        self.driver.close()


class Mongo:
    def __init__(self, url: str, layout: Layout) -> None:
        self.layout = layout
        milliseconds = _PATIENCE * 1000
        self.client: Any = pymongo.MongoClient(
            url, retryWrites=False, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds
        )
        self.records = self.client[DATABASE][layout.records]
        self.lines = self.client[DATABASE][layout.ledger]

    def make(self) -> None:
        self.records.insert_many({"_id": id_, "n": 0, "last": "", "f": 0} for id_ in records_of("doc"))

    def touch(self, group: str) -> None:
        self.records.update_one({"_id": group}, {"$inc": {"f": 1}})

    def cells(self) -> dict[str, Cell]:
        return {doc["_id"]: Cell(doc["n"], doc["last"], doc["f"]) for doc in self.records.find()}

    def ledger(self) -> list[str]:
        return [doc["_id"] for doc in self.lines.find()]

    def prepared(self) -> list[str]:
        return []

    def remove(self) -> None:
        self.records.drop()
        self.lines.drop()

    def close(self) -> None:
        self.client.close()


VAULTS: dict[str, Any] = {"pg": Postgres, "maria": MariaDB, "graph": Neo4j, "doc": Mongo}
