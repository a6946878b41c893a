"""What the docs say of each store, from the adapters and the harnesses of the contract suite.

The table of docs/operations.md: which operator each store has, as its adapter declares it once connected. And
docs/types.md: which types are tried on it, what goes in and what comes out.

    python -m servers run postgres mariadb mongo neo4j -- python tests/acceptance/operator_table.py

writes both anew. A test compares them with what is there.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

from contract.harness_mongo import MongoServer
from contract.harness_neo4j import ArcadeDB, Neo4jServer
from contract.harness_qdrant import QdrantInMemory
from contract.harness_sql import MariaDB, Postgres, SQLite
from warehouse import conditions, updates
from warehouse.adapter import Capabilities
from warehouse.config import load
from warehouse.conversions import short
from warehouse.registry import Registry

FILE = Path(__file__).parents[2] / "docs" / "operations.md"
MARKS = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"
CONDITIONS = (
    "$eq $ne $gt $gte $lt $lte $in $nin $null $exists $like $ilike $startsWith $endsWith $contains "
    "$containsAll $containsAny $regex"
).split()
UPDATES = "$set $unset $increment $decrement $multiply $min $max $push $pull $addToSet $currentDate".split()


def adapters(urls: dict[str, str]) -> dict[str, dict[str, Any]]:
    """One participant for each column of the table, by its heading."""
    return {
        "PostgreSQL": {"adapter": "sql", "url": urls["postgres"]},
        "MariaDB": {"adapter": "sql", "url": urls["mariadb"]},
        "SQLite": {"adapter": "sql", "url": "sqlite://"},
        "MongoDB": {"adapter": "mongo", "url": urls["mongo"], "database": "operators"},
        "Neo4j": {"adapter": "neo4j", "url": urls["neo4j"]},
        "Qdrant": {"adapter": "qdrant", "location": ":memory:"},
        "memory": {"adapter": "memory"},
    }


async def ask(urls: dict[str, str]) -> dict[str, Capabilities]:
    """Connect each, and take what it declares."""
    registry = Registry(load({"adapters": adapters(urls)}).adapters)
    try:
        return {tag: (await registry.connected(tag)).adapter.capabilities for tag in registry.tags}
    finally:
        await registry.close()


def render(found: dict[str, Capabilities]) -> str:
    assert set(CONDITIONS) == conditions.OPERATORS
    assert set(UPDATES) == updates.OPERATORS
    lines = ["| operator | " + " | ".join(found) + " |", "| --- |" + " :-: |" * len(found)]
    for operators, kind in ((CONDITIONS, "conditions"), (UPDATES, "updates")):
        for operator in operators:
            cells = ["yes" if operator in getattr(each, kind) else "no" for each in found.values()]
            lines.append(f"| `{operator}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


TYPES_FILE = FILE.with_name("types.md")
TYPED = {
    "PostgreSQL": Postgres,
    "MariaDB and MySQL": MariaDB,
    "SQLite": SQLite,
    "MongoDB": MongoServer,
    "Neo4j": Neo4jServer,
    "ArcadeDB": ArcadeDB,
    "Qdrant": QdrantInMemory,
}
TYPES_HEAD = """# Types

What goes into a column, a field, a property or a payload, and what comes out of it again, in images, results and
finds. Each row is tried with generated values, the ends of its range among them: written, changed, deleted and
undone, the value is again what it was, by the store's own text of it too, also when its image was read back from
the journal.

A value that would not be kept exactly is refused before anything runs; the message names the step, the
field, the value and the store. `[adapters.T.entities.E] convert = {field = "text"}` (or `"float"`, `"int"`) names a
conversion for it. A missing value is null, in every type.

What a store keeps only nearly is said so below: it is compared within that tolerance, and never used as a guard.
"""


def render_types() -> str:
    lines = [TYPES_HEAD]
    for name, harness in TYPED.items():
        lines += [f"## {name}", "", "| Python in | stored as | Python out | |", "| --- | --- | --- | --- |"]
        for kind in harness.types:
            refused = ", ".join(short(value) for value in kind.refused)
            notes = [kind.note, f"refused: {refused}" if refused else ""]
            note = "; ".join(part for part in notes if part).replace("|", "\\|")
            lines.append(f"| {kind.takes} | `{kind.stored}` | {kind.gives} | {note} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def written() -> str:
    """The table as it stands in the file."""
    return FILE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]


def main() -> None:
    urls = {
        name: os.environ[f"WAREHOUSE_TEST_{name.upper()}_URL"]
        for name in "postgres mariadb mongo neo4j".split()
    }
    table = MARKS[0] + render(asyncio.run(ask(urls))) + MARKS[1]
    TYPES_FILE.write_text(render_types(), encoding="utf-8")
    text = FILE.read_text(encoding="utf-8")
    FILE.write_text(
        re.sub(f"{MARKS[0]}.*?{MARKS[1]}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
