"""The network of a simulation: every call is a message that may come late or never, as may its reply.

A process that is paused neither sends nor hears anything until it goes on; one that was killed, never again. What it
had sent arrives all the same.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from warehouse.errors import JournalUnavailable, StoreOutcomeUnknown, StoreUnavailable, WarehouseError
from warehouse.journal.base import ReplyLost
from warehouse.testing.faults import Faults

T = TypeVar("T")
# After how many seconds without a reply a client gives up, and within how many a message arrives, if ever. A store
# without transactions is told the latter as `settle`.
PATIENCE: Final = 0.3
LATEST: Final = 0.9
# What has no effect that a client could be in doubt about, and must not fail.
_SAFE: Final = frozenset({"open", "close", "connect", "describe", "unit", "rollback"})
_EFFECTS: Final = frozenset({"write", "commit", "prepare", "finish"})
_JOURNALED: Final = frozenset({"decide", "append", "change_state", "finish", "complete", "take_over", "beat"})


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely each fault is, for one message."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    refused: float = 0.0


@dataclass(slots=True)
class Network:
    """What goes on between processes and servers, and what went wrong (`faults`, by kind)."""

    chance: random.Random
    weather: Weather = field(default_factory=Weather)
    faults: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    over: bool = False
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _served: set[asyncio.Task[None]] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.log.append(f"{asyncio.get_running_loop().time():9.4f} {text}")

    async def call(self, process: Process, call: str, work: Callable[[], Awaitable[T]]) -> T:
        """Send a request, and wait for its reply; the errors are those of a driver."""
        await process.awake()
        fate = self._fate(call)
        if fate:
            self.faults[fate] += 1
        self.note(f"{process.name} {call} {fate}")
        if fate == "refused":
            raise _refusal(call)
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if fate != "lost request":
            self._serve(work, self._delay(fate), reply)
        try:
            async with asyncio.timeout(PATIENCE if fate else None):
                result = await (self.never() if fate else reply)
        except TimeoutError:
            await process.awake()
            raise _silence(call) from None
        await process.awake()
        return result

    async def never(self) -> Any:
        """Wait for ever; whoever waits is kept from the garbage collector."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def after(self, seconds: float, work: Callable[[], Awaitable[Any]]) -> None:
        """Have something done by a server, after a while."""
        self._serve(work, seconds, asyncio.get_running_loop().create_future())

    def _serve(self, work: Callable[[], Awaitable[T]], delay: float, reply: asyncio.Future[T]) -> None:
        if self.over:
            return
        task = asyncio.ensure_future(self._served_by(work, delay, reply))
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _served_by(
        self, work: Callable[[], Awaitable[T]], delay: float, reply: asyncio.Future[T]
    ) -> None:
        await asyncio.sleep(delay)
        try:
            result = await work()
        except Exception as error:  # noqa: BLE001 - it is the client's
            await asyncio.sleep(self._delay(""))
            if not reply.done():
                reply.set_exception(error)
                reply.exception()  # whether or not anybody still listens
        else:
            await asyncio.sleep(self._delay(""))
            if not reply.done():
                reply.set_result(result)

    def _fate(self, call: str) -> str:
        """What becomes of a message: nothing special, mostly."""
        if call.rpartition(".")[2] in _SAFE:
            return ""
        dice = self.chance.random()
        for fate, likely in (
            ("lost request", self.weather.lost_request),
            ("lost reply", self.weather.lost_reply),
            ("late", self.weather.late),
            ("refused", self.weather.refused),
        ):
            if dice < likely:
                return fate
            dice -= likely
        return ""

    def _delay(self, fate: str) -> float:
        if fate == "late":
            return self.chance.uniform(PATIENCE, LATEST)
        return self.chance.choice((0.0005, 0.001, 0.002, 0.01)) * (0.5 + self.chance.random())


def _refusal(call: str) -> WarehouseError:
    """What a client is told of a request that certainly was not and will not be served."""
    where = call.partition(".")[0]
    return (JournalUnavailable if where == "journal" else StoreUnavailable)("the server refused it")


def _silence(call: str) -> WarehouseError:
    """What a client is told where no reply came."""
    where, _, method = call.partition(".")
    if where == "journal":
        return (ReplyLost if method in _JOURNALED else JournalUnavailable)("no reply")
    return (StoreOutcomeUnknown if method in _EFFECTS else StoreUnavailable)("no reply")


class Process(Faults):
    """One process, as the network sees it: it runs, is paused, or is dead.

    `connections`: what is called for each of its sessions once a server sees that it is dead.
    """

    def __init__(self, name: str, network: Network) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.dead = False
        self.ahead = 0.0  # seconds by which its wall clock is wrong
        self.connections: list[Callable[[], Awaitable[None]]] = []
        self._going = asyncio.Event()
        self._going.set()
        self._sent = 0
        self._strikes: dict[int, Callable[[], None]] = {}
        self._aimed: dict[str, tuple[int, Callable[[], None]]] = {}

    def strike(self, number: int, fate: Callable[[], None], *, after: str = "") -> None:
        """Have something happen to it just before it sends its message of this number.

        `after`: they are counted from the first time that it makes this call, which has the number 0.
        """
        if after:
            self._aimed[after] = number, fate
        else:
            self._strikes[number] = fate

    async def awake(self) -> None:
        """Return while the process runs; a dead one never comes back."""
        while not self.network.over:
            if self.dead:
                await self.network.never()
            if self._going.is_set():
                return
            await self._going.wait()
        raise asyncio.CancelledError("the simulation is over")

    def kill(self) -> None:
        """Be gone, as by SIGKILL; servers see that sooner or later."""
        self.dead = True
        for hang_up in self.connections:
            self.network.after(LATEST + self.network.chance.random(), hang_up)

    def pause(self) -> None:
        """Stop, as by SIGSTOP."""
        self._going.clear()

    def go_on(self) -> None:
        """Continue, as by SIGCONT."""
        self._going.set()

    def pause_for(self, seconds: float) -> None:
        """Stop for so long."""
        self.pause()
        asyncio.get_running_loop().call_later(seconds, self.go_on)

    async def through(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        self._sent += 1
        if call in self._aimed:
            number, aimed = self._aimed.pop(call)
            self._strikes[self._sent + number] = aimed
        fate = self._strikes.pop(self._sent, None)
        if fate is not None:
            fate()
            await self.awake()
        return await self.network.call(self, call, work)
