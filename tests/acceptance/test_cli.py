import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from warehouse import Warehouse

WAREHOUSE = Path(sys.executable).parent / "warehouse"
CONFIG = """
[journal]
url = "sqlite:///journal.db"
[adapters.cache]
adapter = "memory"
[adapters.social]
adapter = "memory"
type = "graph"
[adapters.rows]
adapter = "sql"
url = "sqlite:///rows.db"
[adapters.points]
adapter = "qdrant"
path = "points"
"""
DEAD = {
    "mongo": 'adapter = "mongo"\nurl = "mongodb://me:hunter2@127.0.0.1:1/"\ndatabase = "x"\nconnect_timeout = 0.5',
    "postgres": 'adapter = "sql"\nurl = "postgresql+psycopg://me:hunter2@127.0.0.1:1/x"\nconnect_timeout = 2',
    "mariadb": 'adapter = "sql"\nurl = "mysql+asyncmy://me:hunter2@127.0.0.1:1/x"\nconnect_timeout = 2',
    "neo4j": 'adapter = "neo4j"\nurl = "bolt://127.0.0.1:1"\nuser = "me"\npassword = "hunter2"\nconnect_timeout = 2',
    "qdrant": 'adapter = "qdrant"\nurl = "http://127.0.0.1:1"\napi_key = "hunter2"\nconnect_timeout = 2',
}


