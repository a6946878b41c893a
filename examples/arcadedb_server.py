"""ArcadeDB's embedded server as a process of its own: `python arcadedb_server.py PORT` in an empty folder.

It says "ready" on standard output, serves Bolt on the port, and stops when its standard input ends, which is
also when the process that started it dies. What Java prints goes to `arcadedb.log`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DATABASE = "neo4j"
USER = "root"


def main(port: str) -> None:
    reply = os.fdopen(os.dup(1), "w")
    log = os.open("arcadedb.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)

    from arcadedb_embedded.server import ArcadeDBServer

    server = ArcadeDBServer(
        str(Path.cwd()),
        root_password=os.environ["ARCADEDB_PASSWORD"],
        config={
            "host": "127.0.0.1",
            "http_port": "0",
            "server_plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "bolt_port": port,
        },
        # 2: a commit is flushed to the disk. The server's own configuration has no say in this.
        jvm_kwargs={"heap_size": "512m", "jvm_args": ["-Darcadedb.txWalFlush=2"]},
    )
    server.start()
    server.create_database(DATABASE)
    print("ready", file=reply, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
