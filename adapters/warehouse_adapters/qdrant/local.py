"""The client's local mode: one process a folder, and in it one client, used by one thread at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdrant_client import AsyncQdrantClient

from warehouse.errors import StoreUnavailable


@dataclass(slots=True)
class LocalClient:
    """A local client, and the lock that is held during every operation on it.

    Its coroutines never wait for anything, so the lock is free again before another task can run.
    """

    client: AsyncQdrantClient
    path: str | None
    turn: threading.RLock = field(default_factory=threading.RLock)
    users: int = 1


_shared: dict[str, LocalClient] = {}
_guard = threading.Lock()


def acquire(path: Path | None, options: dict[str, Any]) -> LocalClient:
    """The client of a folder, which all its users share; in memory (None), a new one.

    Raises StoreUnavailable where another process has the folder open.
    """
    if path is None:
        return LocalClient(AsyncQdrantClient(location=":memory:", **options), None)
    with _guard:
        known = _shared.get(str(path))
        if known is not None:
            known.users += 1
            return known
        _probe(path)
        client = AsyncQdrantClient(path=str(path), force_disable_check_same_thread=True, **options)
        _shared[str(path)] = LocalClient(client, str(path))
        return _shared[str(path)]


async def release(local: LocalClient) -> None:
    """Give a client back; its last user closes it."""
    with _guard:
        local.users -= 1
        if local.users:
            return
        if local.path is not None:
            del _shared[local.path]
        with local.turn:
            await local.client.close()


def _probe(path: Path) -> None:
    """Fail early where the folder is locked: the client would fail too, and leave its file open."""
    import portalocker

    lock = path / ".lock"
    if not lock.exists():
        return
    with lock.open("r+") as file:
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException as error:
            raise StoreUnavailable(
                f"the folder {path} is open in another process",
                hint="only one process at a time can use a local Qdrant; a server takes many",
            ) from error
        portalocker.unlock(file)
