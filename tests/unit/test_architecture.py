"""The package knows no driver and no adapter; what is public is said; types are shipped and hold."""

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import warehouse

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = [
    "psycopg",
    "pymongo",
    "bson",
    "neo4j",
    "qdrant_client",
    "asyncmy",
    "aiosqlite",
    "redis",
    "typer",
    "rich",
]
SOURCES = sorted((ROOT / "warehouse").rglob("*.py"))


def imports(path, *, everywhere):
    """The modules that a source file imports: at its top level, or anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module


def test_there_are_sources():
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_an_adapter_or_a_driver(path):
    found = {name.partition(".")[0] for name in imports(path, everywhere=True)}
    allowed = {"typer", "rich"} if "cli" in path.parts else set()
    if "journal" in path.parts and path.stem.startswith("redis"):
        allowed = {"redis"}  # no library speaks for all journals that are not SQL
    assert not found & {"warehouse_adapters", "servers", "tests"}
    assert not found & (set(DRIVERS) - allowed)


def test_the_pure_core_does_no_io():
    for name in ("records", "undo", "conditions", "updates", "results"):
        found = {
            module.partition(".")[0] for module in imports(ROOT / "warehouse" / f"{name}.py", everywhere=True)
        }
        assert not found & {"anyio", "asyncio", "os", "pathlib", "socket", "sqlalchemy", "threading"}, name


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("records.py", {"warehouse"}),
        ("errors.py", {"warehouse.engine", "warehouse.journal", "warehouse.adapter"}),
        ("undo.py", {"warehouse.engine", "warehouse.journal", "warehouse.adapter"}),
        ("adapter.py", {"warehouse.engine", "warehouse.journal", "warehouse.client"}),
        ("planning.py", {"warehouse.engine", "warehouse.journal", "warehouse.client"}),
        ("journal", {"warehouse.engine", "warehouse.client", "warehouse.sync"}),
        ("engine", {"warehouse.client", "warehouse.sync", "warehouse.interactive", "warehouse.testing"}),
        ("client.py", {"warehouse.sync", "warehouse.testing", "warehouse.cli"}),
    ],
)
def test_layers_look_down_only(layer, forbidden):
    place = ROOT / "warehouse" / layer
    for path in [place] if place.is_file() else place.rglob("*.py"):
        for name in imports(path, everywhere=True):
            assert not any(name == item or name.startswith(item + ".") for item in forbidden), (
                f"{path}: {name}"
            )


def test_importing_it_loads_no_driver():
    unwanted = [*DRIVERS, "warehouse_adapters", "pytest"]
    code = f"import sys, warehouse; print(*[name for name in {unwanted} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert ended.stdout.split() == []


def test_every_public_name_is_listed():
    named = {name for name in vars(warehouse) if not name.startswith("_")}
    modules = {name for name in named if type(getattr(warehouse, name)).__name__ == "module"}
    assert named - modules - {"annotations"} == set(warehouse.__all__)
    assert warehouse.__all__ == sorted(warehouse.__all__)
    for name in warehouse.__all__:
        assert getattr(warehouse, name).__doc__ or name == "Operation", name


def test_all_errors_are_public_and_of_one_family():
    from warehouse import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for kind in kinds:
        assert issubclass(kind, warehouse.WarehouseError)
        assert kind.__name__ in warehouse.__all__
    transient = {kind.__name__ for kind in kinds if issubclass(kind, warehouse.TransientError)}
    assert transient == {
        "TransientError",
        "StoreUnavailable",
        "StoreContention",
        "StoreOutcomeUnknown",
        "TransactionConflict",
        "ReadConflict",
    }


def test_types_are_shipped():
    import warehouse_adapters

    for package in (warehouse, warehouse_adapters):
        assert (Path(package.__file__).parent / "py.typed").exists()


def test_every_adapter_is_an_entry_point_of_the_right_kind():
    for point in entry_points(group="warehouse.adapters"):
        kind = point.load()
        assert issubclass(kind.Settings, __import__("warehouse.config", fromlist=["x"]).AdapterSettings), (
            point.name
        )
        for verb in ("connect", "close", "describe", "check", "unit", "find", "outcome"):
            assert callable(getattr(kind, verb)), f"{point.name}.{verb}"


def test_the_typed_sample_holds():
    """`typed_use.py` beside this file, as a user's program: nothing in it is wrong, and nothing comes out as Any."""
    sample = Path(__file__).with_name("typed_use.py")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-incremental",
            "--follow-imports=silent",
            "--config-file=",
            str(sample),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
