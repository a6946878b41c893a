"""Neo4j community, by Maven: the server is one dependency, started by its own main class."""

from __future__ import annotations

import struct
from pathlib import Path

from servers import cache
from servers.base import HOST, Kind, Say, exchange, free_port
from servers.containers import Image
from servers.process import ProcessServer, data_folder

VERSION = "5.26.30"
_HANDSHAKE = b"\x60\x60\xb0\x17" + struct.pack(">IIII", 0x0004_0405, 0x0000_0404, 0, 0)
_JAVA_OPTIONS = [
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xmx384m",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.nio", "java.io", "sun.nio.ch")),
]
_SETTINGS = """\
server.default_listen_address={host}
server.bolt.listen_address={host}:{port}
server.http.enabled=false
server.https.enabled=false
dbms.security.auth_enabled=false
dbms.usage_report.enabled=false
server.memory.pagecache.size=64m
db.tx_log.preallocate=false
db.lock.acquisition.timeout=20s
internal.dbms.bolt.netty_server_shutdown_quiet_period=0
"""


def ready(url: str) -> bool:
    return len(exchange(url, _HANDSHAKE, 4)) == 4


def version(url: str) -> str:
    import neo4j

    with neo4j.GraphDatabase.driver(url) as driver:
        return str(driver.get_server_info().agent).removeprefix("Neo4j/")


def install(say: Say) -> None:
    library = _library(say)
    archive = _archive(library)
    with cache.locked("neo4j-archive"):
        if not archive.exists():
            say("Neo4j: class-data archive, for faster starts")
            unfinished = archive.with_suffix(".part")
            server = _server(library, [f"-XX:ArchiveClassesAtExit={unfinished}"])
            server.stop_patience = 120
            server.start()
            server.remove()
            if unfinished.exists():
                unfinished.rename(archive)
            else:
                archive.touch()


def process() -> ProcessServer:
    library = _library(lambda _: None)
    archive = _archive(library)
    usable = archive.exists() and archive.stat().st_size > 0
    return _server(
        library, [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:disable"] if usable else []
    )


def _library(say: Say) -> Path:
    return cache.jars("neo4j", [f"org.neo4j:neo4j:{VERSION}"], say)


def _archive(library: Path) -> Path:
    return library.parent / f"classes-java{cache.java_version(cache.java(lambda _: None))}.jsa"


def _server(library: Path, options: list[str]) -> ProcessServer:
    home, port = data_folder("neo4j"), free_port()
    conf = home / "conf"
    conf.mkdir()
    (conf / "neo4j.conf").write_text(_SETTINGS.format(host=HOST, port=port))
    program = cache.java(lambda _: None)
    path = ":".join(str(jar) for jar in sorted(library.glob("*.jar")))
    main = ["org.neo4j.server.CommunityEntryPoint", f"--home-dir={home}", f"--config-dir={conf}"]
    return ProcessServer(
        name=KIND.name,
        title=KIND.title,
        version=VERSION,
        url=f"bolt://{HOST}:{port}",
        how="process",
        argv=[program, *_JAVA_OPTIONS, *options, "-cp", path, *main],
        data=home,
        ready=ready,
        patience=120,
        more_logs=(home / "logs" / "neo4j.log", home / "logs" / "debug.log"),
    )


KIND = Kind(
    name="neo4j",
    title="Neo4j",
    ready=ready,
    version=version,
    image=Image(
        name="neo4j:5.26-community",
        port=7687,
        url="bolt://{host}:{port}",
        env={
            "NEO4J_AUTH": "none",
            "NEO4J_db_lock_acquisition_timeout": "20s",
            "NEO4J_dbms_usage__report_enabled": "false",
        },
    ),
    install=install,
    process=process,
)
