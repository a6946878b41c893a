"""The commands and their options."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from warehouse.cli.archive import (
    list_transactions,
    parse_key,
    show_history,
    show_result,
    show_transaction,
)
from warehouse.cli.check import examine, show, write_json
from warehouse.cli.recover import recover
from warehouse.config import read
from warehouse.errors import ConfigError, WarehouseError
from warehouse.sync import Warehouse

app = typer.Typer(
    name="warehouse",
    help="One transaction over SQL, MongoDB, Neo4j and Qdrant that undoes itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a TOML file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The transaction's id.")]
Tag = Annotated[str, typer.Argument(help="The tag of its store.")]
EntityName = Annotated[str, typer.Argument(help="Its table, collection, label or relationship type.")]
Key = Annotated[list[str], typer.Argument(metavar="FIELD=VALUE...", help="Its key; values are JSON or text.")]
Related = Annotated[bool, typer.Option("--relationship", help="It is a relationship.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that it is held under.")]
DEFAULT = Path("warehouse.toml")


class OnConflict(enum.StrEnum):
    """What undo does with what somebody changed since."""

    refuse = "refuse"
    skip = "skip"
    force = "force"


@contextmanager
def _opened(config: Path) -> Iterator[tuple[Warehouse, Console, Console]]:
    """An open Warehouse, and where to print results and errors. Exits with 1 after an error of ours."""
    out, errors = (
        Console(soft_wrap=True, highlight=False),
        Console(stderr=True, soft_wrap=True, highlight=False),
    )
    try:
        given = read(config)
        given["journal"] = {**given.get("journal", {}), "recover": "manual"}
        with Warehouse(**given) as warehouse:
            yield warehouse, out, errors
    except WarehouseError as error:
        errors.print(f"error: {error}", markup=False, style="red")
        raise typer.Exit(1) from None


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
    config: Config = DEFAULT,
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
    config: Config = DEFAULT,
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


@app.command(name="transactions", short_help="List the last transactions of the journal.")
def transactions_command(
    config: Config = DEFAULT,
    *,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only of this status; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    json: Json = False,
) -> None:
    """List the last transactions of the journal, newest first.

    The statuses are held, running, committing, compensating (they are open); completed, compensated, failed.
    """
    with _opened(config) as (warehouse, out, _):
        found = warehouse.transactions(status or None, limit)  # type: ignore[arg-type]
        if json:
            out.print_json(data=[item.model_dump(mode="json", exclude={"steps"}) for item in found])
        else:
            list_transactions(found, out)


@app.command(name="show", short_help="Show all that one transaction changed.")
def show_command(transaction: Id, config: Config = DEFAULT, *, json: Json = False) -> None:
    """Show one transaction: every record that it changed, before and after, and what was left over."""
    with _opened(config) as (warehouse, out, _):
        found = warehouse.show(transaction)
        if json:
            out.print_json(found.model_dump_json())
        else:
            show_transaction(found, out)


@app.command(name="history", short_help="Show what was changed of one record.")
def history_command(
    tag: Tag,
    entity: EntityName,
    key: Key,
    config: Config = DEFAULT,
    *,
    relationship: Related = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of at most so many transactions.")] = 20,
    json: Json = False,
) -> None:
    """Show what transactions changed of one record, newest first."""
    with _opened(config) as (warehouse, out, _):
        source = {"tag": tag, "relationship" if relationship else "entity": entity}
        found = warehouse.history(source, parse_key(key), limit)
        if json:
            out.print_json(data=[item.model_dump(mode="json") for item in found])
        else:
            show_history(found, out)


@app.command(name="forget", short_help="Erase what the journal keeps of one record.")
def forget_command(
    tag: Tag,
    entity: EntityName,
    key: Key,
    config: Config = DEFAULT,
    *,
    relationship: Related = False,
) -> None:
    """Erase the images and the history of one record from the journal; in its store it stays as it is.

    What was erased cannot be undone any more. Exits with 1 where an open or failed transaction needs its images:
    everything else is erased then.
    """
    with _opened(config) as (warehouse, out, _):
        source = {"tag": tag, "relationship" if relationship else "entity": entity}
        count = warehouse.forget(source, parse_key(key))
        out.print(f"erased from {count} transaction{'' if count == 1 else 's'}", markup=False)


@app.command(name="key", short_help="Make a key that encrypts the journal.")
def key_command() -> None:
    """Print a new key for `key` of [journal], which encrypts the images there. Whoever loses it loses them."""
    from cryptography.fernet import Fernet

    typer.echo(Fernet.generate_key().decode())


@app.command(name="commit", short_help="Commit a held transaction.")
def commit_command(name: Name, config: Config = DEFAULT) -> None:
    """Make a held transaction take effect, which `warehouse transactions --status held` lists."""
    with _opened(config) as (warehouse, out, errors):
        show_result(warehouse.commit(name), out, errors)


@app.command(name="rollback", short_help="Give a held transaction up.")
def rollback_command(name: Name, config: Config = DEFAULT) -> None:
    """Give a held transaction up: nothing of it takes effect."""
    with _opened(config) as (warehouse, out, errors):
        show_result(warehouse.rollback(name), out, errors)


@app.command(name="undo", short_help="Undo a completed transaction.")
def undo_command(
    transaction: Id,
    config: Config = DEFAULT,
    *,
    on_conflict: Annotated[
        OnConflict, typer.Option("--on-conflict", help="What to do with what somebody changed since.")
    ] = OnConflict.refuse,
) -> None:
    """Undo a completed transaction, as a transaction of its own.

    Where somebody changed a field since, nothing is undone (refuse), all but such fields (skip), or everything
    (force). Exits with 1 if nothing was undone.
    """
    with _opened(config) as (warehouse, out, errors):
        result = warehouse.undo(transaction, on_conflict.value)
        show_result(result, out, errors)
        if not result.ok:
            raise typer.Exit(1)


@app.command(name="resolve", short_help="Settle a failed transaction.")
def resolve_command(
    transaction: Id,
    config: Config = DEFAULT,
    *,
    retry: Annotated[
        bool, typer.Option("--retry", help="Undo again what is left, but no conflicts.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Undo what is left, whoever changed it since.")
    ] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Leave everything as it is.")] = False,
) -> None:
    """Settle a failed transaction, which `warehouse transactions --status failed` lists: one of the three ways."""
    chosen = [name for name, given in (("retry", retry), ("force", force), ("accept", accept)) if given]
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --retry, --force and --accept")
    with _opened(config) as (warehouse, out, errors):
        result = warehouse.resolve(transaction, chosen[0])  # type: ignore[arg-type]
        show_result(result, out, errors)
        out.print(f"now: {warehouse.show(transaction).status}")
