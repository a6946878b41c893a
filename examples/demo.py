"""The demo: every US airport stored in four stores by one transaction each, some failing on purpose.

python examples/demo.py [--stores embedded|servers] [--limit N] [--fail-every N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import airports
import stores
from airports import FAULTS, Airport, Fault
from neo4j import GraphDatabase
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from warehouse import AsyncWarehouse, TransactionResult
from warehouse.results import ParticipantInfo, Pattern

TASKS = 4
CENTRE = "ORD"
EARTH_RADIUS = 6371.0  # km
CYPHER = (
    "MATCH (:Airport)-[:IN_STATE]->(s:State) RETURN s.code AS s, count(*) AS n ORDER BY n DESC, s LIMIT 5"
)
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
        table = make_table("tag", "store", "version", "its steps are")
        for tag, found in (await self.warehouse.participants()).items():
            if isinstance(found, ParticipantInfo):
                held = "held in its transaction" if found.holds else "planned, then written"
                table.add_row(tag, found.store, found.version, held)
            else:
                raise found
        self.console.print(table)

    async def store(self, data: Sequence[Airport], fail_every: int) -> Outcome:
        """One transaction an airport, some side by side; every `fail_every`-th is made to fail."""
        outcome, waiting = Outcome(), iter(enumerate(data, 1))
        (await self.warehouse.transaction(airports.states(data))).raise_for_status()

        async def work() -> None:
            for number, airport in waiting:
                fault, pattern = plan(number, fail_every)
                result = await self.warehouse.transaction(
                    airports.operations(airport, fault),
                    pattern=pattern,
                    # A SQLite file has one writer: every transaction comes to the two files last, and in the
                    # same order, so that no two of them have one file each and wait for the other.
                    concurrency="sequential",
                )
                outcome.add(airport, result)
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

    async def compare(self, outcome: Outcome) -> bool:
        """Read every store back: does each hold exactly the airports whose transaction completed?"""
        expected = {(each.iata, each.name) for each in outcome.stored}
        found = {tag: await self._stored(tag) for tag in SOURCES}
        table = make_table("read back", "records", "missing", "left over", numbers=3)
        for tag, names in found.items():
            numbers = len(names), len(expected - names), len(names - expected)
            table.add_row(tag, *(f"{number:,}" for number in numbers))
        self.console.print(table)
        inside = [each for each in outcome.stored if each.state]
        relationships = await self.warehouse.find({"tag": "graph", "relationship": "IN_STATE"})
        self.console.print(
            f"{len(relationships):,} relationships IN_STATE; {len(inside):,} airports have a state."
        )
        agree = all(names == expected for names in found.values()) and len(relationships) == len(inside)
        self.console.print("[green]All stores agree.\n" if agree else "[bold red]The stores do not agree.\n")
        return agree

    async def _stored(self, tag: str) -> set[tuple[str, str]]:
        """The airports in one store, as key and name."""
        records = await self.warehouse.find(SOURCES[tag])
        match tag:
            case "documents":
                return {(each["_id"], each["document"]["name"]) for each in records}
            case "vectors":
                return {(each["id"], each["metadata"]["name"]) for each in records}
            case _:
                return {(each["iata"], each["name"]) for each in records}

    def show_outcome(self, outcome: Outcome) -> None:
        """How fast it was, and what was compensated and why."""
        done = len(outcome.stored) + len(outcome.compensated) + len(outcome.failed)
        self.console.print(
            f"{done:,} transactions in {outcome.seconds:.1f} s ({done / outcome.seconds:.0f} a second): "
            f"{len(outcome.stored):,} completed, {len(outcome.compensated):,} compensated, "
            f"{len(outcome.failed):,} failed.\n"
        )
        whys = Counter((str(result.error), result.pattern) for _, result in outcome.compensated)
        table = make_table("Compensated, because of", "staged", "saga", numbers=2)
        for why in sorted({why for why, _ in whys}):
            table.add_row(escape(why), str(whys[why, "staged"]), str(whys[why, "saga"]))
        self.console.print(table)
        self.console.print(
            "As staged, nothing of them was visible to anybody, but where the commit itself was refused: what is "
            "planned had been written by then, and was undone. As a saga, their first steps were committed, and "
            "undone."
        )
        for airport, result in outcome.failed:
            self.console.print(f"[bold red]{airport.iata} failed:", escape(str(result.error)))
            for item in result.residue:
                self.console.print("  left over:", escape(str(item)))

    async def ask_graph(self) -> None:
        """The states with most airports: asked of the store itself, by its own driver."""
        if self.places.graph is None:
            found = await self.warehouse.find({"tag": "graph", "relationship": "IN_STATE"})
            states = Counter(each["end"]["key"]["code"] for each in found).most_common(5)
        else:
            url, auth = self.places.graph
            with GraphDatabase.driver(url, auth=auth) as driver:
                states = [(row["s"], row["n"]) for row in driver.execute_query(CYPHER).records]
        text = ", ".join(f"{code} {number}" for code, number in states)
        self.console.print(f"The states with most airports, by the graph: {text}.\n")

    async def ask_vectors(self, centre: Airport) -> None:
        """The five airports nearest to one of them, by their vectors."""
        near = {"vector": centre.direction, "limit": 6}
        table = make_table(f"nearest to {centre.name} ({centre.iata})", "place", "km", numbers=1)
        for each in await self.warehouse.find(SOURCES["vectors"], near=near, isolation="latest"):
            if each["id"] != centre.iata:
                row = each["metadata"]
                place = ", ".join(filter(None, [row.get("city"), row.get("state")])) or row["country"]
                kilometres = distance(centre.direction, each["vector"])
                table.add_row(f"{row['name']} ({each['id']})", place, f"{kilometres:.1f}")
        self.console.print(table)


def make_table(*headers: str, numbers: int = 0) -> Table:
    """A table; its last columns, so many, hold numbers."""
    table = Table(*headers, box=SIMPLE_HEAD)
    for column in table.columns[len(headers) - numbers :]:
        column.justify = "right"
    return table


def plan(number: int, fail_every: int) -> tuple[Fault | None, Pattern]:
    """How the transaction of this number is to be made to fail, if at all, and its pattern.

    As a saga, the steps before the last are committed by then, and have to be undone.
    """
    turn, rest = divmod(number, fail_every)
    if rest:
        return None, "staged"
    return list(FAULTS)[turn % len(FAULTS)], "saga" if turn // len(FAULTS) % 2 else "staged"


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Kilometres between two places on the unit sphere."""
    return 2 * EARTH_RADIUS * math.asin(min(1.0, math.dist(one, other) / 2))


