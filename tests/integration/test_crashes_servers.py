"""As `test_crashes`, on servers: PostgreSQL (can be asked), Neo4j (cannot), and MongoDB's protocol (guarded)."""

import re
import shutil
from pathlib import Path
from uuid import uuid4

import anyio
import neo4j
import psycopg
import pymongo
import pytest
from sqlalchemy import make_url

from integration import crash_points
from integration.test_crashes import AT_ONCE, LEASE, leftovers
from warehouse.errors import ConstraintViolated
from warehouse.testing import crash
from warehouse.testing.crash import Scenario

# A transaction that meets a lock is staged anew, and so does not pass the point "after" the call that met it;
# then the case is run again.
TRIES = 4
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
FILLED = [{"id": 1, "n": 10, "name": "one"}, {"id": 2, "n": 20, "name": "two"}]


class Place:
    """A table, a label and a collection of their own, and a journal."""

    def __init__(self, urls: dict[str, str], folder: Path, names: list[str]) -> None:
        self.urls = urls
        self.folder = folder / uuid4().hex
        self.names = names
        self.name = names.pop()

    def config(self):
        return {
            "journal": {"url": f"sqlite:///{self.folder}/journal.db", "lease": LEASE},
            "adapters": {
                "p": {"adapter": "sql", "url": self.urls["postgres"]},
                "g": {"adapter": "neo4j", "url": self.urls["neo4j"]},
                "m": {"adapter": "mongo", "url": self.urls["mongo"], "database": "crashes", "settle": 0.2},
            },
            "transactions": {"grace": 5, "lock_timeout": 5},
        }

    def postgres(self):
        url = make_url(self.urls["postgres"]).set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

    def graph(self):
        return neo4j.GraphDatabase.driver(self.urls["neo4j"])

    def make(self):
        self.folder.mkdir()
        with self.postgres() as connection:
            connection.execute(f'CREATE TABLE "{self.name}" (id int PRIMARY KEY, n int, name text)')
            for row in FILLED:
                connection.execute(f'INSERT INTO "{self.name}" VALUES (%(id)s, %(n)s, %(name)s)', row)
        with self.graph() as driver:
            driver.execute_query(f"UNWIND $rows AS row CREATE (n:{self.name}) SET n = row", rows=FILLED)
        with pymongo.MongoClient(self.urls["mongo"]) as client:
            rows = [{"_id": row["id"], "n": row["n"], "name": row["name"]} for row in FILLED]
            client["crashes"][self.name].insert_many(rows)
        return self

    def remove(self):
        shutil.rmtree(self.folder)
        with self.postgres() as connection:
            connection.execute(f'DROP TABLE "{self.name}"')
        with self.graph() as driver:
            driver.execute_query(f"MATCH (n:{self.name}) DETACH DELETE n")
        with pymongo.MongoClient(self.urls["mongo"]) as client:
            client["crashes"].drop_collection(self.name)
        self.names.append(self.name)

    def contents(self):
        with self.postgres() as connection:
            rows = connection.execute(f'SELECT * FROM "{self.name}" ORDER BY id').fetchall()
        with self.graph() as driver:
            found = driver.execute_query(
                f"MATCH (n:{self.name}) RETURN properties(n) AS n ORDER BY n.id"
            ).records
        with pymongo.MongoClient(self.urls["mongo"]) as client:
            documents = list(client["crashes"][self.name].find(sort=[("_id", 1)]))
        return rows, [record["n"] for record in found], documents

    def leftovers(self):
        return leftovers(self.folder / "journal.db")

    def scenario(self, kind, pattern, path):
        """`asked`: without the store that cannot be asked, so that the end is told before it is journaled."""
        refused = ConstraintViolated("no", constraint="test")
        return Scenario(
            config=self.config(),
            operations=tuple(
                item for item in self.operations(kind) if path != "asked" or item["from"]["tag"] != "g"
            ),
            options={"pattern": pattern, "concurrency": "sequential"},
            failing=() if path != "back" else (("m.write", 2, refused),),
        )

    def operations(self, kind):
        """One step in PostgreSQL, one in Neo4j, two in MongoDB."""
        for tag, number in (("p", 1), ("g", 1), ("m", 1), ("m", 2)):
            key = "_id" if tag == "m" else "id"
            source = {"tag": tag, "entity": self.name}
            what = {
                "insert": {"data": {key: number + 2, "n": 30, "name": "three"}},
                "update": {"where": {key: number}, "data": {"n": {"$increment": 5}, "name": "changed"}},
                "upsert": {"data": [{key: number, "n": 11}, {key: number + 4, "n": 40}]},
                "delete": {"where": {key: number}},
            }[kind]
            yield {"operation": kind, "from": source, **what}


