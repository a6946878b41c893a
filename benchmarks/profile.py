"""Where the time goes on the way to success, by part of the code."""

from __future__ import annotations

import cProfile
import pstats
import tempfile
from pathlib import Path

from benchmarks.workloads.postgres import ThreeInserts

_TIMES = 1000
_PLANNING = ("operations", "engine/plan", "engine/checks", "conditions", "updates", "engine/options")
_PARTS = [
    ("validation and planning", ("pydantic", *(f"warehouse/{name}" for name in _PLANNING))),
    ("result", ("warehouse/results",)),
    ("journal", ("warehouse/journal", "sqlite3", "cbor2")),
    ("adapter", ("warehouse_adapters",)),
    ("engine", ("warehouse/",)),
    ("SQLAlchemy", ("sqlalchemy",)),
    ("driver (psycopg)", ("psycopg",)),
    (
        "event loop and anyio",
        ("asyncio", "anyio", "selectors", "select.", "threading", "queue", "_contextvars"),
    ),
]


async def profile(urls: dict[str, str]) -> str:
    """The section: three inserts into one PostgreSQL, under cProfile."""
    with tempfile.TemporaryDirectory() as folder:
        workload = ThreeInserts(urls, folder)
        await workload.open()
        for number in range(200):
            await workload.ours(number)
        profiler = cProfile.Profile()
        profiler.enable()
        for number in range(_TIMES):
            await workload.ours(number)
        profiler.disable()
        await workload.close()
    parts = dict.fromkeys([name for name, _ in _PARTS] + ["the rest"], 0.0)
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        parts[_part(file, function)] += own
    whole = sum(parts.values())
    rows = "\n".join(
        f"| {name} | {seconds / _TIMES * 1e6:.0f} | {seconds / whole:.0%} |"
        for name, seconds in parts.items()
    )
    return f"""## Where the time goes

Three inserts as one transaction on one PostgreSQL, under cProfile, which makes everything slower, and what calls much
most: the shares tell more than the microseconds. Waiting for the server is in "event loop".

| part | µs | share |
| --- | ---: | ---: |
{rows}
"""


def _part(file: str, function: str) -> str:
    place = Path(file).as_posix() if file != "~" else function
    for name, needles in _PARTS:
        if any(needle in place for needle in needles):
            return name
    return "the rest"
