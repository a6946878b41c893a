"""The demo: every US airport stored in four stores by one transaction each, some failing on purpose.

    python examples/demo.py [--stores embedded|servers] [--limit N] [--fail-every N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import airports
import stores
from airports import FAULTS, Airport
from neo4j import GraphDatabase
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from warehouse import AsyncWarehouse, TransactionResult
from warehouse.results import ParticipantInfo

TASKS = 4  # SQLite has one writer: more would only wait
EARTH_RADIUS = 6371.0  # km
CYPHER = "MATCH (:Airport)-[:IN_STATE]->(s:State) RETURN s.code, count(*) AS n ORDER BY n DESC, s.code LIMIT 5"
SOURCES = {
    "records": {"tag": "records", "entity": "airports"},
    "documents": {"tag": "documents", "entity": "profiles"},
    "graph": {"tag": "graph", "entity": "Airport"},
    "vectors": {"tag": "vectors", "entity": "places"},
}


@dataclass
class Outcome:
    """What became of the transactions."""

    stored: list[Airport] = field(default_factory=list)
    compensated: list[tuple[Airport, TransactionResult]] = field(default_factory=list)
    failed: list[tuple[Airport, TransactionResult]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, airport: Airport, result: TransactionResult) -> None:
        if result.ok:
            self.stored.append(airport)
        else:
            (self.compensated if result.status == "compensated" else self.failed).append((airport, result))


class Demo:
    """One run of the demo: `store` everything, then look at the stores."""

    def __init__(self, warehouse: AsyncWarehouse, places: stores.Stores, console: Console) -> None:
        self.warehouse = warehouse
        self.places = places
        self.console = console

    async def show_stores(self) -> None:
        table = Table("tag", "store", "version", "its steps are", title="The stores", title_justify="left")
        for tag, found in (await self.warehouse.participants()).items():
            if isinstance(found, ParticipantInfo):
                held = "held in its transaction" if found.holds else "planned, then written"
                table.add_row(tag, found.store, found.version, held)
            else:
                raise found
        self.console.print(table)

    async def store(self, data: Sequence[Airport], fail_every: int) -> Outcome:
        """One transaction an airport, some side by side; every `fail_every`-th is made to fail."""
        outcome, waiting, faults = Outcome(), iter(enumerate(data, 1)), itertools.cycle(FAULTS)
        (await self.warehouse.transaction(airports.states(data))).raise_for_status()

        async def work() -> None:
            for number, airport in waiting:
                fault = next(faults) if number % fail_every == 0 else None
                # As a saga, the steps before the last are committed by then, and have to be undone.
                pattern = "saga" if fault and number // fail_every % 8 > 3 else "staged"
                steps = airports.operations(airport, fault)
                outcome.add(
                    airport,
                    await self.warehouse.transaction(steps, pattern=pattern, concurrency="sequential"),
                )
                progress.advance(bar)

        columns = (BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
        began = time.monotonic()
        with Progress(TextColumn("transactions"), *columns, console=self.console) as progress:
            bar = progress.add_task("", total=len(data))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(TASKS):
                    tasks.create_task(work())
        outcome.seconds = time.monotonic() - began
        return outcome
