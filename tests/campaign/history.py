"""The history of a round: who asked for what when, and what they were told, in the form of Jepsen's histories.

Each event is a line of JSON: `process`, `type` (`invoke`, then `ok`, `fail` or `info`, where `info` means that the
end is not known), `f` (`write`, `read` or `find`), `value`, and `time` in nanoseconds of a clock that all processes
of the machine share. A process that was killed leaves an `invoke` without an end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Type = Literal["ok", "fail", "info"]


class Log:
    """One process of the history, which does one thing at a time."""

    def __init__(self, path: Path, process: str) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._process = process

    def write(self, type_: str, f: str, value: dict[str, Any]) -> None:
        event = {"process": self._process, "type": type_, "f": f, "value": value, "time": time.monotonic_ns()}
        self._file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        self._file.close()


@dataclass
class Operation:
    """An `invoke` with its end; without one, `type` is `info` and `end` the end of the history."""

    process: str
    f: str
    value: dict[str, Any]
    call: int
    end: int = 0
    type: Type = "info"
    told: dict[str, Any] = field(default_factory=dict)
    """The value of its end."""


def operations(folder: Path) -> list[Operation]:
    """All operations in the files `history-*` of a folder, in the order of their calls."""
    found: list[Operation] = []
    for path in sorted(folder.glob("history-*.jsonl")):
        found += _paired(_events(path))
    over = time.monotonic_ns()
    for operation in found:
        operation.end = operation.end or over
    return sorted(found, key=lambda operation: operation.call)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """A process that was killed may leave its last line unfinished."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _paired(events: Iterator[dict[str, Any]]) -> list[Operation]:
    out: list[Operation] = []
    open_: dict[str, Operation] = {}
    for event in events:
        process = event["process"]
        if event["type"] == "invoke":
            open_[process] = Operation(process, event["f"], event["value"], event["time"])
            out.append(open_[process])
        else:
            operation = open_.pop(process)
            operation.end, operation.type, operation.told = event["time"], event["type"], event["value"]
    return out
