import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from acceptance.operator_table import TYPES_FILE, ask, render, render_types, written
from warehouse import Warehouse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def python(code, folder):
    path = folder / "code.py"
    path.write_text(code)
    return subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_first_example_prints_what_stands_below_it(tmp_path):
    done = python(blocks(README, "python")[0], tmp_path)
    assert (done.stdout, done.stderr) == (blocks(README, "text")[0], "")


def test_the_other_code_runs(tmp_path):
    for code in blocks(README, "python")[1:]:
        assert python(code, tmp_path).returncode == 0


def test_the_configuration_is_valid(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("NEO4J_PASSWORD", "secret")
    (toml,) = blocks(README, "toml")
    Warehouse.from_config(tomllib.loads(toml))


def test_the_adapter_of_the_documentation_passes_the_contract(tmp_path):
    (code,) = blocks((ROOT / "docs" / "adapters.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "test_mine.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d\d+ passed", done.stdout, re.MULTILINE)


@pytest.mark.anyio
async def test_the_table_of_operators_is_current(postgres, mariadb, mongo, neo4j_server):
    urls = {"postgres": postgres.url, "mariadb": mariadb.url, "mongo": mongo.url, "neo4j": neo4j_server.url}
    assert render(await ask(urls)) == written(), "run tests/acceptance/operator_table.py"


def test_the_tables_of_types_are_those_that_are_tried():
    found = TYPES_FILE.read_text(encoding="utf-8")
    assert found == render_types(), "run tests/acceptance/operator_table.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        assert (page.parent / path).exists() if path else anchor in anchors(text), target


def anchors(text):
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_nothing_in_them_belongs_to_one_machine(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    assert os.uname().nodename not in text
