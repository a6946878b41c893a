"""How latency grows: with steps, stores, the size of a record, writers, processes and locks."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import drivers
from warehouse import AsyncWarehouse

_NAME = "bench_scale"
PICTURE = Path("docs/benchmarks.svg")
_TIMES = 15


@dataclass
class Curve:
    """Milliseconds for one transaction, by how much there is of something."""

    title: str
    unit: str
    points: list[tuple[float, float]]

    def row(self) -> str:
        """As a line of a table: what it costs by that, and the exponent of its growth at the end."""
        cells = ", ".join(f"{_short(x)}: {y:.2f}" for x, y in self.points)
        return f"| {self.title} | {cells} | {self.growth():.2f} |"

    def growth(self) -> float:
        """How much the time is multiplied with for each doubling, at most, as a power: 1 is linear."""
        import math

        steps = zip(self.points, self.points[1:], strict=False)
        return max(
            (math.log(y2 / y1) / math.log(x2 / x1) for (x1, y1), (x2, y2) in steps if x1 > 0), default=0.0
        )


def _short(number: float) -> str:
    return f"{number:,.0f}"


async def curves(urls: dict[str, str]) -> str:
    """Measure all of them, draw them, and return the section."""
    with tempfile.TemporaryDirectory() as folder:
        done = [
            await steps(urls["postgres"], folder),
            await participants(folder),
            await sizes(urls["postgres"], folder),
            await concurrency(urls["postgres"], folder),
            await locks(folder),
        ]
    draw(done)
    rows = "\n".join(curve.row() for curve in done)
    return f"""## How it grows

Milliseconds for one transaction. The last column is the steepest growth between two neighbours, as a power: 1 is
linear.

| by | milliseconds | power |
| --- | --- | ---: |
{rows}

![the same as curves]({PICTURE.name})
"""


async def median(work: Callable[[], Awaitable[object]], times: int = _TIMES) -> float:
    """Milliseconds."""
    await work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _insert(tag: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"operation": "insert", "from": {"tag": tag, "entity": _NAME}, "data": data}


async def _postgres(url: str, folder: str, **more: Any) -> AsyncWarehouse:
    connection = await drivers.postgres(url)
    await connection.execute(f"DROP TABLE IF EXISTS {_NAME}")
    await connection.execute(
        f"CREATE TABLE {_NAME} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)"
    )
    await connection.close()
    client = AsyncWarehouse(
        journal={"url": f"sqlite:///{folder}/journal.db"},
        adapters={"pg": {"adapter": "sql", "url": url, **more}},
        transactions={"max_image_bytes": 1 << 30},
    )
    await client.open()
    return client


async def steps(url: str, folder: str) -> Curve:
    async with await _postgres(url, folder) as client:
        points = []
        for count in (1, 3, 10, 30, 100, 300, 1000):
            operations = [_insert("pg", {"body": "x"})] * count
            points.append((float(count), await median(lambda o=operations: client.transaction(o), 7)))
    return Curve("steps (inserts into one PostgreSQL)", "steps", points)


async def participants(folder: str) -> Curve:
    import aiosqlite

    tags = [f"store{number}" for number in range(8)]
    for tag in tags:
        async with aiosqlite.connect(f"{folder}/{tag}.db") as connection:
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute(f"CREATE TABLE {_NAME} (id INTEGER PRIMARY KEY, body TEXT)")
            await connection.commit()
    adapters = {tag: {"adapter": "sql", "url": f"sqlite:///{folder}/{tag}.db"} for tag in tags}
    async with AsyncWarehouse(journal={"url": f"sqlite:///{folder}/j.db"}, adapters=adapters) as client:
        points = []
        for count in range(1, 9):
            operations = [_insert(tag, {"body": "x"}) for tag in tags[:count]]
            points.append((float(count), await median(lambda o=operations: client.transaction(o))))
    return Curve("participants (SQLite files)", "stores", points)


async def sizes(url: str, folder: str) -> Curve:
    async with await _postgres(url, folder) as client:
        points = []
        for size in (100, 1000, 10_000, 100_000, 1_000_000, 10_000_000):
            operations = [_insert("pg", {"body": "x" * size})]
            points.append((float(size), await median(lambda o=operations: client.transaction(o), 5)))
    return Curve("bytes of a record (PostgreSQL)", "bytes", points)


async def concurrency(url: str, folder: str) -> Curve:
    """The time for one, counted over all of them: as long as there are cores, it falls."""
    async with await _postgres(url, folder, pool_size=64) as client:
        operations = [_insert("pg", {"body": "x"})]
        points = []
        for count in (1, 2, 4, 8, 16, 32, 64):

            async def many(count: int = count) -> None:
                await asyncio.gather(*(client.transaction(operations) for _ in range(count * 4)))

            points.append((float(count), await median(many, 7) / (count * 4)))
    return Curve("writers at once (PostgreSQL), for one transaction", "writers", points)


async def locks(folder: str) -> Curve:
    """One insert, while a held transaction has so many records locked."""
    import aiosqlite

    for tag in ("held", "free"):
        async with aiosqlite.connect(f"{folder}/{tag}.db") as connection:
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute(f"CREATE TABLE {_NAME} (id INTEGER PRIMARY KEY, body TEXT)")
            await connection.commit()
    adapters = {tag: {"adapter": "sql", "url": f"sqlite:///{folder}/{tag}.db"} for tag in ("held", "free")}
    settings = {"max_records": 1_000_000, "max_image_bytes": 1 << 30, "timeout": 300}
    points = []
    async with AsyncWarehouse(
        journal={"url": f"sqlite:///{folder}/l.db"}, adapters=adapters, transactions=settings
    ) as client:
        operations = [_insert("free", {"body": "x"})]
        for count in (0, 1000, 10_000, 100_000):
            if count:
                async with client.begin(f"held-{count}", hold=True, expires_in=600) as tx:
                    await tx.insert(None, "held", _NAME, [{"body": "x"} for _ in range(count)])
            points.append((float(count), await median(lambda: client.transaction(operations))))
            if count:
                await client.rollback(f"held-{count}")
    return Curve("records locked by others", "locks", points)


def draw(done: Sequence[Curve]) -> None:
    """All curves in one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "warehouse"  # the same picture of the same figures
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 7))
    for axis, curve in zip(axes.flat, done, strict=False):
        xs, ys = [x for x, _ in curve.points], [y for _, y in curve.points]
        axis.plot(xs, ys, marker="o")
        axis.set_title(curve.title, fontsize=9)
        axis.set_xlabel(curve.unit)
        axis.set_ylabel("ms")
        if xs[-1] >= 100 * max(xs[0], 1):
            axis.set_xscale("symlog" if xs[0] == 0 else "log")
            axis.set_yscale("log")
        axis.set_ylim(bottom=None if axis.get_yscale() == "log" else 0)
    for axis in list(axes.flat)[len(done) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)