@pytest.fixture
def warehouse(tmp_path):
    """Runs the command in a folder that has `warehouse.toml`."""
    (tmp_path / "warehouse.toml").write_text(CONFIG)

    def run(*arguments, **environment):
        return subprocess.run(
            [WAREHOUSE, *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_check_shows_every_store_as_a_table(warehouse):
    done = warehouse("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "journal: sqlite" in done.stdout
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    assert set(rows) == {"cache", "social", "rows", "points"}
    assert all(row.split()[-2] == "ok" for row in rows.values())
    assert "SQLite" in rows["rows"]
    assert "partial" in rows["points"]
    assert "graph" in rows["social"]


def test_check_as_json(warehouse):
    done = warehouse("check", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["journal"]["ok"]) == (0, True, True)
    assert found["stores"]["rows"]["holds"] is True
    assert found["stores"]["points"]["holds"] is False
    assert found["stores"]["points"]["guards"] == "partial"


@pytest.mark.parametrize("kind", DEAD)
def test_a_store_that_is_away_is_an_error_without_its_password(warehouse, tmp_path, kind):
    with (tmp_path / "warehouse.toml").open("a") as file:
        file.write(f"[adapters.away]\n{DEAD[kind]}\n")
    for arguments in (["check"], ["check", "--json"]):
        done = warehouse(*arguments)
        assert done.returncode == 1
        assert "away" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["stores"]["rows"]["ok"] is True
    assert json.loads(done.stdout)["stores"]["away"]["error"].startswith("away: ")


def test_a_journal_that_is_away_is_an_error_and_the_stores_are_asked_all_the_same(warehouse, tmp_path):
    config = CONFIG.replace("sqlite:///journal.db", "postgresql+psycopg://me:hunter2@127.0.0.1:1/x")
    (tmp_path / "warehouse.toml").write_text(config)
    done = warehouse("check", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["journal"]["ok"]) == (1, False, False)
    assert found["stores"]["rows"]["ok"] is True
    assert "hunter2" not in done.stdout + done.stderr
    shown = warehouse("check")
    assert shown.returncode == 1
    assert "journal: " in shown.stderr
    assert "hunter2" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "cannot be read"),
        ("[adapters", "is not TOML"),
        ('[adapters.a]\nadapter = "memry"', "did you mean 'memory'?"),
        ('[adapters.a]\nadapter = "memory"\nkind = "graph"', "unknown key adapters.a.kind"),
        ('[adapters.a]\nadapter = "sql"\nurl = "${NOT_SET_ANYWHERE}"', "NOT_SET_ANYWHERE"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_in_a_line(warehouse, tmp_path, config, message):
    path = tmp_path / "warehouse.toml"
    path.unlink() if config is None else path.write_text(config)
    done = warehouse("check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_another_file_can_be_named(warehouse, tmp_path):
    (tmp_path / "warehouse.toml").rename(tmp_path / "other.toml")
    assert warehouse("check", "--config", "other.toml").returncode == 0
    assert warehouse("check").returncode == 1


def test_version_and_help(warehouse):
    assert warehouse("--version").stdout == "warehouse 0.1.0\n"
    assert "check" in warehouse("--help").stdout
    text = warehouse("check", "--help").stdout
    assert all(word in text for word in ("--config", "--json", "held", "guards"))


def test_without_typer_it_says_what_to_install(warehouse, tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no', name='typer')")
    done = warehouse("check", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "the command line needs typer: pip install 'warehouse[cli]'\n"


CRASHING = """
import asyncio, os
from warehouse import AsyncWarehouse
from warehouse.testing.faults import inject

async def main():
    warehouse = AsyncWarehouse.from_config("warehouse.toml")
    async def die():
        os.kill(os.getpid(), 9)
    inject(warehouse).after("journal.decide", die)
    place = lambda tag: {"tag": tag, "entity": "things"}
    steps = [{"operation": "insert", "from": place(tag), "data": {"id": 1}} for tag in ("rows", "more")]
    await warehouse.transaction(steps, name="orders")

asyncio.run(main())
"""


def test_recover_ends_what_a_killed_process_left(warehouse, tmp_path):
    (tmp_path / "warehouse.toml").write_text(
        '[journal]\nurl = "sqlite:///journal.db"\nlease = 0.5\n'
        '[adapters.rows]\nadapter = "sql"\nurl = "sqlite:///rows.db"\n'
        '[adapters.more]\nadapter = "sql"\nurl = "sqlite:///more.db"\n'
    )
    for name in ("rows", "more"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection, connection:
            connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    died = subprocess.run([sys.executable, "-c", CRASHING], cwd=tmp_path, check=False)
    assert died.returncode == -signal.SIGKILL
    done = warehouse("recover")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^[0-9a-f]{32} \(orders\): completed$", done.stdout, re.MULTILINE)
    for name in ("rows", "more"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            assert connection.execute("SELECT id FROM things").fetchall() == [(1,)]
    done = warehouse("recover")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing is left open" in done.stdout


def test_recover_says_what_it_cannot_end(warehouse, tmp_path):
    test_recover_ends_what_a_killed_process_left(warehouse, tmp_path)
    subprocess.run([sys.executable, "-c", CRASHING.replace('"id": 1', '"id": 2')], cwd=tmp_path, check=False)
    text = (tmp_path / "warehouse.toml").read_text()
    (tmp_path / "warehouse.toml").write_text(text.partition("[adapters.more]")[0])
    done = warehouse("recover")
    assert done.returncode == 1
    assert "no adapter reaches the store of step 'step_1', which had the tag 'more'" in done.stderr
    (tmp_path / "warehouse.toml").write_text(text)
    assert warehouse("recover").returncode == 0


DOING = """
from warehouse import Warehouse

with Warehouse.from_config("warehouse.toml") as warehouse:
    place = {"tag": "rows", "entity": "things"}
    first = warehouse.transaction(
        [
            {"operation": "insert", "from": place, "data": {"id": 1, "name": "one"}},
            {"operation": "insert", "from": {"tag": "more", "entity": "things"}, "data": {"id": 1}},
        ],
        name="orders",
    )
    second = warehouse.transaction(
        [{"operation": "update", "from": place, "where": {"id": 1}, "data": {"name": "two [bold]"}}]
    )
    print(first.transaction_id, second.transaction_id)
"""


def test_transactions_are_listed_shown_and_undone(warehouse, tmp_path):
    (tmp_path / "warehouse.toml").write_text(
        '[journal]\nurl = "sqlite:///journal.db"\n'
        '[adapters.rows]\nadapter = "sql"\nurl = "sqlite:///rows.db"\n'
        '[adapters.more]\nadapter = "sql"\nurl = "sqlite:///more.db"\n'
    )
    for name in ("rows", "more"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection, connection:
            connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT)")
    done = subprocess.run(
        [sys.executable, "-c", DOING], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    first, second = done.stdout.split()

    listed = warehouse("transactions")
    assert listed.returncode == 0
    assert [line.split()[1] for line in listed.stdout.splitlines() if "completed" in line] == [second, first]
    assert "orders" in listed.stdout
    assert (
        json.loads(warehouse("transactions", "--json", "--limit", "1").stdout)[0]["transaction_id"] == second
    )
    assert "no transactions" in warehouse("transactions", "--status", "failed").stdout
    assert "did you mean 'failed'" in warehouse("transactions", "--status", "faild").stderr

    shown = warehouse("show", second).stdout
    assert 'updated things {"id": 1}' in shown
    assert 'name: "one" -> "two [bold]"' in shown
    assert json.loads(warehouse("show", first, "--json").stdout)["steps"][1]["tag"] == "more"

    history = warehouse("history", "rows", "things", "id=1").stdout
    assert [line.split()[3] for line in history.splitlines() if " by " in line] == ["updated", "inserted"]
    assert "not of the form field=value" in warehouse("history", "rows", "things", "1").stderr

    refused = warehouse("undo", first)
    assert refused.returncode == 1
    assert "field 'name' - conflict: expected 'one', found 'two [bold]'" in refused.stderr
    undone = warehouse("undo", second)
    assert (undone.returncode, undone.stderr) == (0, "")
    assert warehouse("undo", first).returncode == 0
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection:
        assert connection.execute("SELECT * FROM things").fetchall() == []

    unknown = warehouse("undo", "nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "error: the journal has no transaction 'nobody'\n")
    assert "not failed" in warehouse("resolve", first, "--accept").stderr
    assert warehouse("resolve", first).returncode == 2


def test_what_is_held_is_ended_and_what_is_known_forgotten(warehouse, tmp_path):
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection, connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    config = {
        "journal": {"url": f"sqlite:///{tmp_path}/journal.db"},
        "adapters": {"rows": {"adapter": "sql", "url": f"sqlite:///{tmp_path}/rows.db"}},
    }
    lines = [f'[journal]\nurl = "{config["journal"]["url"]}"', "[adapters.rows]"]
    lines += [f'{name} = "{value}"' for name, value in config["adapters"]["rows"].items()]
    (tmp_path / "warehouse.toml").write_text("\n".join(lines), encoding="utf-8")
    with Warehouse.from_config(config) as ours:
        for number, name in enumerate(("one", "two")):
            with ours.begin(name, hold=True) as tx:
                tx.insert(None, "rows", "things", {"id": number})
    assert warehouse("transactions", "--status", "held").stdout.count("held") == 2
    assert "completed" in warehouse("commit", "one").stdout
    assert "compensated" in warehouse("rollback", "two").stdout
    again = warehouse("commit", "one")
    assert (again.returncode, "is not held any more: it is completed" in again.stderr) == (1, True)
    assert "no transaction is held under the name 'nobody'" in warehouse("commit", "nobody").stderr
    assert "inserted" in warehouse("history", "rows", "things", "id=0").stdout
    assert warehouse("forget", "rows", "things", "id=0").stdout == "erased from 1 transaction\n"
    assert warehouse("history", "rows", "things", "id=0").stdout == "no changes\n"
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection:
        assert connection.execute("SELECT * FROM things").fetchall() == [(0,)]
