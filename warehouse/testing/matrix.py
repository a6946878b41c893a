"""A pytest plugin that prints, after the contract suite, what every adapter can do: adapter x capability.

Name it in a `conftest.py`: `from warehouse.testing.matrix import pytest_terminal_summary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import pytest

PROPERTY: Final = "warehouse-contract"
Cells: TypeAlias = dict[tuple[str, str], str]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix of what the tests of this run noted."""
    rows = table(noted(terminalreporter))
    if not rows:
        return
    terminalreporter.section("contract: what the adapters can do")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        terminalreporter.write_line("  ".join(map(str.ljust, row, widths)).rstrip())


def noted(terminalreporter: pytest.TerminalReporter) -> Cells:
    """What the tests of this run noted, by adapter and capability.

    `yes`, `refused` (by declaration), `untried` (the store holds no field for it), or another value;
    `FAILED` where a test of it failed.
    """
    cells: Cells = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    adapter, capability, state = value
                    cells[adapter, capability] = state if outcome == "passed" else "FAILED"
    return cells


def table(cells: Mapping[tuple[str, str], str]) -> list[list[str]]:
    """The matrix as rows: the adapters, and then each capability with what each of them does."""
    if not cells:
        return []
    adapters = sorted({adapter for adapter, _ in cells})
    capabilities = sorted({capability for _, capability in cells})
    return [["", *adapters]] + [
        [capability, *(cells.get((adapter, capability), "") for adapter in adapters)]
        for capability in capabilities
    ]


def markdown(cells: Mapping[tuple[str, str], str]) -> str:
    """The matrix as a table for the docs."""
    head, *rows = table(cells)
    lines = [" | ".join(head), " | ".join(["---", *[":-:"] * (len(head) - 1)])]
    lines += [" | ".join([f"`{row[0]}`" if row[0].startswith("$") else row[0], *row[1:]]) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
