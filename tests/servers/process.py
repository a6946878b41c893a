"""A server that is a process of ours, with a data folder, a log and a loopback port."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from servers.base import Server, ServerMissing, answers, wait_until

_CHILD = Path(__file__).with_name("child.py")
_TAIL = 40
_alive: set[ProcessServer] = set()
_folders: set[Path] = set()


@dataclass(kw_only=True, eq=False)
class ProcessServer(Server):
    """A process started here: it may be killed and started again on the same data and port."""

    argv: list[str]
    data: Path
    ready: Callable[[str], bool]
    patience: float = 60.0
    user: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_patience: float = 20.0
    env: Mapping[str, str] = field(default_factory=dict)
    more_logs: tuple[Path, ...] = ()
    _popen: subprocess.Popen[bytes] | None = None
    _asked: bool = False

    @property
    def log(self) -> Path:
        return self.data / "server.log"

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise RuntimeError(f"{self.title} is not running")
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it and wait until its protocol answers; nothing to do while it runs."""
        if self.running:
            return
        begun = time.monotonic()
        self._asked = False
        with self.log.open("ab") as log:
            self._popen = _spawner.spawn(self._command(), log, self.data, {**os.environ, **self.env})
        _alive.add(self)
        wait_until(lambda: not self.running or answers(self.ready, self.url), self.patience)
        if not (self.running and answers(self.ready, self.url)):
            why = "did not answer in time" if self.running else "ended at once"
            self.kill()
            raise ServerMissing(f"{self.title} {why}; the end of its log:\n{self.log_tail()}")
        self.boot_seconds = time.monotonic() - begun

    def stop(self) -> None:
        """End it in order, by its own pid; kill it when that takes too long."""
        if self._popen is not None and self.running:
            self.ask_to_stop()
            try:
                self._popen.wait(self.stop_patience)
            except subprocess.TimeoutExpired:
                self.kill()
        _alive.discard(self)

    def ask_to_stop(self) -> None:
        """Send the signal that ends it in order, and do not wait."""
        if self._popen is not None and not self._asked:
            self._asked = True
            self._popen.send_signal(self.stop_signal)

    def kill(self) -> None:
        """kill -9 of the server and of the processes that it started; returns when all are gone."""
        if self._popen is None:
            return
        family = [self._popen.pid, *descendants(self._popen.pid)] if self.running else []
        for pid in family:
            _kill(pid)
        self._popen.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 10)
        _alive.discard(self)

    def restart(self) -> None:
        """Start it again after `kill` or `stop`: same data, same port."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        _folders.discard(self.data)

    def log_tail(self) -> str:
        lines: list[str] = []
        for path in (self.log, *self.more_logs):
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-_TAIL:]
        return "\n".join(lines)

    def _command(self) -> list[str]:
        return [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), self.user, *self.argv]


class _Spawner:
    """The one thread that forks: a process that dies with its parent dies with the thread that forked it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def spawn(
        self, argv: list[str], log: IO[bytes], cwd: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        result: Future[subprocess.Popen[bytes]] = Future()

        def task() -> None:
            try:
                popen = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=env,
                    start_new_session=True,
                )
                result.set_result(popen)
            except OSError as error:
                result.set_exception(error)

        self._ensure_thread()
        self._tasks.put(task)
        return result.result()

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._tasks = queue.SimpleQueue()
                threading.Thread(target=self._run, args=[self._tasks], name="servers", daemon=True).start()

    @staticmethod
    def _run(tasks: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            tasks.get()()


_spawner = _Spawner()


def data_folder(name: str, user: str = "") -> Path:
    """A new, empty folder for one server, owned by the user that it will run as."""
    folder = Path(tempfile.mkdtemp(prefix=f"warehouse-{name}-"))
    _folders.add(folder)
    if user:
        shutil.chown(folder, user)
    return folder


def unprivileged(*preferred: str) -> str:
    """The user for servers that refuse to be root: "" (stay as we are) unless we are root."""
    if os.geteuid() != 0:
        return ""
    for user in (*preferred, "nobody"):
        try:
            return pwd.getpwnam(user).pw_name
        except KeyError:
            continue
    raise ServerMissing(f"root needs one of these users to run the server as: {', '.join(preferred)}, nobody")


def run_tool(argv: list[str], *, user: str = "", cwd: Path | None = None) -> str:
    """Run a short-lived tool to its end and return what it printed; its output is in the error."""
    done = subprocess.run(
        argv,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        user=user or None,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-_TAIL:])
        raise ServerMissing(f"{' '.join(argv[:4])} ... failed ({done.returncode}):\n{tail}")
    return done.stdout


def descendants(pid: int) -> list[int]:
    """The processes below one of ours, from /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, front = list[int](), [pid]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        found += front
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def remove_all(servers: Iterable[ProcessServer]) -> None:
    """Stop servers side by side and delete their data; without threads, since it also serves at exit."""
    ending = list(servers)
    for server in ending:
        server.ask_to_stop()
    for server in ending:
        server.remove()


def _at_exit(owner: int) -> None:
    if os.getpid() != owner:
        return
    remove_all(_alive)
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


atexit.register(_at_exit, os.getpid())
