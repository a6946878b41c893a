"""A server in a container, by testcontainers, where Docker answers quickly."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers.base import HOST, Server, ServerMissing, answers, docker_wanted, wait_until

if TYPE_CHECKING:
    from servers.base import Kind

_PING_SECONDS = 3
_READY_SECONDS = 120
_LOCAL = {"localhost", "127.0.0.1"}
_asking = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Image:
    """How to run a kind of server as a container."""

    name: str
    port: int
    url: str
    """Format string with {host} and {port}."""
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[str, int], None] | None = None
    """What to do once after the start, given host and port."""


@dataclass(kw_only=True, eq=False)
class ContainerServer(Server):
    """A container of ours; testcontainers' reaper removes it if we cannot."""

    container: Any

    def stop(self) -> None:
        self.container.stop()


def docker_answers() -> bool:
    """Whether a Docker daemon answers within a few seconds; asked once."""
    with _asking:
        return _docker_answers()


@cache
def _docker_answers() -> bool:
    if not (docker_wanted() and _plausible()):
        return False
    try:
        from testcontainers.core.docker_client import DockerClient

        client = DockerClient(timeout=_PING_SECONDS).client
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # noqa: BLE001 - no package, no daemon, no permission: all mean no
        return False


def _plausible() -> bool:
    """A cheap look before testcontainers is imported: a socket, a setting or a context of Docker's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "/run/user/none")
    places = [Path("/var/run/docker.sock"), Path(runtime) / "docker.sock", Path.home() / ".docker"]
    places.append(Path.home() / ".testcontainers.properties")
    return "DOCKER_HOST" in os.environ or any(place.exists() for place in places)


def run(kind: Kind) -> ContainerServer:
    """Start the kind's image and wait until it answers."""
    from testcontainers.core.container import DockerContainer

    image = kind.image
    container = DockerContainer(image.name, env=dict(image.env))
    if image.command:
        container.with_command(list(image.command))
    _publish(container, image.port)
    try:
        container.start()
        url = _await(kind, container)
    except BaseException:
        container.stop()
        raise
    version = kind.version(url)
    return ContainerServer(
        name=kind.name, title=kind.title, url=url, how="container", version=version, container=container
    )


def _await(kind: Kind, container: Any) -> str:
    """The URL of a started container, as soon as its server answers there."""
    image = kind.image
    host = container.get_container_host_ip()
    host = HOST if host == "localhost" else host
    port = int(container.get_exposed_port(image.port))
    if image.prepare is not None:
        image.prepare(host, port)
    url = image.url.format(host=host, port=port)
    if not wait_until(lambda: answers(kind.ready, url), _READY_SECONDS, pause=0.2):
        raise ServerMissing(f"the container of {image.name} did not answer:\n{_logs(container)}")
    return url


def _publish(container: Any, port: int) -> None:
    """Let Docker choose the host's port, on loopback only where that is where we will look for it.

    From inside a container, or with a remote daemon, loopback would be somebody else's.
    """
    from testcontainers.core.config import ConnectionMode

    client = container.get_docker_client()
    local = client.get_connection_mode() is ConnectionMode.docker_host and client.host() in _LOCAL
    container.ports[f"{port}/tcp"] = (HOST,) if local else None


def _logs(container: Any) -> str:
    out, err = container.get_logs()
    return "\n".join((out + err).decode(errors="replace").splitlines()[-40:])
