"""The commands and their options."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from warehouse.cli.check import examine, show, write_json
from warehouse.cli.recover import recover
from warehouse.config import read
from warehouse.errors import ConfigError, WarehouseError

app = typer.Typer(
    name="warehouse",
    help="One transaction over SQL, MongoDB, Neo4j and Qdrant that undoes itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warehouse {version('warehouse')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""


@app.command(
    short_help="Connect the journal and every store; show what each can do.",
    epilog="Exits with 0 if all is well, with 1 after any error. No password is ever shown.",
)
def check(
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a TOML file.")
    ] = Path("warehouse.toml"),
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Connect the journal and every configured store, and show what each is and can do.

    "held": steps are executed in the store's own open transaction, invisible until the commit; elsewhere they
    are planned, and written after the decision. "prepares": it could take part in two-phase commit. "guards":
    how far a write can be made to depend on what the record was before (full, partial, none).
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        report = examine(read(config))
    except ConfigError as error:
        errors.print(f"error: {error}", markup=False, style="red")
        raise typer.Exit(1) from None
    if json:
        write_json(report)
    else:
        show(report, Console(), errors)
    if not report.ok:
        raise typer.Exit(1)


@app.command(
    name="recover",
    short_help="Bring to an end what dead processes left open.",
    epilog="Exits with 0 if nothing is left open by the dead, with 1 if something is, or after any error.",
)
def recover_command(
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a TOML file.")
    ] = Path("warehouse.toml"),
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking until interrupted.")] = False,
) -> None:
    """Bring to an end, all or none, the transactions of processes that were killed or cut off.

    It takes one lease ([journal] lease) to tell the dead from the living. Every open Warehouse does the same by
    itself; this is for when none runs. Any number of them may run at the same time.
    """
    out, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        done = recover(read(config), out, errors, watch=watch)
    except WarehouseError as error:
        errors.print(f"error: {error}", markup=False, style="red")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    if not done:
        raise typer.Exit(1)