@pytest.fixture
def fresh(tmp_path, postgres, neo4j_server, mongo):
    """Makes a place. Its names have a constraint in Neo4j already: to make one locks the schema for everybody."""
    urls = {"postgres": postgres.url, "neo4j": neo4j_server.url, "mongo": mongo.url}
    names = [f"Things{uuid4().hex[:12]}" for _ in range(AT_ONCE)]
    free = [*names]
    with neo4j.GraphDatabase.driver(neo4j_server.url) as driver:
        for name in names:
            driver.execute_query(f"CREATE CONSTRAINT unique_{name} FOR (n:{name}) REQUIRE n.id IS UNIQUE")
        yield lambda: Place(urls, tmp_path, free).make()
        for name in names:
            driver.execute_query(f"DROP CONSTRAINT unique_{name}")


CASES = [
    *(
        (kind, "staged", path)
        for kind in ("insert", "update", "upsert", "delete")
        for path in ("forth", "back")
    ),
    ("update", "staged", "asked"),
    ("upsert", "saga", "forth"),
    ("insert", "saga", "back"),
    ("delete", "saga", "back"),
]


@pytest.mark.parametrize(("kind", "pattern", "path"), CASES)
async def test_killed_anywhere(fresh, kind, pattern, path):
    whole = fresh()
    before = whole.contents()
    forth = "forth" if path == "back" else path
    assert (await crash.run(whole.scenario(kind, pattern, forth))).outcome == "completed"
    after = whole.contents()
    assert after != before
    whole.remove()
    dry = fresh()
    ended = await crash.run(dry.scenario(kind, pattern, path))
    assert ended.outcome == ("compensated" if path == "back" else "completed")
    points = crash.points(ended, dry.scenario(kind, pattern, path).failing)
    dry.remove()
    problems = []
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def kill(point):
        for _ in range(TRIES):
            place = await anyio.to_thread.run_sync(fresh)
            died = await crash.run(place.scenario(kind, pattern, path), point)
            if died.killed:
                crash_points.note(__name__, point)
                return place
            assert (place.contents(), place.leftovers()) == (before if path == "back" else after, ([], 0))
            place.remove()
        raise AssertionError(f"{point} was not reached: {died}")

    async def killed(point):
        async with limit:
            place = await kill(point)
            recovery = await crash.recover(place.scenario(kind, pattern, path))
            contents, leftovers = place.contents(), place.leftovers()
            possible = [after] if point.call == "journal.complete" else [before, after]
            if recovery.error or leftovers != ([], 0) or contents not in possible:
                problems.append(f"{point}: {recovery} {leftovers} {contents}")
            place.remove()

    async with anyio.create_task_group() as tasks:
        for point in points:
            tasks.start_soon(killed, point)
    names = {re.sub(" #.*", "", str(point)) for point in points}
    last = "before journal.complete" if path == "asked" else "before journal.finish"
    assert {"before journal.decide", "after m.write", last} <= names
    # Held participants commit last, so that a staged transaction that fails before has committed nothing.
    assert ("after p.commit" in names) is ((pattern, path) != ("staged", "back"))
    assert not problems, "\n".join(problems)
