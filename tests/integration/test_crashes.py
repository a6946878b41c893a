"""A process is killed at every boundary between two effects; after recovery: all or none, and nothing left over."""

import itertools
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from qdrant_client import QdrantClient, models

import servers
from integration import crash_points
from warehouse.errors import ConstraintViolated
from warehouse.testing import crash
from warehouse.testing.crash import Point, Scenario

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
LEASE = 0.5
HELD = 1.0  # seconds until what is held expires
AT_ONCE = 6
VECTOR = [0.5, -0.25, 1.0]


@dataclass(frozen=True)
class Place:
    """A folder with a SQLite store, a Qdrant store and a journal."""

    folder: Path

    def config(self):
        return {
            "journal": {"url": f"sqlite:///{self.folder}/journal.db", "lease": LEASE},
            "adapters": {
                "s": {"adapter": "sql", "url": f"sqlite+aiosqlite:///{self.folder}/store.db"},
                "v": {"adapter": "qdrant", "path": f"{self.folder}/vectors"},
            },
            "transactions": {"grace": 2, "lock_timeout": 2},
        }

    def make(self):
        servers.used("SQLite", sqlite3.sqlite_version, "embedded")
        self.folder.mkdir()
        with closing(sqlite3.connect(self.folder / "store.db")) as connection, connection:
            connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, n INTEGER, name TEXT)")
            connection.execute("INSERT INTO things VALUES (1, 10, 'one'), (2, 20, 'two')")
        client = QdrantClient(path=f"{self.folder}/vectors")
        params = models.VectorParams(size=3, distance=models.Distance.DOT)
        client.create_collection("things", vectors_config=params)
        points = [
            models.PointStruct(id=number, vector=VECTOR, payload={"n": 10 * number, "name": "p"})
            for number in (1, 2)
        ]
        client.upsert("things", points)
        client.close()
        return self

    def copy(self, name):
        shutil.copytree(self.folder, self.folder.parent / name)
        return Place(self.folder.parent / name)

    def contents(self):
        with closing(sqlite3.connect(self.folder / "store.db")) as connection:
            rows = connection.execute("SELECT * FROM things ORDER BY id").fetchall()
        client = QdrantClient(path=f"{self.folder}/vectors")
        found, _ = client.scroll("things", with_vectors=True, limit=100)
        client.close()
        return rows, sorted((point.id, point.vector, sorted(point.payload.items())) for point in found)

    def leftovers(self):
        return leftovers(self.folder / "journal.db")


def leftovers(path):
    """Open transactions and the number of locks that the journal still has."""
    with closing(sqlite3.connect(path)) as connection:
        states = connection.execute("SELECT state FROM warehouse_transactions").fetchall()
        locks = connection.execute("SELECT count(*) FROM warehouse_locks").fetchone()[0]
    return [state for (state,) in states if state not in {"completed", "compensated"}], locks


def source(tag):
    return {"tag": tag, "entity": "things"}


def operations(kind):
    """One step in SQLite, then two in Qdrant, each changing one record."""
    rows = {
        "insert": {"data": {"id": 3, "n": 30, "name": "three"}},
        "update": {"where": {"id": 1}, "data": {"n": {"$increment": 5}, "name": "changed"}},
        "upsert": {"data": [{"id": 1, "n": 11}, {"id": 4, "n": 40}]},
        "delete": {"where": {"id": 1}},
    }
    points = {
        "insert": [{"data": {"id": n, "vector": VECTOR[::-1], "metadata": {"n": n}}} for n in (3, 4)],
        "update": [{"where": {"id": n}, "data": {"metadata.n": 7, "vector": [1, 2, 3]}} for n in (1, 2)],
        "upsert": [{"data": {"id": n, "vector": [1, 2, 3], "metadata": {"n": n}}} for n in (1, 4)],
        "delete": [{"where": {"id": n}} for n in (1, 2)],
    }
    return (
        {"operation": kind, "from": source("s"), **rows[kind]},
        *({"operation": kind, "from": source("v"), **point} for point in points[kind]),
    )


