"""Onboard a user: stage the rows in every store, ask two services outside, then commit everything or nothing.

    python examples/onboarding.py

The rows are held under a name in between: nobody sees them, nobody else can write them, and the process that
commits may be another one. What is never committed is rolled back when it expires.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import stores

from warehouse import Warehouse

SCHEMA = stores.Schema(
    tables=["CREATE TABLE accounts (id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE)"],
    documents=["profiles"],
    labels={"User": "id"},
    vectors={"users": 3},
)


class Refused(Exception):
    """A service says no."""


def verify_identity(email: str) -> None:
    """Somebody else's service, far away."""
    if email.endswith("@example.org"):
        raise Refused(f"{email} is nobody")


def open_mailbox(email: str) -> str:
    """Another one."""
    return f"mailbox of {email}"


def stage(warehouse: Warehouse, key: str, email: str) -> str:
    """Stage a user's rows everywhere; the name that they are held under."""
    name = f"onboard:{key}"
    with warehouse.begin(name, hold=True, expires_in=600) as tx:
        tx.insert("database", "records", "accounts", {"id": key, "email": email})
        tx.insert("database", "documents", "profiles", {"_id": key, "document": {"email": email}})
        tx.insert("graph", "graph", "User", {"id": key})
        tx.insert("vector", "vectors", "users", {"id": key, "vector": [0.1, 0.2, 0.3]})
    return name


def onboard(config: dict[str, object], key: str, email: str) -> str:
    """How it ended. The second Warehouse stands for another process, or the same one after a restart."""
    with Warehouse.from_config(config) as warehouse:
        name = stage(warehouse, key, email)
        (held,) = warehouse.transactions("held")
        print(f"{held.name}: {held.status}; accounts: {len(accounts(warehouse))}")
    try:
        verify_identity(email)
        mailbox = open_mailbox(email)
    except Refused as refused:
        with Warehouse.from_config(config) as warehouse:
            return f"{warehouse.rollback(name).status}: {refused}"
    with Warehouse.from_config(config) as warehouse:
        return f"{warehouse.commit(name).status}: {mailbox}"


def accounts(warehouse: Warehouse) -> list[dict[str, object]]:
    return warehouse.find({"tag": "records", "entity": "accounts"})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, stores.embedded(SCHEMA, Path(folder)) as here:
        for key, email in [("ada", "ada@example.com"), ("bob", "bob@example.org")]:
            print(f"onboard:{key}: {onboard(here.config, key, email)}")
        with Warehouse.from_config(here.config) as warehouse:
            print(f"accounts: {[row['id'] for row in accounts(warehouse)]}")
            print(f"users: {[row['id'] for row in warehouse.find({'tag': 'graph', 'entity': 'User'})]}")


if __name__ == "__main__":
    main()
