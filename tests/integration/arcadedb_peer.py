"""ArcadeDB's embedded server as a process of its own: it speaks Bolt to the real Neo4j driver.

Run as a program it serves until SIGTERM; `start()` starts it once for the session.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from importlib.metadata import version as installed
from pathlib import Path

import neo4j

from servers import used
from servers.base import HOST, free_port
from servers.process import ProcessServer, data_folder

USER, PASSWORD, DATABASE = "root", "playwithdata", "neo4j"


@functools.cache
def start() -> ProcessServer:
    """The session's ArcadeDB."""
    server = process()
    server.start()
    used(server.title, server.version, server.how)
    return server


def process() -> ProcessServer:
    """A new one, not started yet."""
    data, bolt, http = data_folder("arcadedb"), free_port(), free_port()
    return ProcessServer(
        name="arcadedb",
        title="ArcadeDB",
        version=installed("arcadedb-embedded"),
        url=f"bolt://{HOST}:{bolt}",
        how="process",
        argv=[sys.executable, str(Path(__file__).resolve()), str(data), str(bolt), str(http)],
        data=data,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        ready=_ready,
        patience=60,
    )


def _ready(url: str) -> bool:
    with neo4j.GraphDatabase.driver(url, auth=(USER, PASSWORD)) as driver, driver.session() as session:
        return session.run("RETURN 1 AS one").single()["one"] == 1


def main(data: str, bolt: str, http: str) -> None:
    import arcadedb_embedded
    from arcadedb_embedded.jvm import start_jvm

    # Flush the log at each commit. (In `config` below, this key would have no effect.)
    start_jvm(heap_size="512m", jvm_args="-Darcadedb.txWalFlush=2")
    config = {
        "host": HOST,
        "http_port": int(http),
        "server_plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
        "bolt_port": int(bolt),
    }
    server = arcadedb_embedded.create_server(data, PASSWORD, config=config)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server.start()
    if not (Path(data) / "databases" / DATABASE).exists():
        server.create_database(DATABASE)
    signal.sigwait({signal.SIGTERM})
    server.stop()
    os._exit(0)  # the JVM keeps threads of its own


if __name__ == "__main__":
    main(*sys.argv[1:])