def scenario(place, kind, pattern, path):
    """`back`: the second point is refused when everything else has been done or staged."""
    refused = ConstraintViolated("no", constraint="test")
    failing = () if path == "forth" else (("v.write", 2, refused),)
    return Scenario(
        config=place.config(),
        operations=operations(kind),
        options={} if pattern == "held" else {"pattern": pattern},
        failing=failing,
        held=HELD if pattern == "held" else None,
    )


CASES = [
    *itertools.product(["insert", "update", "upsert", "delete"], ["staged", "saga"], ["forth", "back"]),
    ("update", "held", "forth"),
    ("delete", "held", "forth"),
]


@pytest.mark.parametrize(("kind", "pattern", "path"), CASES)
async def test_killed_anywhere(tmp_path, kind, pattern, path):
    template = Place(tmp_path / "template").make()
    before = template.contents()
    whole = template.copy("whole")
    forth = scenario(whole, kind, pattern, "forth")
    assert (await crash.run(forth)).outcome == "completed"
    after = whole.contents()
    assert after != before
    dry = scenario(template.copy("dry"), kind, pattern, path)
    ended = await crash.run(dry)
    assert ended.outcome == ("completed" if path == "forth" else "compensated")

    async def killed(place, point):
        case = scenario(place, kind, pattern, path)
        assert (await crash.run(case, point)).killed
        crash_points.note(__name__, point)
        await anyio.sleep(HELD if pattern == "held" else 0)
        recovery = await crash.recover(case)
        assert recovery.error is None
        assert place.leftovers() == ([], 0), recovery.outcome
        assert place.contents() in (before, after), recovery.outcome

    await at_every(template, crash.points(ended, dry.failing), killed)


async def at_every(template, points, check):
    """Run `check` at every point, each in a place of its own, some at a time."""
    problems = []
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def run(number, point):
        async with limit:
            place = template.copy(f"at{number}")
            try:
                await check(place, point)
            except Exception as error:  # noqa: BLE001 - told below, with all others
                problems.append(f"{point}: {type(error).__name__}: {error}")
            shutil.rmtree(place.folder)

    async with anyio.create_task_group() as tasks:
        for number, point in enumerate(points):
            tasks.start_soon(run, number, point)
    assert points
    assert not problems, "\n".join(problems)


FIRST = {
    "forth": [
        Point("after", "journal.decide", 1),
        Point("after", "v.write", 1),
        Point("after", "s.commit", 1),
    ],
    "back": [Point("after", "journal.change_state", 1)],
}


@pytest.mark.parametrize(
    ("path", "first"), [(path, point) for path in FIRST for point in FIRST[path]], ids=str
)
@pytest.mark.parametrize("kind", ["insert", "update"])
async def test_recovery_is_killed_anywhere_too(tmp_path, kind, path, first):
    template = Place(tmp_path / "template").make()
    before = template.contents()
    whole = template.copy("whole")
    assert (await crash.run(scenario(whole, kind, "staged", "forth"))).outcome == "completed"
    after = whole.contents()
    dry = scenario(template.copy("dry"), kind, "staged", path)
    assert (await crash.run(dry, first)).killed
    recovery = await crash.recover(dry)
    expected = "completed" if path == "forth" else "compensated"
    assert list(recovery.outcome.values()) == [expected]

    async def killed(place, point):
        case = scenario(place, kind, "staged", path)
        assert (await crash.run(case, first)).killed
        assert (await crash.recover(case, point)).killed
        crash_points.note(__name__, point)
        again = await crash.recover(case)
        assert again.error is None
        assert set(again.outcome.values()) <= {expected}
        assert place.leftovers() == ([], 0), again.outcome
        assert place.contents() == (after if path == "forth" else before), again.outcome

    await at_every(template, crash.points(recovery), killed)
