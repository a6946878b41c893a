"""The judge from elsewhere: porcupine, a linearizability checker, given each group's writes and locked reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.history import Operation
from campaign.layout import TAGS
from servers import cache
from servers.base import Say, ServerMissing

NAME = "porcupine 1.3.1"
_SOURCE = Path(__file__).with_name("porcupine")
_FOLDERS = ("/usr/local/go/bin", "/usr/lib/go/bin")
_PATIENCE = 300  # seconds for one history


@dataclass(frozen=True)
class Verdict:
    group: str
    result: str
    """`Ok`, `Illegal`, or `Unknown` where its time was over."""
    operations: int


def install(say: Say = print) -> Path:
    """The checker, built where it is not yet in the cache. Raises ServerMissing where there is no Go."""
    files = sorted(path for path in _SOURCE.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    program = cache.folder() / f"linearizable-{digest}"
    with cache.locked("linearizable"):
        if not program.exists():
            go = _go(say)
            say(f"go build of {NAME}")
            unfinished = program.with_suffix(".part")
            done = subprocess.run(
                [go, "build", "-o", str(unfinished), "."],
                cwd=_SOURCE,
                env={**os.environ, "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"},
                capture_output=True,
                check=False,
                text=True,
            )
            if done.returncode:
                raise ServerMissing(f"go build of {NAME} failed: {done.stderr[-2000:]}")
            unfinished.rename(program)
    return program


def _go(say: Say) -> str:
    found = cache.find_program("go", *_FOLDERS)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        cache.apt_install(["golang-go", "ca-certificates"], say)
        found = cache.find_program("go", *_FOLDERS)
    if found is None:
        raise ServerMissing("the checker of histories needs Go 1.16 or later")
    return found


def judge(history: Iterable[Operation], drawings: Path) -> list[Verdict]:
    """What the checker says of each group, with a page in `drawings` for one that is not linearizable.

    Takes writes and locked reads that took effect, or may have: those with the type `ok`, and as `info` writes
    that are known to have taken effect at some time after they were asked for.
    """
    numbers: dict[str, int] = {}
    lines = [json.dumps(_line(operation, numbers)) for operation in history]
    done = subprocess.run(
        [install(lambda _: None), "-drawings", str(drawings)],
        input="\n".join(lines),
        capture_output=True,
        check=True,
        text=True,
        timeout=_PATIENCE,
    )
    return [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]


def _line(operation: Operation, numbers: dict[str, int]) -> dict[str, Any]:
    stores = {tag: str(TAGS["a"].index(tag)) for tag in operation.value["tags"]}
    key = operation.value.get("key", "")
    cells = operation.told.get("seen", {}) if operation.type == "ok" else {}
    seen = {
        stores[tag]: {"N": cell[0], "Last": cell[1]} if operation.f == "read" else {"N": cell, "Last": key}
        for tag, cell in cells.items()
    }
    return {
        "group": operation.value["group"],
        "process": numbers.setdefault(operation.process, len(numbers)),
        "kind": operation.f,
        "key": key,
        "stores": [int(number) for number in stores.values()],
        "seen": seen,
        "call": operation.call,
        "return": operation.end,
    }
