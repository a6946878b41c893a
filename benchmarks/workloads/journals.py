"""Journals that have much in them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Workload, peak_memory
from warehouse import AsyncWarehouse, OutcomeUnknown
from warehouse.errors import JournalUnavailable
from warehouse.testing.faults import inject

_NAME = "bench_journal"
CRASHED = 10_000
RECOVERY = f"recovery of {CRASHED:,} crashed transactions"
FINISHED = 1_000_000
_REAL = 1000


def warehouse(folder: str, journal: str = "journal.db", **options: Any) -> AsyncWarehouse:
    """Two SQLite stores and a SQLite journal."""
    return AsyncWarehouse(
        journal={"url": f"sqlite:///{folder}/{journal}", **options},
        adapters={tag: {"adapter": "sql", "url": f"sqlite:///{folder}/{tag}.db"} for tag in ("one", "two")},
        transactions={"grace": 0.01},
    )


def make(folder: str) -> None:
    for tag in ("one", "two"):
        with closing(sqlite3.connect(f"{folder}/{tag}.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_NAME} (id INTEGER PRIMARY KEY, n INTEGER)")
            connection.commit()


def inserts(number: int) -> list[dict[str, Any]]:
    return [
        {"operation": "insert", "from": {"tag": tag, "entity": _NAME}, "data": {"id": number, "n": number}}
        for tag in ("one", "two")
    ]


class FullJournal(Workload):
    """Two inserts into two SQLite stores, with a journal of a million transactions."""

    name = f"journal of {FINISHED:,} finished transactions"
    against = "the same, with an empty journal"
    target = 1.1
    rounds = 300
    warm_up = 50

    async def open(self) -> None:
        make(self.folder)
        self.number = 0
        self.full = warehouse(self.folder, "full.db", recover="manual")
        for _ in range(_REAL):
            await self.run(self.full)
        await self.full.close()
        multiply(f"{self.folder}/full.db", FINISHED // _REAL)
        self.full = warehouse(self.folder, "full.db", recover="manual")
        self.empty = warehouse(self.folder, "empty.db", recover="manual")

    async def run(self, client: AsyncWarehouse) -> None:
        self.number += 1
        (await client.transaction(inserts(self.number))).raise_for_status()

    async def raw(self, number: int) -> None:
        await self.run(self.empty)

    async def ours(self, number: int) -> None:
        await self.run(self.full)

    async def notes(self) -> dict[str, Any]:
        times = []
        for number in range(1, 101):
            began = time.perf_counter()
            await self.full.history({"tag": "one", "entity": _NAME}, {"id": number}, limit=10)
            times.append((time.perf_counter() - began) * 1000)
        return {"history of a record [ms]": sorted(times)[len(times) // 2]}

    async def close(self) -> None:
        await self.full.close()
        await self.empty.close()


def multiply(path: str, times: int) -> None:
    """Write the finished transactions of a journal again and again, under other ids."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        tables = {
            "warehouse_transactions": "id",
            "warehouse_steps": "transaction_id",
            "warehouse_records": "transaction_id",
        }
        for table, column in tables.items():
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(f"{name} || '-' || k" if name == column else name for name in names)
            connection.execute(
                f"WITH RECURSIVE c(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM c WHERE k < {times - 1})"
                f" INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table}, c"
            )
            connection.commit()


def recovery(folder: str) -> Figure:
    """How long it takes to end what a dead process left, of so many transactions; and how much memory."""
    peaks = {}
    seconds = 0.0
    for count in (CRASHED // 10, CRASHED):
        place = f"{folder}/{count}"
        Path(place).mkdir()
        for command in ("crash", "recover"):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.workloads.journals", command, place, str(count)],
                check=True,
                capture_output=True,
                text=True,
            )
        told = json.loads(done.stdout)
        peaks[count], seconds = told["peak"], told["seconds"]
    notes = {f"peak memory with {count:,} [MiB]": peak for count, peak in peaks.items()}
    return Figure(
        RECOVERY, "60 s", 1.0, seconds / 60, seconds / 60, seconds / 60, 60.0,
        seconds, notes=notes,
    )  # fmt: skip


async def crash(folder: str, count: int) -> None:
    """Leave so many transactions decided and committed in their stores, and not ended in the journal."""
    make(folder)
    client = warehouse(folder, lease=1, recover="manual")
    faults = inject(client)
    faults.fail("journal.finish", JournalUnavailable("gone"), times=None)
    for number in range(count):
        try:
            await client.transaction(inserts(number))
        except OutcomeUnknown:
            continue
        raise RuntimeError("it ended")


async def recover(folder: str, count: int) -> None:
    client = warehouse(folder, recover="manual")
    began = time.monotonic()
    async with client:
        found = await client.recover()
        seconds = time.monotonic() - began
    ended = sum(item.status == "completed" for item in found)
    if ended != count:
        raise RuntimeError(f"{ended} of {count} ended")
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak_memory()}))


if __name__ == "__main__":
    asyncio.run({"crash": crash, "recover": recover}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
