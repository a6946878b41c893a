"""`warehouse transactions`, `show`, `history`, `undo` and `resolve`: what the journal tells, and settling it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from warehouse.errors import InvalidOperation
from warehouse.results import HistoryItem, TransactionInfo, TransactionResult, plain


def list_transactions(found: Sequence[TransactionInfo], out: Console) -> None:
    """A table of transactions."""
    if not found:
        out.print("no transactions")
        return
    table = Table("transaction", "name", "status", "pattern", "started (UTC)", "seconds")
    for item in found:
        seconds = "" if item.finished is None else f"{(item.finished - item.started).total_seconds():.3f}"
        cells = [
            item.transaction_id,
            item.name or "",
            _status(item),
            item.pattern,
            f"{item.started:%F %T}",
            seconds,
        ]
        table.add_row(*map(escape, cells))
    out.print(table)


def show_transaction(item: TransactionInfo, out: Console) -> None:
    """Everything of one transaction: its changes, and what was left over."""
    name = f" ({item.name})" if item.name else ""
    out.print(
        f"{item.transaction_id}{name}: {_status(item)}, {item.pattern}, {item.started:%F %T} UTC",
        markup=False,
    )
    for step in item.steps:
        where = step.tag if step.action is None else f"calls {step.action}"
        out.print(f"{step.name} ({where})", markup=False, style="bold")
        for record in step.output or ():
            out.print(f"  put out {_text(record)}", markup=False)
        for change in step.changes:
            out.print(f"  {change.action} {change.entity} {_text(change.key)}", markup=False)
            for field, before, after in _differences(change.before, change.after):
                out.print(f"    {field}: {before} -> {after}", markup=False)
    for residue in item.residue:
        out.print(f"left over: {residue}", markup=False, style="red")


def show_history(items: Sequence[HistoryItem], out: Console) -> None:
    """What was changed of a record, newest first."""
    if not items:
        out.print("no changes")
    for item in items:
        name = f" ({item.name})" if item.name else ""
        out.print(
            f"{item.at:%F %T} UTC {item.action} by {item.step} of {item.transaction_id}{name}, {item.status}",
            markup=False,
        )
        for field, before, after in _differences(item.before, item.after):
            out.print(f"    {field}: {before} -> {after}", markup=False)


def show_result(result: TransactionResult, out: Console, errors: Console) -> None:
    """How undoing or resolving ended."""
    out.print(f"{result.transaction_id}: {result.status}", markup=False)
    for conflict in result.conflicts:
        errors.print(f"conflict: {conflict}", markup=False, style="red")
    for residue in result.residue:
        errors.print(f"left over: {residue}", markup=False, style="red")
    if result.error and not result.conflicts:
        errors.print(f"error: {result.error}", markup=False, style="red")


def parse_key(parts: Sequence[str]) -> dict[str, Any]:
    """`field=value` texts as a key; a value that is JSON is taken as that, any other as text."""
    key: dict[str, Any] = {}
    for part in parts:
        field, equals, text = part.partition("=")
        if not field or not equals:
            raise InvalidOperation(f"{part!r} is not of the form field=value", field="key")
        try:
            key[field] = json.loads(text)
        except ValueError:
            key[field] = text
    return key


def _status(item: TransactionInfo) -> str:
    return f"{item.status} (resolved: {item.resolved})" if item.resolved else item.status


def _differences(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """The fields that differ, with their values before and after as text."""
    old, new = before or {}, after or {}
    names = [*old, *(name for name in new if name not in old)]
    return [
        (name, _text(old[name]) if name in old else "-", _text(new[name]) if name in new else "-")
        for name in names
        if name not in old or name not in new or old[name] != new[name]
    ]


def _text(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)
