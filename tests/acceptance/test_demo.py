import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
RUN = [sys.executable, "-W", "error", str(DEMO)]


@pytest.fixture
def demo(tmp_path):
    """Runs the demo in an empty folder."""

    def run(*arguments, **environment):
        here = tmp_path / "here"
        here.mkdir(exist_ok=True)
        done = subprocess.run(
            [*RUN, *arguments],
            cwd=here,
            env={**os.environ, "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert not list(here.iterdir()), "it left files behind"
        return done

    return run


def check(output, *, stored, compensated):
    """The output of a run in which all went as it should."""
    assert f"{stored} completed, {compensated} compensated, 0 failed" in output
    table = output.partition("read back")[2]
    for tag in ("records", "documents", "graph", "vectors"):
        assert re.search(rf"{tag} +{stored} +0 +0", table)
    assert "All stores agree." in output
    assert "The states with most airports" in output
    near = output.partition("nearest to")[2].splitlines()[2:7]
    distances = [float(line.split()[-1]) for line in near]
    assert distances == sorted(distances)
    assert len(distances) == 5


def test_embedded_stores(demo):
    done = demo("--limit", "90", "--fail-every", "10")
    assert (done.returncode, done.stderr) == (0, "")
    check(done.stdout, stored=81, compensated=9)
    assert all(store in done.stdout for store in ("SQLite", "ArcadeDB", "Qdrant (local mode)"))
    whys = (
        "UNIQUE constraint",
        "NOT NULL constraint",
        "FOREIGN KEY constraint",
        "expected affected_rows 1, found 0",
    )
    for why in whys:
        assert why in done.stdout


def test_without_arcadedb_the_graph_is_in_memory_and_it_says_so(demo, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "arcadedb_embedded.py").write_text(
        "raise ImportError('no wheel for this machine')"
    )
    done = demo("--limit", "30", "--fail-every", "10", PYTHONPATH=str(tmp_path / "broken"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no wheel for this machine" in done.stdout
    assert "graph is kept in memory" in " ".join(done.stdout.split())
    check(done.stdout, stored=27, compensated=3)


def test_real_servers(demo, postgres, mongo, neo4j_server):
    done = demo(
        *("--stores", "servers", "--limit", "60", "--fail-every", "10"),
        WAREHOUSE_TEST_POSTGRES_URL=postgres.url,
        WAREHOUSE_TEST_MONGO_URL=mongo.url,
        WAREHOUSE_TEST_NEO4J_URL=neo4j_server.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    check(done.stdout, stored=54, compensated=6)
    assert all(store in done.stdout for store in ("PostgreSQL", "MongoDB", "Neo4j", "Qdrant"))


def test_real_servers_must_be_named(demo):
    absent = {name: "" for name in os.environ if name.startswith("WAREHOUSE_TEST_")}
    done = demo("--stores", "servers", **absent)
    assert done.returncode == 1
    assert "make demo STORES=servers" in done.stderr


def test_a_folder_keeps_the_files_and_must_be_empty(demo, tmp_path):
    folder = tmp_path / "kept"
    assert demo("--limit", "12", "--fail-every", "5", "--folder", str(folder)).returncode == 0
    assert {"records.db", "documents.db", "graph", "vectors", "journal.db"} <= {
        path.name for path in folder.iterdir()
    }
    again = demo("--limit", "12", "--folder", str(folder))
    assert (again.returncode, again.stdout) == (1, "")
    assert "is not empty" in again.stderr


def test_it_notices_a_store_that_does_not_agree(demo, tmp_path):
    """A saboteur: a `sitecustomize` that removes a point behind the back of the demo."""
    (tmp_path / "sitecustomize.py").write_text(
        "from warehouse_adapters.qdrant.adapter import QdrantAdapter\n"
        "find = QdrantAdapter.find\n"
        "async def short(self, query):\n"
        "    return (await find(self, query))[1:]\n"
        "QdrantAdapter.find = short\n"
    )
    done = demo("--limit", "12", "--fail-every", "5", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "The stores do not agree." in done.stdout


def test_control_c_stops_it_quietly(tmp_path):
    process = subprocess.Popen(
        RUN, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ArcadeDB" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
