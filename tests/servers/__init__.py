"""Real servers for tests, benchmarks and the demo.

`start("postgres")` returns a `Server` with a `url`. It comes from the first of these that there is: the
URL in WAREHOUSE_TEST_POSTGRES_URL (never stopped), a container, a process started from registry packages
on a free loopback port with a data folder of its own. The same server is returned for the whole session.

`start("postgres", private=True)` starts one more process that nobody else uses, to be killed and restarted.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Literal, overload

from servers import containers, mariadb, mongo, neo4j, postgres, qdrant, redis
from servers.base import How, Kind, Say, Server, ServerMissing, answers, wait_until
from servers.process import ProcessServer, remove_all

__all__ = [
    "KINDS",
    "ProcessServer",
    "Server",
    "ServerMissing",
    "available",
    "ensure",
    "prestart",
    "start",
    "stop_all",
    "used",
    "used_stores",
]

KINDS: dict[str, Kind] = {
    module.KIND.name: module.KIND for module in (postgres, mariadb, redis, mongo, neo4j, qdrant)
}

_URL_SECONDS = 15
_locks = {name: threading.Lock() for name in KINDS}
_shared: dict[str, Server | ServerMissing] = {}
_used: dict[tuple[str, str, str], None] = {}


def used(name: str, version: str, how: str) -> None:
    """Note a store that was really used, for the summary at the end of the tests."""
    _used[name, version, how] = None


def used_stores() -> list[str]:
    """The stores noted so far, such as "PostgreSQL 15.18 (process)"."""
    return [" ".join(filter(None, (name, version, f"({how})"))) for name, version, how in _used]


def available(name: str) -> bool:
    """Whether the server can be had here; starts it to find out."""
    try:
        start(name)
    except ServerMissing:
        return False
    return True


@overload
def start(name: str, *, private: Literal[True]) -> ProcessServer: ...
@overload
def start(name: str, *, private: Literal[False] = False) -> Server: ...
def start(name: str, *, private: bool = False) -> Server:
    """Return the session's server of that name, or a new process for the caller alone."""
    kind = KINDS[name]
    if private:
        server = _process(kind)
        used(server.title, server.version, server.how)
        return server
    with _locks[name]:
        if name not in _shared:
            try:
                _shared[name] = _obtain(kind)
            except ServerMissing as missing:
                _shared[name] = missing
        found = _shared[name]
    if isinstance(found, ServerMissing):
        raise found
    used(found.title, found.version, found.how)
    return found


def prestart(*names: str) -> None:
    """Begin to start servers in the background, so that they boot side by side."""
    for name in names:
        threading.Thread(target=available, args=[name], name=f"start {name}", daemon=True).start()


def ensure(name: str, say: Say = print) -> str:
    """Bring all that the server needs, and say how it will come."""
    kind = KINDS[name]
    if kind.variable in os.environ:
        return f"{kind.title}: by {kind.variable}"
    if containers.docker_answers():
        return f"{kind.title}: in a container of {kind.image.name}"
    if kind.install is None:
        raise ServerMissing(_nowhere(kind))
    kind.install(say)
    return f"{kind.title}: as a process"


def stop_all() -> None:
    """Stop the session's servers that are ours, side by side."""
    servers = [server for server in _shared.values() if isinstance(server, Server)]
    _shared.clear()
    remove_all(server for server in servers if isinstance(server, ProcessServer))
    for server in servers:
        server.stop()


def _obtain(kind: Kind) -> Server:
    url = os.environ.get(kind.variable)
    if url:
        return _by_url(kind, url)
    why = ""
    if containers.docker_answers():
        try:
            return containers.run(kind)
        except Exception as error:  # noqa: BLE001 - whatever Docker refuses, a process may do
            why = f"; its container failed: {error}"
            print(f"{kind.title}: no container: {error}", file=sys.stderr)
    if kind.process is None:
        raise ServerMissing(_nowhere(kind) + why)
    return _process(kind)


def _by_url(kind: Kind, url: str) -> Server:
    if not wait_until(lambda: answers(kind.ready, url), _URL_SECONDS):
        raise ServerMissing(f"the server of {kind.variable} does not answer")
    how: How = "url"
    return Server(name=kind.name, title=kind.title, url=url, how=how, version=kind.version(url))


def _process(kind: Kind) -> ProcessServer:
    if kind.process is None or kind.install is None:
        raise ServerMissing(_nowhere(kind))
    kind.install(lambda line: None)
    server = kind.process()
    try:
        server.start()
    except ServerMissing:
        server.remove()
        raise
    server.version = server.version or kind.version(server.url)
    return server


def _nowhere(kind: Kind) -> str:
    return f"no package registry has {kind.title}: set {kind.variable}, or start Docker"


def _at_exit(owner: int) -> None:
    if os.getpid() == owner:
        stop_all()


atexit.register(_at_exit, os.getpid())
