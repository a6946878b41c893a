"""MongoDB's protocol: a real replica set by container, mongo-java-server (no transactions) by process."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from servers import cache
from servers.base import HOST, Kind, Say, free_port
from servers.containers import Image
from servers.process import ProcessServer, data_folder, run_tool

VERSION = "1.47.0"
_COORDINATES = [
    f"de.bwaldvogel:mongo-java-server:{VERSION}",
    f"de.bwaldvogel:mongo-java-server-h2-backend:{VERSION}",
]
_SOURCE = Path(__file__).with_name("DurableMongo.java")
_JAVA_OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"]


def _command(url: str, name: str) -> dict[str, Any]:
    import pymongo

    with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=2000) as client:
        return client.admin.command(name)


def ready(url: str) -> bool:
    return bool(_command(url, "ismaster").get("ismaster"))


def version(url: str) -> str:
    return str(_command(url, "buildInfo")["version"])


def install(say: Say) -> None:
    library = cache.jars("mongo-java-server", _COORDINATES, say)
    classes = _classes(library)
    with cache.locked("mongo-java-server"):
        if not classes.exists():
            say(f"javac {_SOURCE.name}")
            unfinished = library.parent / "classes.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            compiler = cache.java(say, "javac")
            run_tool([compiler, "-cp", f"{library}/*", "-d", str(unfinished), str(_SOURCE)])
            unfinished.rename(classes)


def _classes(library: Path) -> Path:
    """Where the compiled main class belongs: a change of its source gives it another folder."""
    import hashlib

    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    return library.parent / f"classes-{digest}"


def process() -> ProcessServer:
    library = cache.folder() / "mongo-java-server" / "lib"
    data, port = data_folder("mongo"), free_port()
    program = cache.java(lambda _: None)
    path = f"{_classes(library)}:{library}/*"
    return ProcessServer(
        name=KIND.name,
        title="mongo-java-server",
        version=VERSION,
        url=f"mongodb://{HOST}:{port}/",
        how="process",
        argv=[program, *_JAVA_OPTIONS, "-cp", path, "DurableMongo", HOST, str(port), str(data / "store.mv")],
        data=data,
        ready=ready,
    )


def _initiate(host: str, port: int) -> None:
    """Make a lone mongod the primary of a replica set of one."""
    import pymongo
    from pymongo.errors import ConnectionFailure, OperationFailure

    deadline = time.monotonic() + 60
    while True:
        url = f"mongodb://{host}:{port}/?directConnection=true"
        with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=2000) as client:
            try:
                members = [{"_id": 0, "host": "127.0.0.1:27017"}]
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            except ConnectionFailure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            except OperationFailure as error:
                if error.code != _ALREADY_INITIALIZED:
                    raise
                return
            else:
                return


_ALREADY_INITIALIZED = 23

KIND = Kind(
    name="mongo",
    title="MongoDB",
    ready=ready,
    version=version,
    image=Image(
        name="mongo:8",
        port=27017,
        url="mongodb://{host}:{port}/?directConnection=true",
        command=["mongod", "--replSet", "rs0", "--bind_ip_all"],
        prepare=_initiate,
    ),
    install=install,
    process=process,
)
