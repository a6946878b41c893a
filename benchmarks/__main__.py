"""Compare the warehouse with the drivers, on servers that are started here: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import servers
from benchmarks import report
from benchmarks.harness import Figure, Workload, compare, compare_throughput
from benchmarks.profile import profile
from benchmarks.scaling import curves
from benchmarks.workloads import contention, importing, journals, many, postgres, stores

WORKLOADS: list[type[Workload]] = [
    postgres.ThreeInserts,
    postgres.OneInsert,
    stores.FourStores,
    stores.Compensated,
    postgres.TwoPostgres,
    contention.Distinct,
    contention.Hot,
    many.InsertSQLite,
    many.InsertPostgres,
    many.InsertMariaDB,
    many.InsertMongo,
    many.InsertNeo4j,
    many.InsertQdrant,
    many.Update,
    many.Undo,
    journals.FullJournal,
    importing.Import,
]


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    workloads = [kind for kind in WORKLOADS if chosen.only.lower() in kind.name.lower()]
    whole = chosen.write and not chosen.only
    needed = sorted({name for kind in workloads for name in kind.needs} | ({"postgres"} if whole else set()))
    before = report.PAGE.read_text(encoding="utf-8") if report.PAGE.exists() else ""
    with _servers(needed) as running:
        urls = {name: server.url for name, server in running.items()}
        failed: list[str] = []
        figures = [
            figure
            for kind in workloads
            if (figure := _measured(kind, urls, chosen.seconds, failed)) is not None
        ]
        if chosen.only.lower() in journals.RECOVERY.lower():
            with tempfile.TemporaryDirectory() as folder:
                figures.append(journals.recovery(folder))
                _say(figures[-1])
        if chosen.write:
            parts = [asyncio.run(profile(urls)), asyncio.run(curves(urls))] if whole else []
            titles = [f"{server.title} {server.version}" for server in running.values()]
            page = report.page(figures, titles, parts, "" if whole else before)
            report.PAGE.write_text(page, encoding="utf-8")
    if failed:
        sys.stdout.write(f"failed: {', '.join(failed)}\n")
        return 1
    worse = [
        figure.name for figure in figures if figure.misses and figure.name not in report.known_misses(before)
    ]
    if chosen.check and worse:
        sys.stdout.write(f"misses its target, and {report.PAGE} does not say so: {', '.join(worse)}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument(
        "--seconds", type=float, default=20, help="at the most for each, roughly (default: %(default)s)"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {report.PAGE}, with a profile and curves"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit 1 where one misses a target and {report.PAGE} does not say so",
    )
    return parser


@contextmanager
def _servers(names: Sequence[str]) -> Iterator[dict[str, servers.ProcessServer]]:
    """Servers of our own, side by side; `postgres_2` is another postgres."""
    with ThreadPoolExecutor() as pool:
        started = list(pool.map(lambda name: servers.start(name.partition("_")[0], private=True), names))
    try:
        yield dict(zip(names, started, strict=True))
    finally:
        for server in started:
            server.remove()


def _measured(kind: type[Workload], urls: dict[str, str], seconds: float, failed: list[str]) -> Figure | None:
    """What came of it; one that fails keeps no other from being measured."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            figure = asyncio.run(_compared(kind(urls, folder), seconds))
        except Exception:  # noqa: BLE001 - it is printed
            traceback.print_exc()
            failed.append(kind.name)
            return None
    _say(figure)
    return figure


async def _compared(workload: Workload, seconds: float) -> Figure:
    await workload.open()
    try:
        if workload.at_once > 1:
            return await compare_throughput(workload, seconds)
        return await compare(workload, seconds)
    finally:
        await workload.close()


def _say(figure: Figure) -> None:
    verdict = "" if figure.meets else "  MISSES"
    sys.stdout.write(
        f"{time.strftime('%H:%M:%S')} {figure.name}: {figure.ratio:.2f} ({figure.low:.2f} to {figure.high:.2f}),"
        f" target {figure.target:g}{verdict}; drivers {figure.raw * 1000:.2f} ms, warehouse"
        f" {figure.ours * 1000:.2f} ms {figure.notes}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
