"""`warehouse check`: asks the journal and every store, and shows what they said."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from warehouse.errors import WarehouseError
from warehouse.results import ParticipantInfo
from warehouse.sync import Warehouse


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found: the journal, its error where it cannot be used, and every store or its error, by tag."""

    journal: str
    journal_error: WarehouseError | None
    stores: Mapping[str, ParticipantInfo | Exception]

    @property
    def ok(self) -> bool:
        return not self.errors

    @property
    def errors(self) -> list[str]:
        """Every error in full."""
        journal = [f"journal: {self.journal_error}"] if self.journal_error else []
        return journal + [
            _said(tag, found) for tag, found in self.stores.items() if isinstance(found, Exception)
        ]


def examine(config: Mapping[str, Any]) -> Report:
    """Connect everything that `config` names. Raises ConfigError where it is wrong.

    The stores are asked even where the journal cannot be opened.
    """
    warehouse = Warehouse(**config)
    journal = warehouse.journal
    journal_error: WarehouseError | None = None
    try:
        warehouse.open()
    except WarehouseError as error:
        journal_error = error
        warehouse = Warehouse(**{**config, "journal": {"url": "memory://"}})
    with warehouse:
        return Report(journal=journal, journal_error=journal_error, stores=warehouse.participants())


def show(report: Report, out: Console, errors: Console) -> None:
    """The table on `out`, the errors in full on `errors`."""
    journal = "[red]error" if report.journal_error else "[green]ok"
    out.print("journal:", report.journal, end=" ", highlight=False, markup=False, soft_wrap=True)
    out.print(journal)
    table = Table("tag", "type", "store", "version", "held", "prepares", "guards", "")
    for tag, found in report.stores.items():
        if isinstance(found, ParticipantInfo):
            cells = [tag, found.type, found.store, found.version, _yes(found.holds), _yes(found.prepares)]
            table.add_row(*map(escape, cells), found.guards, "[green]ok")
        else:
            table.add_row(escape(tag), *[""] * 6, "[red]error")
    out.print(table if report.stores else "no adapters are configured")
    for error in report.errors:
        errors.print(error, style="red", markup=False)


def write_json(report: Report) -> None:
    """The report as JSON on standard output."""
    stores = {
        tag: {"ok": False, "error": _said(tag, found)}
        if isinstance(found, Exception)
        else {"ok": True, **found.model_dump(mode="json", exclude={"tag"})}
        for tag, found in report.stores.items()
    }
    error = None if report.journal_error is None else str(report.journal_error)
    content = {
        "version": version("warehouse"),
        "ok": report.ok,
        "journal": {"url": report.journal, "ok": error is None, "error": error},
        "stores": stores,
    }
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def _said(tag: str, error: object) -> str:
    """An error for people, with its tag: one of ours as it is, any other with its kind."""
    if isinstance(error, WarehouseError):
        return str(error.locate(tag=tag))
    return f"{tag}: {type(error).__name__}: {error}"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
