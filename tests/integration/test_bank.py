"""A bank: writers in four processes move money between four stores, and are killed at random.

At the end the total is right, every transfer took effect once or not at all, as its caller was told, and the totals
that were read under locks meanwhile were right all the time.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import neo4j
import psycopg
import pymongo
import pymysql
import pytest
from sqlalchemy import make_url

from integration.bank import ACCOUNTS, LOCKABLE
from unit.test_journal import database
from warehouse import Warehouse

pytestmark = pytest.mark.timeout(600)
PROCESSES, LEASE, BALANCE = 4, 1.0, 100
SECONDS = float(os.environ.get("BANK_SECONDS", "60"))


class Vault:
    """The accounts in the stores, behind the warehouse's back."""

    def __init__(self, postgres, mariadb, mongo, graph):
        self.name = f"Bank{uuid4().hex[:12]}".lower()
        self.ledger = f"{self.name}_ledger"
        self.urls = {"pg": postgres.url, "maria": mariadb.url, "graph": graph.url, "doc": mongo.url}
        url = make_url(postgres.url).set(drivername="postgresql")
        self.pg = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
        my = make_url(mariadb.url)
        self.maria = pymysql.connect(
            host=my.host, port=my.port, user=my.username, password=my.password or "", database=my.database,
            autocommit=True,
        )  # fmt: skip
        self.driver = neo4j.GraphDatabase.driver(graph.url)
        self.mongo = pymongo.MongoClient(mongo.url)

    def make(self):
        names = [f"{group}{number}" for group in "la" for number in range(ACCOUNTS)]
        for connection in (self.pg, self.maria):
            cursor = connection.cursor()
            cursor.execute(f"CREATE TABLE {self.name} (id varchar(9) PRIMARY KEY, balance integer NOT NULL)")
            cursor.executemany(f"INSERT INTO {self.name} VALUES (%s, {BALANCE})", [(name,) for name in names])
        self.pg.execute(f"CREATE TABLE {self.ledger} (n bigserial PRIMARY KEY, key text NOT NULL)")
        self.driver.execute_query(f"CREATE CONSTRAINT {self.name} FOR (n:{self.name}) REQUIRE n.id IS UNIQUE")
        self.driver.execute_query(
            f"UNWIND $names AS name CREATE (:{self.name} {{id: name, balance: {BALANCE}}})", names=names
        )
        self.mongo["bank"][self.name].insert_many(
            {"_id": name, "balance": BALANCE} for name in names if name[0] == "a"
        )
        return self

    def balances(self):
        """By store and account."""
        out = {}
        for tag, connection in (("pg", self.pg), ("maria", self.maria)):
            cursor = connection.cursor()
            cursor.execute(f"SELECT id, balance FROM {self.name}")
            out |= {(tag, name): balance for name, balance in cursor.fetchall()}
        for record in self.driver.execute_query(f"MATCH (n:{self.name}) RETURN n.id, n.balance").records:
            out["graph", record[0]] = record[1]
        for document in self.mongo["bank"][self.name].find():
            out["doc", document["_id"]] = document["balance"]
        return out

    def lines(self):
        """How often each key is in the ledger."""
        return Counter(key for (key,) in self.pg.execute(f"SELECT key FROM {self.ledger}").fetchall())

    def remove(self):
        self.pg.execute(f"DROP TABLE {self.name}, {self.ledger}")
        self.maria.cursor().execute(f"DROP TABLE {self.name}")
        self.driver.execute_query(f"MATCH (n:{self.name}) DELETE n")
        self.driver.execute_query(f"DROP CONSTRAINT {self.name}")
        self.mongo["bank"].drop_collection(self.name)
        for open_ in (self.pg, self.maria, self.driver, self.mongo):
            open_.close()


def config_of(vault, journal, folder):
    return {
        "entity": vault.name,
        "ledger": vault.ledger,
        "done": str(folder / "done"),
        "stop": str(folder / "stop"),
        "warehouse": {
            "journal": {"url": journal, "lease": LEASE},
            "adapters": {
                "pg": {"adapter": "sql", "url": vault.urls["pg"]},
                "maria": {"adapter": "sql", "url": vault.urls["maria"]},
                "graph": {"adapter": "neo4j", "url": vault.urls["graph"]},
                "doc": {"adapter": "mongo", "url": vault.urls["doc"], "database": "bank", "settle": 0.3},
            },
            "transactions": {"grace": 5},
        },
    }


def run_and_kill(folder, seconds):
    """Run the processes for so many seconds; kill one now and then, and start another. How many were killed."""

    def start():
        seed = str(random.randrange(2**32))
        command = [sys.executable, "-m", "integration.bank", str(folder / "config"), seed]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "tests"}, stderr=errors)

    killed, end = 0, time.monotonic() + seconds
    with (folder / "errors").open("wb") as errors:
        processes = [start() for _ in range(PROCESSES)]
        while time.monotonic() < end:
            time.sleep(random.uniform(0.3, 1.5))
            victim = random.choice(processes)
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
            processes[processes.index(victim)] = start()
            killed += 1
        (folder / "stop").touch()
        ends = [process.wait(timeout=120) for process in processes]
    assert ends == [0] * PROCESSES, (folder / "errors").read_text(encoding="utf-8")[-3000:]
    return killed


def settle(config):
    """End what the dead left open; what is open then."""
    with Warehouse(**config["warehouse"]) as warehouse:
        for _ in range(30):
            warehouse.recover()
            left = warehouse.transactions(["running", "committing", "compensating"])
            if not left:
                break
            time.sleep(1)
        return [(item.transaction_id, item.status) for item in left], warehouse.transactions("failed")


def test_no_money_is_lost_or_made(tmp_path, postgres, mariadb, mongo, neo4j_server):
    vault = Vault(postgres, mariadb, mongo, neo4j_server).make()
    before = vault.balances()
    with database(postgres) as journal:
        config = config_of(vault, journal, tmp_path)
        (tmp_path / "config").write_text(json.dumps(config), encoding="utf-8")
        killed = run_and_kill(tmp_path, SECONDS)
        assert settle(config) == ([], [])
    said = [json.loads(line) for line in Path(config["done"]).read_text(encoding="utf-8").splitlines()]
    after, lines = vault.balances(), vault.lines()
    vault.remove()
    ends = Counter(how for key, how in said if key != "read")
    totals = Counter(how for key, how in said if key == "read")
    summary = f"{killed} killed; transfers {dict(ends)}; reads {dict(totals)}"
    for group in "la":
        inside = [sum(v for (_, name), v in b.items() if name[0] == group) for b in (before, after)]
        assert inside[0] == inside[1], f"group {group}: {inside}; {summary}"
    assert all(balance >= 0 for balance in after.values())
    assert max(lines.values()) == 1, summary
    completed = {key for key, how in said if how == "completed"}
    undone = {key for key, how in said if how == "compensated"} - completed
    assert completed <= lines.keys(), summary
    assert not undone & lines.keys(), summary
    assert {how for how in totals if isinstance(how, int)} == {BALANCE * ACCOUNTS * len(LOCKABLE)}, summary
    assert killed >= SECONDS / 4
    assert ends["completed"] > 2 * SECONDS, summary
    sys.stdout.write(summary + "\n")
