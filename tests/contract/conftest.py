"""After the whole contract suite, docs/capabilities.md must say what it found.

`WAREHOUSE_REWRITE=1 pytest tests/contract` writes it anew.
"""

import os
from importlib import import_module
from pathlib import Path

from warehouse.testing import matrix

FILE = Path(__file__).parents[2] / "docs" / "capabilities.md"
HEAD = """# What each adapter can do

As the contract suite found it: `yes`, `refused` (the adapter declares that it cannot, and refuses it before
anything runs), or `untried` (the store holds no field for it). Which types each store keeps is in
[types.md](types.md). A capability in brackets is what the adapter declares; the engine chooses by it.

`mongo` is mongo-java-server, which has no transactions, and `mongo-peer` a scripted server that has them; the
scripted `qdrant-peer-1.16` and `1.17` check what is said to a server, and `memory` is in three kinds, too.

"""


def pytest_terminal_summary(terminalreporter):
    matrix.pytest_terminal_summary(terminalreporter)
    cells = {
        place: state for place, state in matrix.noted(terminalreporter).items() if _is_for_the_docs(place[1])
    }
    option = terminalreporter.config.option
    if option.keyword or option.markexpr or {adapter for adapter, _ in cells} < _expected():
        return  # a part of the suite
    text = HEAD + matrix.markdown(cells)
    if os.environ.get("WAREHOUSE_REWRITE"):
        FILE.write_text(text, encoding="utf-8")
    elif text != FILE.read_text(encoding="utf-8"):
        terminalreporter.write_line(f"{FILE.name} says something else: see {__file__}", red=True)
        terminalreporter._session.exitstatus = 1


def _is_for_the_docs(capability):
    return not capability.startswith("type ") and not capability.endswith(" records")


def _expected():
    """The adapters that run without an address of a server."""
    modules = [import_module(f"contract.{path.stem}") for path in Path(__file__).parent.glob("harness_*.py")]
    kinds = [kind for module in modules for kind in module.HARNESSES]
    return {kind.name for kind in kinds if not getattr(kind, "marks", ())}
