"""Qdrant's server: by URL or container only, since no package registry has it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from servers.base import Kind
from servers.containers import Image


def _root(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=2) as reply:
        return dict(json.load(reply))


def ready(url: str) -> bool:
    return "version" in _root(url)


def version(url: str) -> str:
    return str(_root(url)["version"])


KIND = Kind(
    name="qdrant",
    title="Qdrant",
    ready=ready,
    version=version,
    image=Image(name="qdrant/qdrant", port=6333, url="http://{host}:{port}"),
)