def show_data(data: Sequence[Airport], console: Console) -> None:
    """What the data is like, gaps and all."""
    gaps = sum(each.city is None or each.state is None for each in data)
    console.print(
        f"{len(data):,} airports from the package vega_datasets. Each is one transaction: a node and its "
        "relationship to its state, a vector, a document, a row."
    )
    if gaps:
        console.print(
            f"City and state are missing from {gaps}: null in the row, left out of the document, no relationship "
            "in the graph."
        )


async def run(chosen: argparse.Namespace, places: stores.Stores, console: Console) -> bool:
    """The whole demo; whether all stores agree in the end."""
    data = airports.load(chosen.limit)
    show_data(data, console)
    async with AsyncWarehouse.from_config(places.config) as warehouse:
        demo = Demo(warehouse, places, console)
        await demo.show_stores()
        outcome = await demo.store(data, chosen.fail_every)
        demo.show_outcome(outcome)
        agree = await demo.compare(outcome)
        await demo.ask_graph()
        centre = next((each for each in outcome.stored if each.iata == CENTRE), outcome.stored[0])
        await demo.ask_vectors(centre)
    return agree and not outcome.failed


@contextmanager
def folder(chosen: Path | None) -> Iterator[Path]:
    """Where the files go: an empty folder of the user's, which stays, or a temporary one."""
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="warehouse-demo-") as temporary:
            yield Path(temporary)
        return
    chosen.mkdir(parents=True, exist_ok=True)
    if any(chosen.iterdir()):
        sys.exit(f"{chosen} is not empty")
    yield chosen.resolve()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", choices=["embedded", "servers"], default="embedded")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N airports")
    parser.add_argument("--fail-every", type=positive, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="keep the files here (default: a temporary folder)")
    return parser.parse_args()


def main() -> int:
    chosen, console = parse(), Console(highlight=False)
    open_stores = stores.embedded if chosen.stores == "embedded" else stores.servers
    with folder(chosen.folder) as files:
        console.print("Starting the stores ...")
        with open_stores(airports.SCHEMA, files) as places:
            for note in places.notes:
                console.print(escape(note), style="yellow")
            agree = asyncio.run(run(chosen, places, console))
    if chosen.folder:
        console.print(f"\nThe files are in {chosen.folder}.")
    return 0 if agree else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
