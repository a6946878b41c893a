"""`docs/benchmarks.md`, made from the figures of a run."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import Figure

PAGE = Path("docs/benchmarks.md")
_PACKAGES = ("warehouse", "sqlalchemy", "psycopg", "asyncmy", "pymongo", "neo4j", "qdrant-client", "pydantic")
_KNOWN = re.compile(r"^\* (.+): known miss\b", re.MULTILINE)


def page(figures: Sequence[Figure], servers: Sequence[str], parts: Sequence[str]) -> str:
    """The whole page; `parts` are sections that follow the table."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    table = "\n".join(_row(figure) for figure in figures)
    return (
        f"""# Benchmarks

Written by `make bench WRITE=1`: no figure here was typed by hand. Each line compares the warehouse with the drivers,
doing the same, in one process and in turn; medians, and the 95 % interval of their ratio (bootstrap over pairs).
Every store and the journal write to disk before they answer (fsync on), in both.

Python {platform.python_version()} on {os.cpu_count()} cores; {", ".join(servers)}; {packages}.

| workload | against | drivers | warehouse | ratio | 95 % | target | CPU |
| --- | --- | ---: | ---: | ---: | --- | ---: | --- |
{table}

Where more is better (throughput), the ratio is that of what is done in a second. CPU is that of the client's process
for one: drivers, warehouse.

## What misses its target

{_misses(figures)}

{chr(10).join(parts)}
""".rstrip()
        + "\n"
    )


def known_misses(text: str) -> set[str]:
    """The workloads that the page lists as missing their target."""
    return set(_KNOWN.findall(text))


def _row(figure: Figure) -> str:
    sign = "≥" if figure.more_is_better else "≤"
    cpu = f"{_time(figure.cpu_raw)}, {_time(figure.cpu_ours)}" if figure.cpu_ours else ""
    notes = "; ".join(f"{name}: {_number(value)}" for name, value in figure.notes.items() if name != "pairs")
    name = figure.name + (f" ({notes})" if notes else "")
    ratio = f"{'' if figure.meets else '**'}{figure.ratio:.2f}{'' if figure.meets else '**'}"
    return (
        f"| {name} | {figure.against} | {_time(figure.raw)} | {_time(figure.ours)} | {ratio} |"
        f" {figure.low:.2f} to {figure.high:.2f} | {sign} {figure.target:g} | {cpu} |"
    )


def _misses(figures: Sequence[Figure]) -> str:
    lines = [
        f"* {figure.name}: known miss, {figure.ratio:.2f} against {figure.target:g}"
        for figure in figures
        if not figure.meets
    ]
    return "\n".join(lines) if lines else "Nothing."


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.01 else f"{seconds * 1e6:.0f} µs"


def _number(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
