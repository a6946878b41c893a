"""The command `warehouse`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; says what to install where typer or rich is missing."""
    try:
        from warehouse.cli.app import app
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.exit(f"the command line needs {error.name}: pip install 'warehouse[cli]'")
    app()
