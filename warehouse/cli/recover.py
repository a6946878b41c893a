"""`warehouse recover`: ends what dead processes left open, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from warehouse.config import load
from warehouse.results import Recovered
from warehouse.sync import Warehouse


def recover(config: Mapping[str, Any], out: Console, errors: Console, *, watch: bool) -> bool:
    """Recover, and show what was found; with `watch`, until interrupted. Whether everything could be ended.

    Raises ConfigError and JournalUnavailable.
    """
    given = dict(config)
    given["journal"] = {**given.get("journal", {}), "recover": "manual"}
    lease = load(given).journal.lease
    with Warehouse(**given) as warehouse:
        out.print(f"looking for owners that show no life for {lease:g} s", style="dim", highlight=False)
        while True:
            found = warehouse.recover()
            _show(found, out, errors, quiet=watch)
            if not watch:
                return all(item.status is not None for item in found)
            time.sleep(lease)


def _show(found: Sequence[Recovered], out: Console, errors: Console, *, quiet: bool) -> None:
    if not found and not quiet:
        out.print("nothing is left open")
    for item in found:
        name = f" ({item.name})" if item.name else ""
        if item.status is None:
            text = f"{item.transaction_id}{name}: not ended yet: {item.error}"
            errors.print(text, style="red", markup=False, highlight=False)
            continue
        out.print(f"{item.transaction_id}{name}: {item.status}", markup=False, highlight=False)
        for residue in item.residue:
            errors.print(f"  left over: {residue}", style="red", markup=False, highlight=False)
