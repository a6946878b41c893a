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
_ROW = re.compile(
    r"^\| (?!workload|---)(?!part|by )([^:|]+?)(?:: [^|]*)? \| .* \| .* \| .* \| .* \| .* \| [≤≥] .*\|$",
    re.MULTILINE,
)
_MISS = re.compile(r"^\* (.+): known miss\b.*$", re.MULTILINE)
_SERVERS = re.compile(r"^Python \S+ on \d+ cores; (.*); warehouse ", re.MULTILINE)
_SECTIONS = "## Where the time goes"


def page(figures: Sequence[Figure], servers: Sequence[str], parts: Sequence[str], before: str = "") -> str:
    """The whole page; `parts` are sections that follow the table.

    Lines of the page `before` stay where nothing was measured anew, and so do its sections without `parts`.
    """
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    rows, misses = _kept(before, _ROW), _kept(before, _MISS)
    for figure in figures:
        rows[figure.name] = _row(figure)
        misses.pop(figure.name, None)
        if not figure.meets:
            misses[figure.name] = f"* {figure.name}: known miss, {figure.ratio:.2f} against {figure.target:g}"
    with_servers = _SERVERS.search(before)
    known = with_servers[1] if with_servers and not parts else ", ".join(dict.fromkeys(servers))
    table = "\n".join(rows.values())
    listed = "\n".join(misses[name] for name in rows if name in misses) or "Nothing."
    sections = "\n".join(parts) or before[max(before.find(_SECTIONS), 0) :]
    return (
        f"""# Benchmarks

Written by `make bench WRITE=1`: no figure here was typed by hand. Each line compares the warehouse with the drivers,
doing the same, in one process and in turn; medians, and the 95 % interval of their ratio (bootstrap over pairs).
Every store and the journal write to disk before they answer (fsync on), in both.

Python {platform.python_version()} on {os.cpu_count()} cores; {known}; {packages}.

| workload | against | drivers | warehouse | ratio | 95 % | target | CPU |
| --- | --- | ---: | ---: | ---: | --- | ---: | --- |
{table}

Where more is better (throughput), the ratio is that of what is done in a second. CPU is that of the client's process
for one: drivers, warehouse.

## What misses its target

{listed}

{sections}
""".rstrip()
        + "\n"
    )


def _kept(before: str, line: re.Pattern[str]) -> dict[str, str]:
    """Lines of the page, by the workload that they are about."""
    return {found[1]: found[0] for found in line.finditer(before)}


def known_misses(text: str) -> set[str]:
    """The workloads that the page lists as missing their target."""
    return set(_kept(text, _MISS))


def _row(figure: Figure) -> str:
    sign = "≥" if figure.more_is_better else "≤"
    cpu = f"{_time(figure.cpu_raw)}, {_time(figure.cpu_ours)}" if figure.cpu_ours else ""
    notes = "; ".join(f"{name}: {_number(value)}" for name, value in figure.notes.items() if name != "pairs")
    name = figure.name + (f": {notes}" if notes else "")
    ratio = f"{'' if figure.meets else '**'}{figure.ratio:.2f}{'' if figure.meets else '**'}"
    return (
        f"| {name} | {figure.against} | {_time(figure.raw)} | {_time(figure.ours)} | {ratio} |"
        f" {figure.low:.2f} to {figure.high:.2f} | {sign} {figure.target:g} | {cpu} |"
    )


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.01 else f"{seconds * 1e6:.0f} µs"


def _number(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
