"""One round: writers on all stores, under attack; then what is found."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from campaign.faults import Attacks, small_disk
from campaign.findings import Left, problems, took_effect
from campaign.history import Operation, operations
from campaign.judge import judge
from campaign.layout import STORES, Layout
from campaign.processes import Crew
from campaign.proxy import Proxies, Weather
from campaign.vaults import DATABASE, VAULTS, Vault
from servers import ProcessServer, ServerMissing
from servers.base import HOST, address
from servers.places import database, emptied, schema_of
from warehouse import Warehouse, WarehouseError
from warehouse.results import State

LEASE = 2.0  # seconds
WRITERS = (4, 4, 4, 3)  # by process; with the one who bypasses the warehouse they are 16
JOURNALS = ("postgres", "redis", "mariadb", "sqlite")
SERVERS = (*STORES, "redis")
_OPEN: list[State] = ["running", "committing", "compensating"]
_PEACE = 60  # seconds without faults in which everything must come to its end

Pause = tuple[float, float] | None
"""From so many to so many seconds; None for an attack that a round does without."""


@dataclass(frozen=True)
class Plan:
    """What a round is like: where its journal is, how long it takes, and the pauses between attacks."""

    journal: str
    seconds: float
    seed: int
    kill_servers: Pause = (1.0, 3.0)
    kill_writers: Pause = (2.0, 6.0)
    pause_writers: Pause = (4.0, 10.0)
    fill_disk: Pause = (2.0, 5.0)
    cut: float = 0.002
    """The share of the requests to which the proxies do something."""


@dataclass
class Result:
    """What happened in a round, or in several."""

    seconds: float = 0.0
    journals: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    """How transactions ended, as their callers were told."""
    faults: Counter[str] = field(default_factory=Counter)
    effective: int = 0
    """Transactions that took effect."""
    judged: int = 0
    """Operations that the judge from elsewhere looked at: none where it is not installed."""
    settled: float = 0.0
    """Seconds until nothing was open any more; the longest."""
    problems: list[str] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)

    def add(self, other: Result) -> None:
        self.seconds += other.seconds
        self.effective += other.effective
        self.judged += other.judged
        self.settled = max(self.settled, other.settled)
        self.problems += other.problems
        self.notes |= other.notes
        for name in ("journals", "operations", "told", "faults"):
            getattr(self, name).update(getattr(other, name))


def play(plan: Plan, servers: dict[str, ProcessServer], folder: Path) -> Result:
    """Run a round in an empty folder. All servers must answer, and do so again when it is over."""
    layout, result = Layout(), Result(journals=Counter([plan.journal]))
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk"))
        if disk is None:
            result.notes.add("no file system could be mounted: the disk of the journal was never full")
        journal = stack.enter_context(_place(plan.journal, servers, disk or folder / "disk"))
        with _vaults(servers, layout) as vaults:
            for vault in vaults.values():
                vault.make()
        with _proxies(plan, result) as proxies:
            config = _config(plan, layout, servers, journal, folder)
            config["warehouse"] = _through(proxies, config["warehouse"])
            (folder / "config").write_text(json.dumps(config), encoding="utf-8")
            _attack(plan, folder, servers, disk, result)
            proxies.weather.chance = 0.0
            _settle(config["warehouse"], result)
        with _vaults(servers, layout) as vaults:
            left = Left(
                cells={tag: vault.cells() for tag, vault in vaults.items()},
                ledgers={tag: vault.ledger() for tag, vault in vaults.items()},
                prepared={tag: vault.prepared() for tag, vault in vaults.items()},
            )
            for vault in vaults.values():
                vault.remove()
        _look(operations(folder), left, folder, result)
    return result


@contextmanager
def _place(kind: str, servers: dict[str, ProcessServer], disk: Path) -> Iterator[str]:
    """The URL of an empty journal."""
    if kind == "sqlite":
        yield f"sqlite:///{disk}/journal.db"
        return
    place = {"postgres": database, "mariadb": schema_of, "redis": emptied}[kind]
    with place(servers[kind]) as url:
        yield url


@contextmanager
def _vaults(servers: dict[str, ProcessServer], layout: Layout) -> Iterator[dict[str, Vault]]:
    with ExitStack() as stack:
        vaults: dict[str, Vault] = {}
        for name, tag in STORES.items():
            vaults[tag] = VAULTS[tag](servers[name].url, layout)
            stack.callback(vaults[tag].close)
        yield vaults


def _config(
    plan: Plan, layout: Layout, servers: dict[str, ProcessServer], journal: str, folder: Path
) -> dict[str, Any]:
    urls = {tag: servers[name].url for name, tag in STORES.items()}
    adapters: dict[str, Any] = {
        "pg": {"adapter": "sql", "url": urls["pg"]},
        "maria": {"adapter": "sql", "url": urls["maria"]},
        "graph": {"adapter": "neo4j", "url": urls["graph"]},
        "doc": {"adapter": "mongo", "url": urls["doc"], "database": DATABASE, "settle": 0.3},
    }
    return {
        "records": layout.records,
        "folder": str(folder),
        "parent": os.getpid(),
        "seed": plan.seed,
        "urls": urls,
        "warehouse": {
            "journal": {"url": journal, "lease": LEASE},
            "adapters": adapters,
            "transactions": {"grace": 5},
        },
    }


def _attack(
    plan: Plan, folder: Path, servers: dict[str, ProcessServer], disk: Path | None, result: Result
) -> None:
    """Let the writers write for the plan's time, under all attacks, then end them in order."""
    crew = Crew(folder, WRITERS)
    attacks = Attacks(result.faults, random.Random(plan.seed))
    began = time.monotonic()
    if plan.kill_servers:
        rest: list[str] = []
        attacks.every(plan.kill_servers, lambda: attacks.kill_a_server(servers, rest))
    if plan.kill_writers:
        attacks.every(plan.kill_writers, lambda: attacks.kill_a_writer(crew))
    if plan.pause_writers:
        attacks.every(plan.pause_writers, lambda: attacks.pause_a_writer(crew, LEASE))
    if plan.fill_disk and disk and plan.journal == "sqlite":
        attacks.every(plan.fill_disk, lambda: attacks.fill(disk))
    try:
        time.sleep(plan.seconds)
    finally:
        attacks.end()
        result.problems += attacks.problems + crew.stop()
    result.seconds = time.monotonic() - began


