"""Create a user everywhere: an account, a profile, a node and a vector, or none of them.

    python examples/users.py

The account comes last, by `after`: its database is the one that can refuse (the e-mail address is unique).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import stores

from warehouse import TransactionCompensated, Warehouse

SCHEMA = stores.Schema(
    tables=["CREATE TABLE accounts (id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE)"],
    documents=["profiles"],
    labels={"User": "id"},
    vectors={"users": 3},
)
ACCOUNTS = {"type": "database", "tag": "records", "entity": "accounts"}
PROFILES = {"type": "database", "tag": "documents", "entity": "profiles"}
NODES = {"type": "graph", "tag": "graph", "entity": "User"}
VECTORS = {"type": "vector", "tag": "vectors", "entity": "users"}


def create(warehouse: Warehouse, key: str, email: str, name: str, interests: list[float]) -> None:
    """Create a user in every store. Raises TransactionCompensated where the address is taken."""
    warehouse.transaction(
        [
            {
                "operation": "insert",
                "from": ACCOUNTS,
                "data": {"id": key, "email": email},
                "after": ["profile", "node", "vector"],
            },
            {
                "operation": "insert",
                "name": "profile",
                "from": PROFILES,
                "data": {"_id": key, "document": {"name": name}},
            },
            {"operation": "insert", "name": "node", "from": NODES, "data": {"id": key, "name": name}},
            {
                "operation": "insert",
                "name": "vector",
                "from": VECTORS,
                "data": {"id": key, "vector": interests, "metadata": {"name": name}},
            },
        ],
        name=f"create {key}",
    ).raise_for_status()


def follow(warehouse: Warehouse, follower: str, followed: str) -> None:
    """Step by step: one user follows another, and both counts go up."""
    with warehouse.begin(f"{follower} follows {followed}") as tx:
        ends = {
            "start": {"entity": "User", "where": {"id": follower}},
            "end": {"entity": "User", "where": {"id": followed}},
        }
        tx.insert("graph", "graph", None, ends, relationship="FOLLOWS")
        for key, count in ((follower, "following"), (followed, "followers")):
            profile = tx.find("database", "documents", "profiles", {"_id": key}, lock=True)[0]["document"]
            changed = {**profile, count: profile.get(count, 0) + 1}
            tx.update("database", "documents", "profiles", {"_id": key}, {"document": changed})


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        stores.embedded(SCHEMA, Path(folder)) as found,
        Warehouse.from_config(found.config) as warehouse,
    ):
        create(warehouse, "ada", "ada@example.org", "Ada", [0.9, 0.1, 0.0])
        create(warehouse, "bob", "bob@example.org", "Bob", [0.8, 0.2, 0.1])
        try:
            create(warehouse, "eve", "ada@example.org", "Eve", [0.1, 0.9, 0.5])
        except TransactionCompensated as error:
            print(error)
        follow(warehouse, "bob", "ada")
        for source in (ACCOUNTS, PROFILES, NODES, VECTORS):
            print(f"{source['entity']}: {len(warehouse.find(source))}")
        print("profiles:", [row["document"] for row in warehouse.find(PROFILES, order_by=["_id"])])
        near = warehouse.find(VECTORS, near={"vector": [1.0, 0.0, 0.0], "limit": 1}, isolation="latest")
        print("most alike:", near[0]["id"])


if __name__ == "__main__":
    main()
