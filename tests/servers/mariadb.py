"""MariaDB, by Debian's core packages: they bring the programs and no service."""

from __future__ import annotations

import re
import socket

from servers import cache
from servers.base import HOST, Kind, Say, ServerMissing, address, free_port
from servers.containers import Image
from servers.process import ProcessServer, data_folder, run_tool, unprivileged

_FOLDERS = ("/usr/sbin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin")
_PACKAGES = ["mariadb-server-core", "mariadb-client-core"]
_ABSENT = f"MariaDB is not installed: apt-get install {' '.join(_PACKAGES)}"
_DATABASE = "create database if not exists warehouse character set utf8mb4;\n"
_GREETING = re.compile(rb"^.{4}\x0a(?:5\.5\.5-)?(\d+\.\d+\.\d+)", re.DOTALL)


def _greeting(url: str) -> str:
    """The version in the packet with which the server greets; it greets only when it is ready."""
    with socket.create_connection(address(url), timeout=2) as connection:
        match = _GREETING.match(connection.recv(128))
    return match.group(1).decode() if match else ""


def ready(url: str) -> bool:
    return bool(_greeting(url))


def install(say: Say) -> None:
    if _programs() is None:
        cache.apt_install(_PACKAGES, say)
    if _programs() is None:
        raise ServerMissing(_ABSENT)


def _programs() -> tuple[str, str] | None:
    server = cache.find_program("mariadbd", *_FOLDERS)
    installer = cache.find_program("mariadb-install-db", *_FOLDERS)
    defaults = cache.find_program("my_print_defaults", *_FOLDERS)
    return (server, installer) if server and installer and defaults else None


def process() -> ProcessServer:
    programs = _programs()
    if programs is None:
        raise ServerMissing(
            "MariaDB is not installed: apt-get install mariadb-server-core mariadb-client-core"
        )
    server, installer = programs
    user = unprivileged("mysql")
    folder = data_folder("mariadb", user)
    database, first = folder / "data", folder / "first.sql"
    first.write_text(_DATABASE)
    first.chmod(0o644)
    run_tool(
        [
            installer,
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            f"--datadir={database}",
            "--skip-test-db",
        ],
        user=user,
        cwd=folder,
    )
    port = free_port()
    options = [
        f"--datadir={database}",
        f"--bind-address={HOST}",
        f"--port={port}",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        f"--init-file={first}",
        "--innodb-flush-log-at-trx-commit=1",
        "--sync-binlog=1",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        "--innodb-buffer-pool-size=64M",
        "--max-connections=200",
    ]
    return ProcessServer(
        name=KIND.name,
        title=KIND.title,
        url=f"mysql+asyncmy://root@{HOST}:{port}/warehouse",
        how="process",
        argv=[server, "--no-defaults", *options],
        data=folder,
        user=user,
        ready=ready,
    )


KIND = Kind(
    name="mariadb",
    title="MariaDB",
    ready=ready,
    version=_greeting,
    image=Image(
        name="mariadb:11",
        port=3306,
        url="mysql+asyncmy://root@{host}:{port}/warehouse",
        command=["--character-set-server=utf8mb4"],
        env={"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1", "MARIADB_DATABASE": "warehouse"},
    ),
    install=install,
    process=process,
)
