"""The US airports of the `vega_datasets` package, each as one transaction over four stores."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from stores import Schema
from vega_datasets import data

SCHEMA = Schema(
    tables=[
        "CREATE TABLE states (code TEXT PRIMARY KEY)",
        """CREATE TABLE airports (
            iata TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            city TEXT,
            state TEXT REFERENCES states (code) DEFERRABLE INITIALLY DEFERRED,
            country TEXT NOT NULL,
            latitude DOUBLE PRECISION NOT NULL,
            longitude DOUBLE PRECISION NOT NULL
        )""",
    ],
    documents=["profiles"],
    labels={"Airport": "iata", "State": "code"},
    vectors={"places": 3},
)

Fault = Literal["duplicate", "missing", "expected", "deferred"]
FAULTS: dict[Fault, str] = {
    "duplicate": "the row twice",
    "missing": "a row without its country",
    "expected": "an update that must match one row, and matches none",
    "deferred": "a state that is not there, which the database checks first at the commit",
}


@dataclass(frozen=True, kw_only=True)
class Airport:
    """One row of the data. Twelve have neither city nor state: None, where pandas says NaN."""

    iata: str
    name: str
    city: str | None
    state: str | None
    country: str
    latitude: float
    longitude: float

    @property
    def direction(self) -> list[float]:
        """Its place on the unit sphere."""
        latitude, longitude = math.radians(self.latitude), math.radians(self.longitude)
        flat = math.cos(latitude)
        return [flat * math.cos(longitude), flat * math.sin(longitude), math.sin(latitude)]


def load(limit: int | None = None) -> list[Airport]:
    """The airports, at most `limit` of them."""
    rows = data.airports().head(limit).to_dict("records")
    return [
        Airport(**{name: None if value != value else value for name, value in row.items()})  # noqa: PLR0124
        for row in rows
    ]


def states(airports: Iterable[Airport]) -> list[dict[str, Any]]:
    """Two operations that make every state: a node and a row."""
    codes = [{"code": code} for code in sorted({each.state for each in airports if each.state})]
    return [
        {"operation": "insert", "from": {"tag": "graph", "entity": "State"}, "data": codes},
        {"operation": "insert", "from": {"tag": "records", "entity": "states"}, "data": codes},
    ]


def operations(airport: Airport, fault: Fault | None = None) -> list[dict[str, Any]]:
    """The transaction that stores one airport; with a `fault`, its last step is bound to fail."""
    row = {name: getattr(airport, name) for name in Airport.__dataclass_fields__}
    steps = [
        insert("graph", "Airport", {"iata": airport.iata, "name": airport.name}, "node"),
        insert(
            "vectors", "places", {"id": airport.iata, "vector": airport.direction, "metadata": row}, "vector"
        ),
        insert("documents", "profiles", {"_id": airport.iata, "document": profile(airport)}, "document"),
    ]
    if airport.state is not None:
        ends = {
            "start": {"entity": "Airport", "where": {"iata": airport.iata}},
            "end": {"entity": "State", "where": {"code": airport.state}},
        }
        source = {"tag": "graph", "relationship": "IN_STATE"}
        steps.insert(1, {"operation": "insert", "from": source, "data": ends, "name": "relationship"})
    return [*steps, last_step(row, fault)]


def insert(tag: str, entity: str, record: Any, name: str) -> dict[str, Any]:
    return {"operation": "insert", "from": {"tag": tag, "entity": entity}, "data": record, "name": name}


def profile(airport: Airport) -> dict[str, Any]:
    """The airport as a document: nested, and without what is not known."""
    place = {"city": airport.city, "state": airport.state, "country": airport.country}
    return {
        "name": airport.name,
        "place": {name: value for name, value in place.items() if value is not None},
        "position": {"latitude": airport.latitude, "longitude": airport.longitude},
    }


def last_step(row: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
    """The row of the airport, or what cannot be done in its place."""
    match fault:
        case "duplicate":
            return insert("records", "airports", [row, row], "row")
        case "missing":
            return insert("records", "airports", {**row, "country": None}, "row")
        case "deferred":
            return insert("records", "airports", {**row, "state": "??"}, "row")
        case "expected":
            return {
                "operation": "update",
                "from": {"tag": "records", "entity": "airports"},
                "where": {"iata": row["iata"]},
                "data": {"name": row["name"]},
                "expect": {"affected_rows": 1},
                "name": "row",
            }
        case None:
            return insert("records", "airports", row, "row")
