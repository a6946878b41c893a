"""What is done to the servers and processes of a round, each by a thread of its own, and counted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from campaign.processes import Crew
from servers import ProcessServer, ServerMissing

KILLED, PAUSED, FULL = "writers killed", "writers paused beyond their lease", "disk of the journal full"


class Attacks:
    """Threads that attack until the round is over."""

    def __init__(self, happened: Counter[str], chance: random.Random) -> None:
        self.happened, self.random = happened, chance
        self.problems: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def every(self, pause: tuple[float, float], attack: Callable[[], None]) -> None:
        """Attack again and again, with pauses of so many seconds."""

        def run() -> None:
            while not self._over.wait(self.random.uniform(*pause)):
                try:
                    attack()
                except Exception as error:  # noqa: BLE001 - told with the round's problems
                    self.problems.append(f"the attack itself failed: {error!r}")
                    return

        thread = threading.Thread(target=run, name="attack", daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Returns when each attack under way is over, and what it took is there again."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def kill_a_server(self, servers: dict[str, ProcessServer], rest: list[str]) -> None:
        """kill -9 of the next server, in an order by chance in which each comes equally often."""
        if not rest:
            rest += self.random.sample(list(servers), len(servers))
        server = servers[rest.pop()]
        server.kill()
        self.happened[killed(server.title)] += 1
        time.sleep(self.random.uniform(0, 0.5))
        for last in (False, False, True):
            try:
                server.start()
                return
            except ServerMissing:  # slow under this load
                if last:
                    raise

    def kill_a_writer(self, crew: Crew) -> None:
        crew.kill(self.random)
        self.happened[KILLED] += 1

    def pause_a_writer(self, crew: Crew, lease: float) -> None:
        with crew.borrowed(self.random) as pid:
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(lease * self.random.uniform(1.2, 2.0))
            finally:
                os.kill(pid, signal.SIGCONT)
        self.happened[PAUSED] += 1

    def fill(self, disk: Path) -> None:
        """Nothing more can be written for a while."""
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(512))
        try:
            time.sleep(self.random.uniform(0.3, 1.5))
        finally:
            ballast.unlink()
        self.happened[FULL] += 1


def killed(title: str) -> str:
    return f"{title} killed"


@contextmanager
def small_disk(folder: Path, megabytes: int = 256) -> Iterator[Path | None]:
    """A file system of its own for a journal; None where this machine does not let us mount one."""
    folder.mkdir()
    options = f"size={megabytes}m"
    if os.geteuid() != 0 or os.system(
        f"mount -t tmpfs -o {options} warehouse-campaign '{folder}' 2>/dev/null"
    ):
        yield None
        return
    try:
        yield folder
    finally:
        os.system(f"umount -l '{folder}'")
