"""A pytest plugin that prints, after the contract suite, what every adapter can do: adapter x capability.

Name it in a `conftest.py`: `from warehouse.testing.matrix import pytest_terminal_summary`.
"""

from __future__ import annotations

from typing import Final

import pytest

PROPERTY: Final = "warehouse-contract"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix of what the tests of this run noted."""
    cells = _cells(terminalreporter)
    if not cells:
        return
    adapters = sorted({adapter for adapter, _ in cells})
    capabilities = sorted({capability for _, capability in cells})
    width = max(map(len, capabilities))
    widths = [max(len(adapter), len("refused")) for adapter in adapters]
    terminalreporter.section("contract: what the adapters can do")
    terminalreporter.write_line("  ".join([" " * width, *map(str.ljust, adapters, widths)]).rstrip())
    for capability in capabilities:
        row = [cells.get((adapter, capability), "") for adapter in adapters]
        terminalreporter.write_line(
            "  ".join([capability.ljust(width), *map(str.ljust, row, widths)]).rstrip()
        )


def _cells(terminalreporter: pytest.TerminalReporter) -> dict[tuple[str, str], str]:
    """The cells by adapter and capability.

    `yes`, `refused` (by declaration), `untried` (the store holds no field for it), or
    `FAILED` where a test of it failed.
    """
    cells: dict[tuple[str, str], str] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    adapter, capability, state = value
                    cells[adapter, capability] = state if outcome == "passed" else "FAILED"
    return cells
