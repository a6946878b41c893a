"""Redis, with every acknowledged write on disk."""

from __future__ import annotations

import re

from servers import cache
from servers.base import HOST, Kind, Say, ServerMissing, exchange, free_port
from servers.containers import Image
from servers.process import ProcessServer, data_folder

_DURABLE = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]


def ready(url: str) -> bool:
    return exchange(url, b"PING\r\n", 16).startswith(b"+PONG")


def version(url: str) -> str:
    match = re.search(rb"redis_version:([\d.]+)", exchange(url, b"INFO server\r\n", 4096))
    return match.group(1).decode() if match else ""


def install(say: Say) -> None:
    if cache.find_program("redis-server") is None:
        cache.apt_install(["redis-server"], say)


def process() -> ProcessServer:
    program = cache.find_program("redis-server")
    if program is None:
        raise ServerMissing("Redis is not installed: apt-get install redis-server")
    data, port = data_folder("redis"), free_port()
    return ProcessServer(
        name=KIND.name,
        title=KIND.title,
        url=f"redis://{HOST}:{port}/0",
        how="process",
        argv=[program, "--bind", HOST, "--port", str(port), "--dir", str(data), *_DURABLE],
        data=data,
        ready=ready,
    )


KIND = Kind(
    name="redis",
    title="Redis",
    ready=ready,
    version=version,
    image=Image(
        name="redis:7",
        port=6379,
        url="redis://{host}:{port}/0",
        command=["redis-server", "--protected-mode", "no", *_DURABLE],
    ),
    install=install,
    process=process,
)
