"""As `test_crashes`, in two-phase commit on PostgreSQL and MariaDB: nothing stays prepared, whoever died where."""

import re
import shutil
from pathlib import Path
from uuid import uuid4

import anyio
import psycopg
import pymysql
import pytest
from sqlalchemy import make_url

from integration import crash_points
from integration.test_crashes import AT_ONCE, HELD, LEASE, leftovers
from warehouse.errors import ConstraintViolated
from warehouse.testing import crash
from warehouse.testing.crash import Scenario

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
FILLED = [(1, 10, "one"), (2, 20, "two")]


class Place:
    """A table of the same name in both databases, and a journal."""

    def __init__(self, urls: dict[str, str], folder: Path) -> None:
        self.urls = urls
        self.folder = folder / uuid4().hex
        self.name = f"crash_{uuid4().hex[:12]}"

    def config(self):
        return {
            "journal": {"url": f"sqlite:///{self.folder}/journal.db", "lease": LEASE},
            "adapters": {
                "p": {"adapter": "sql", "url": self.urls["postgres"]},
                "m": {"adapter": "sql", "url": self.urls["mariadb"]},
            },
            "transactions": {"grace": 5, "lock_timeout": 5},
        }

    def postgres(self):
        url = make_url(self.urls["postgres"]).set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

    def mariadb(self):
        url = make_url(self.urls["mariadb"])
        return pymysql.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password or "",
            database=url.database,
            autocommit=True,
        )

    def _everywhere(self, text, rows=None):
        with self.postgres() as one, self.mariadb() as two:
            for connection in (one, two):
                cursor = connection.cursor()
                cursor.executemany(text, rows) if rows else cursor.execute(text)

    def make(self):
        self.folder.mkdir()
        self._everywhere(f"CREATE TABLE {self.name} (id integer PRIMARY KEY, n integer, name varchar(20))")
        self._everywhere(f"INSERT INTO {self.name} VALUES (%s, %s, %s)", FILLED)
        return self

    def remove(self):
        shutil.rmtree(self.folder)
        self._everywhere(f"DROP TABLE {self.name}")

    def contents(self):
        out = []
        with self.postgres() as one, self.mariadb() as two:
            for connection in (one, two):
                cursor = connection.cursor()
                cursor.execute(f"SELECT id, n, name FROM {self.name} ORDER BY id")
                out.append(list(cursor.fetchall()))
        return out

    def leftovers(self):
        """Of the journal, as `leftovers`; and what waits for a lock on the tables, as what is prepared makes it."""
        with self.postgres() as one, self.mariadb() as two:
            one.execute("SET lock_timeout = '3s'")
            one.execute(f"SELECT 1 FROM {self.name} FOR UPDATE")
            with two.cursor() as cursor:
                cursor.execute("SET innodb_lock_wait_timeout = 3")
                cursor.execute(f"SELECT 1 FROM {self.name} FOR UPDATE")
        return leftovers(self.folder / "journal.db")

    def scenario(self, kind, path):
        """`held`: staged and prepared, then committed by name."""
        refused = ConstraintViolated("no", constraint="test")
        if path == "held":
            return Scenario(config=self.config(), operations=tuple(self.operations(kind)), held=HELD)
        return Scenario(
            config=self.config(),
            operations=tuple(self.operations(kind)),
            options={"pattern": "two_phase_commit", "concurrency": "sequential"},
            failing=() if path == "forth" else (("m.prepare", 1, refused),),
        )

    def operations(self, kind):
        for tag in ("p", "m"):
            what = {
                "insert": {"data": {"id": 3, "n": 30, "name": "three"}},
                "update": {"where": {"id": 1}, "data": {"n": {"$increment": 5}, "name": "changed"}},
                "upsert": {"data": [{"id": 1, "n": 11}, {"id": 5, "n": 40}]},
                "delete": {"where": {"id": 1}},
            }[kind]
            yield {"operation": kind, "from": {"tag": tag, "entity": self.name}, **what}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("insert", "forth"),
        ("update", "back"),
        ("upsert", "forth"),
        ("delete", "back"),
        ("update", "held"),
        ("delete", "held"),
    ],
)
async def test_killed_anywhere(tmp_path, postgres, mariadb, kind, path):
    def fresh():
        return Place({"postgres": postgres.url, "mariadb": mariadb.url}, tmp_path).make()

    whole, dry = fresh(), fresh()
    before = whole.contents()
    assert (await crash.run(whole.scenario(kind, "forth"))).outcome == "completed"
    after = whole.contents()
    assert after != before
    scenario = dry.scenario(kind, path)
    ended = await crash.run(scenario)
    assert ended.outcome == ("compensated" if path == "back" else "completed")
    points = crash.points(ended, scenario.failing)
    names = " ".join(map(str, points))
    last = {"forth": "after m.commit", "back": "after p.prepare", "held": "after m.finish"}[path]
    assert re.search(last, names)
    problems = []
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def killed(point):
        async with limit:
            place = await anyio.to_thread.run_sync(fresh)
            died = await crash.run(place.scenario(kind, path), point)
            assert died.killed, f"{point} was not reached: {died}"
            crash_points.note(__name__, point)
            if path == "held":
                await anyio.sleep(HELD)
            recovery = await crash.recover(place.scenario(kind, path))
            contents, left = place.contents(), place.leftovers()
            if recovery.error or left != ([], 0) or contents not in (before, after):
                problems.append(f"{point}: {recovery} {left} {contents}")
            elif path == "back" and contents != before:
                problems.append(f"{point}: not undone")
            place.remove()

    async with anyio.create_task_group() as tasks:
        for point in points:
            tasks.start_soon(killed, point)
    for place in (whole, dry):
        place.remove()
    assert problems == []


async def test_what_others_have_prepared_is_left_alone(tmp_path, postgres):
    place = Place({"postgres": postgres.url, "mariadb": ""}, tmp_path)
    gids = [f"theirs-{uuid4().hex}", f"warehouse_{uuid4().hex}"]
    with place.postgres() as connection:
        connection.execute(f"CREATE TABLE {place.name} (id integer PRIMARY KEY)")
        for number, gid in enumerate(gids):
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO {place.name} VALUES ({number})")
            connection.execute(f"PREPARE TRANSACTION '{gid}'")
        place.folder.mkdir()
        config = place.config()
        del config["adapters"]["m"]
        assert (await crash.recover(Scenario(config=config, operations=()))).outcome == {}
        found = connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall()
        assert {gid for (gid,) in found} >= set(gids)
        for gid in gids:
            connection.execute(f"ROLLBACK PREPARED '{gid}'")
        connection.execute(f"DROP TABLE {place.name}")
