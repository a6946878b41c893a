"""Where processes were killed in this run, for the summary; and what must have been among it after a whole one."""

from __future__ import annotations

from collections import Counter

COVERED: Counter[str] = Counter()
MODULES: set[str] = set()
ALL_MODULES = {"test_crashes", "test_crashes_servers", "test_crashes_prepared", "test_calls"}
# Every boundary between two effects of the protocol, whatever the store.
BOUNDARIES = {
    f"{when} {call}"
    for when in ("before", "after")
    for call in (
        *("journal.decide", "journal.append", "journal.change_state", "journal.take_over"),
        *("journal.finish", "journal.complete"),
        *("execute", "write", "prepare", "commit", "finish", "rollback"),
    )
}


def note(module: str, point: object) -> None:
    """Somebody was killed at this point, by a test of this module."""
    when, call, *_ = str(point).split()
    store, _, method = call.rpartition(".")
    COVERED[f"{when} {call if store == 'journal' else method}"] += 1
    MODULES.add(module.rpartition(".")[2])


def missed() -> list[str]:
    """The boundaries at which nobody was killed, in a run of all the tests that do so."""
    return sorted(BOUNDARIES - COVERED.keys()) if MODULES >= ALL_MODULES else []