@contextmanager
def _proxies(plan: Plan, result: Result) -> Iterator[Proxies]:
    weather = Weather(plan.cut, random.Random(plan.seed + 1))
    proxies = Proxies(weather)
    try:
        yield proxies
    finally:
        proxies.close()
        result.faults.update(weather.happened)


def _through(proxies: Proxies, warehouse: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, with a proxy before each server."""

    def behind(url: str) -> str:
        if url.startswith("sqlite"):
            return url
        parts = make_url(url)
        port = proxies.before(*address(url))
        return parts.set(host=HOST, port=port).render_as_string(hide_password=False)

    adapters = {tag: {**one, "url": behind(one["url"])} for tag, one in warehouse["adapters"].items()}
    journal = {**warehouse["journal"], "url": behind(warehouse["journal"]["url"])}
    return {**warehouse, "adapters": adapters, "journal": journal}


def _settle(warehouse: dict[str, Any], result: Result) -> None:
    """Everything comes to its end once there is peace."""
    began = time.monotonic()
    left: list[Any] = []
    while time.monotonic() < began + _PEACE:
        try:
            with Warehouse(**warehouse) as own:
                own.recover()
                left = own.transactions(_OPEN)
                if not left:
                    result.settled = time.monotonic() - began
                    result.problems += [f"{one.transaction_id} failed" for one in own.transactions("failed")]
                    return
        except WarehouseError as error:
            result.notes.add(f"while it settled: {error}")
        time.sleep(0.2)
    result.problems.append(
        f"still open after {_PEACE} s: {[(one.transaction_id, one.status) for one in left]}"
    )


def _look(history: list[Operation], left: Left, folder: Path, result: Result) -> None:
    effective = took_effect(left)
    result.effective = len(effective)
    result.operations.update(operation.f for operation in history)
    result.told.update(
        operation.told.get("told", "nothing: the caller was killed")
        for operation in history
        if operation.f == "write"
    )
    result.problems += problems(history, left)
    try:
        verdicts = judge(list(_judged(history, effective)), folder)
    except ServerMissing as missing:
        result.notes.add(f"no judge from elsewhere: {missing}")
        return
    result.judged = sum(verdict.operations for verdict in verdicts)
    result.problems += [
        f"{verdict.group}: {verdict.result} by the judge, of {verdict.operations} operations"
        for verdict in verdicts
        if verdict.result != "Ok"
    ]


def _judged(history: list[Operation], effective: set[str]) -> Iterator[Operation]:
    """What took effect; where its end was not told, at any time until the end."""
    over = max((operation.end for operation in history), default=0)
    for operation in history:
        if operation.f == "read" and operation.type == "ok":
            yield operation
        elif operation.f == "write" and operation.value["key"] in effective:
            yield operation if operation.type == "ok" else replace(operation, type="info", end=over)
