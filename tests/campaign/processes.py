"""The processes of a round's writers."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_GRACE = 90  # seconds in which a process must end when it is told to stop


def is_over(config: Mapping[str, Any]) -> bool:
    """Whether a process of the round is to end: it was told so, or whoever started it is gone."""
    return (Path(config["folder"]) / "stop").exists() or os.getppid() != config["parent"]


class Crew:
    """Processes with so many writers each, and one that bypasses the warehouse; what they say goes to `errors`."""

    def __init__(self, folder: Path, writers: Sequence[int]) -> None:
        self.folder = folder
        self._errors = (folder / "errors").open("ab")
        self._lock = threading.Lock()
        self._bypass = self._start("campaign.bypass")
        self._writers = {number: (count, self._start_writer(count)) for number, count in enumerate(writers)}
        self._borrowed: set[int] = set()

    def kill(self, chance: random.Random) -> None:
        """kill -9 of one process, and another one in its place."""
        with self.borrowed(chance, replace=True):
            pass

    @contextmanager
    def borrowed(self, chance: random.Random, *, replace: bool = False) -> Iterator[int]:
        """The pid of a process that no other attack has at this time."""
        with self._lock:
            number = chance.choice([number for number in self._writers if number not in self._borrowed])
            self._borrowed.add(number)
        count, process = self._writers[number]
        try:
            yield process.pid
            if replace:
                process.kill()
                process.wait()
                self._writers[number] = count, self._start_writer(count)
        finally:
            self._borrowed.discard(number)

    def stop(self) -> list[str]:
        """End all in order; what was wrong with how they ended."""
        (self.folder / "stop").touch()
        problems = []
        deadline = time.monotonic() + _GRACE
        for process in [self._bypass, *(process for _, process in self._writers.values())]:
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                problems.append(f"a process did not end within {_GRACE} s")
            else:
                if code:
                    problems.append(f"a process ended with {code}: {self._tail()}")
        self._errors.close()
        return problems

    def _tail(self) -> str:
        return (self.folder / "errors").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _start_writer(self, writers: int) -> subprocess.Popen[bytes]:
        return self._start("campaign.writer", str(writers))

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        folders = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, str(self.folder / "config"), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
