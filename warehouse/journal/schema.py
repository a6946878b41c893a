"""The journal's tables, under a version number: created, or brought up to date, when the journal is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from warehouse.errors import ConfigError
from warehouse.journal.seal import PROOF, Seal

VERSION: Final = 3
# What whoever creates the tables locks: a number of ours, and a name.
_CREATING: Final = 0x5748
_CREATING_NAME: Final = "warehouse_journal"
# Seconds that one waits for another who creates the tables.
_PATIENCE: Final = 30

_MYSQL = ("mysql", "mariadb")
_TEXT: Final = sa.String(120).with_variant(
    mysql.VARCHAR(120, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL
)
_KEY: Final = sa.String(255).with_variant(
    mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL
)
_BYTES: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)
_LOCK: Final = sa.LargeBinary().with_variant(mysql.BINARY(16), *_MYSQL)

metadata = sa.MetaData()
meta = sa.Table(
    "warehouse_meta",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("uid", _TEXT, nullable=False, server_default=""),
    sa.Column("proof", _BYTES),
)
owners = sa.Table(
    "warehouse_owners",
    metadata,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("heartbeat", sa.BigInteger, nullable=False),
    sa.Column("lease", sa.Double, nullable=False),
)
transactions = sa.Table(
    "warehouse_transactions",
    metadata,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("pattern", _TEXT, nullable=False),
    sa.Column("state", _TEXT, nullable=False, index=True),
    sa.Column("started", sa.Double, nullable=False, index=True),
    sa.Column("finished", sa.Double, index=True),
    sa.Column("sequence", sa.BigInteger, index=True),
    sa.Column("tokens", _BYTES, nullable=False),
    sa.Column("detail", _BYTES, nullable=False),
    sa.Column("owner", _TEXT, nullable=False, server_default=""),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
    sa.Column("expires", sa.Double),
)
steps = sa.Table(
    "warehouse_steps",
    metadata,
    sa.Column("transaction_id", _TEXT, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("tag", sa.Text, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("entities", _BYTES, nullable=True),
    sa.Column("body", _BYTES, nullable=False),
)
parts = sa.Table(
    "warehouse_parts",
    metadata,
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("transaction_id", _TEXT, nullable=False, index=True),
    sa.Column("written", sa.Double, nullable=False, index=True),
    sa.Column("body", _BYTES, nullable=False),
)
locks = sa.Table(
    "warehouse_locks",
    metadata,
    sa.Column("record", _LOCK, primary_key=True),
    sa.Column("transaction_id", _TEXT, nullable=False, index=True),
)
finished = sa.Table(
    "warehouse_finished",
    metadata,
    sa.Column("record", _LOCK, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)


records = sa.Table(
    "warehouse_records",
    metadata,
    sa.Column("record", _LOCK, primary_key=True),
    sa.Column("transaction_id", _TEXT, primary_key=True, index=True),
)
keys = sa.Table(
    "warehouse_keys",
    metadata,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("transaction_id", _TEXT, nullable=False, index=True),
    sa.Column("fingerprint", _BYTES, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, index=True),
)


def create(connection: sa.Connection, seal: Seal) -> str:
    """Create what is missing and migrate what is older; ConfigError if a newer program made the tables.

    Any number of processes may do this at once. Returns the journal's `uid`. ConfigError if `seal` does not open it.
    """
    with _alone(connection):
        known = sa.inspect(connection).has_table(meta.name)
        version = connection.scalar(sa.select(meta.c.version)) if known else None
        if version is not None and version not in (*_MIGRATIONS, VERSION):
            raise ConfigError(f"the journal has the layout {version}, and this program needs {VERSION}")
        for number in range(VERSION if version is None else version, VERSION):
            _MIGRATIONS[number](connection)
        metadata.create_all(connection)
        if version is None:
            connection.execute(meta.insert().values(id=1, version=VERSION, sequence=0, uid=uuid4().hex[:16]))
        elif version != VERSION:
            connection.execute(meta.update().values(version=VERSION))
        uid, proof = connection.execute(sa.select(meta.c.uid, meta.c.proof)).one()
        seal.check(None if proof is None else bytes(proof))
        if seal.encrypts:
            connection.execute(meta.update().values(proof=seal.close(PROOF)))
        return str(uid)


def _alone(connection: sa.Connection) -> AbstractContextManager[None]:
    """Keep others from creating the tables meanwhile. SQLite's writer is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
    if connection.dialect.name in _MYSQL:
        return _named_lock(connection)
    return nullcontext()


@contextmanager
def _named_lock(connection: sa.Connection) -> Iterator[None]:
    if connection.scalar(sa.select(sa.func.get_lock(_CREATING_NAME, _PATIENCE))) != 1:
        raise ConfigError("another process has been creating the journal's tables for too long")
    try:
        yield
        connection.commit()  # whoever has the lock next must see it
    finally:
        connection.scalar(sa.select(sa.func.release_lock(_CREATING_NAME)))


def _add_owners(connection: sa.Connection) -> None:
    """From 1 to 2: who a transaction belongs to and how often it was taken over, and the order of undoing."""
    _add(connection, transactions.c.owner, transactions.c.epoch, steps.c.priority, steps.c.entities)
    for index in transactions.indexes:
        index.create(connection, checkfirst=True)


def _add_uid(connection: sa.Connection) -> None:
    """From 2 to 3: what tells this journal from others, what proves its key, and when a held transaction expires."""
    _add(connection, meta.c.uid, meta.c.proof, transactions.c.expires)
    connection.execute(meta.update().values(uid=uuid4().hex[:16]))


def _add(connection: sa.Connection, *columns: sa.Column[Any]) -> None:
    for column in columns:
        compiler: Any = connection.dialect.ddl_compiler(
            connection.dialect, sa.schema.CreateTable(column.table)
        )
        definition = compiler.get_column_specification(column)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")


# By the version that each leads away from.
_MIGRATIONS: Final[dict[int, Callable[[sa.Connection], None]]] = {1: _add_owners, 2: _add_uid}
