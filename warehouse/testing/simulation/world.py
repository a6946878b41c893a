"""What happens in a simulation: processes that run transactions, readers, foreign writers, and their misfortunes.

As transactions do (see `attempts`), every foreign writer adds a power of two of its own to a number in a record.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from warehouse.adapter import Adapter, UnitSettings
from warehouse.client import AsyncWarehouse
from warehouse.errors import OutcomeUnknown, StoreContention, WarehouseError
from warehouse.journal.memory import MemoryJournal
from warehouse.planning import freeze
from warehouse.records import ABSENT, Absent, Image
from warehouse.testing.simulation import clock
from warehouse.testing.simulation.attempts import DELETED, ENTITY, INSERTED, RECORDS, Attempt, Place, own
from warehouse.testing.simulation.network import LATEST, Network, Process, Weather
from warehouse.testing.simulation.stores import Server, attach

LEASE: Final = 2.0
# a and b have transactions, c can also be asked for their outcome; p and q have none.
HELD: Final = ("a", "b", "c")
ASKS: Final = ("c",)
PLANNED: Final = ("p", "q")
_STORES: Final = {tag: {"adapter": "memory", "transactions": tag in HELD} for tag in (*HELD, *PLANNED)}
_FOREIGN: Final = 40
# In a duel, this share of those who are struck is paused, and the others are killed: most at some message, the rest
# of the owners once their callers were told.
_PAUSED: Final = 0.5
_AT_ONCE: Final = 0.75
# In this share of the duels they are struck where it hurts: the owner soon after its decision, who recovers it about
# when it looks at a record, for so long that others end it meanwhile. So often somebody else writes to one of the
# records then; and so often not only the first of those who recover it is struck.
_AIMED: Final = 0.5
_MEANWHILE: Final = 0.8
_BOTH: Final = 0.3
# So many transactions have an idempotency key, and are called again with it. So many processes have a wall clock that
# is wrong by some seconds, and jumps.
_KEYED: Final = 0.3
# So many of the records of a duel are shared; the others are inserted or deleted.
_SHARED: Final = 0.7
_WRONG: Final = 0.3
_FAR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a simulation is put together from. A test replaces one, to see that it is missed.

    `store` makes the adapter of a server out of that of an in-process store.
    """

    journal: Callable[[], MemoryJournal] = MemoryJournal
    store: Callable[[Adapter], Adapter] = lambda adapter: adapter
    settle: float = LATEST


@dataclass(slots=True)
class World:
    """The servers, the network and all that was tried.

    By the number of a transaction, what readers saw: `seen` if any of it, `halves` if not all, `unseen` if nothing
    after its caller was told that it completed.
    """

    chance: random.Random
    parts: Parts = field(default_factory=Parts)
    duelling: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    foreign: dict[Place, list[int]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    halves: dict[int, str] = field(default_factory=dict)
    unseen: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    network: Network = field(init=False)
    journal: MemoryJournal = field(init=False)
    servers: dict[str, Server] = field(init=False)
    _strangers: int = 0
    _meanwhile: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = Network(self.chance)
        self.journal = self.parts.journal()
        registry = AsyncWarehouse(adapters=_STORES, journal={"url": "memory://"})._registry  # noqa: SLF001
        self.servers = {tag: self._server(tag, registry.get(tag).adapter) for tag in registry.tags}

    def _server(self, tag: str, adapter: Adapter) -> Server:
        server = Server(tag, self.parts.store(adapter), asks=tag in ASKS)
        for number in RECORDS:
            self._space(server).put(ENTITY, {"id": number}, {"id": number, "n": 0})
        return server

    @staticmethod
    def _space(server: Server) -> Any:
        return server.adapter._store.space  # type: ignore[attr-defined]  # noqa: SLF001 - past the warehouse

    def image(self, place: Place) -> Image:
        """A record, as the store has it."""
        tag, number = place
        image: Image = self._space(self.servers[tag]).table(ENTITY).get(freeze({"id": number}), ABSENT)
        return image

    def value(self, place: Place) -> int:
        """The number in a record."""
        image = self.image(place)
        assert isinstance(image, Mapping), f"{place} is gone"
        return int(image["n"])

    def locks(self) -> list[str]:
        """What is locked in the stores."""
        return [tag for tag, server in self.servers.items() if self._space(server).locks._owners]  # noqa: SLF001

    # The processes

    def warehouse(self, name: str) -> tuple[AsyncWarehouse, Process]:
        """A warehouse in a process of its own, not opened yet."""
        process = Process(name, self.network)
        warehouse = AsyncWarehouse(
            adapters=_STORES,
            journal={"url": "memory://", "lease": LEASE},
            transactions={"lock_timeout": 2, "timeout": 6, "grace": 3},
        )
        attach(warehouse, process, list(self.servers.values()), self.journal)
        clock.ahead.set(lambda: process.ahead)
        self._set(process)
        for tag in PLANNED:
            process.declare(tag, settle=self.parts.settle)
        for tag in ASKS:
            process.declare(tag, asks=True)
        self.processes.append(process)
        return warehouse, process

    def _set(self, process: Process) -> None:
        """Have its wall clock jump, in some processes."""
        if self.chance.random() < _WRONG:
            process.ahead += self.chance.uniform(-_FAR, _FAR)
            self._count("clock jumped", process)
            asyncio.get_running_loop().call_later(
                self.chance.uniform(0.1, 2 * LEASE), partial(self._set, process)
            )

    async def live(self, name: str, work: list[Attempt]) -> None:
        """A process that runs transactions, some side by side, and is killed or paused on the way, or neither."""
        warehouse, process = self.warehouse(name)
        doing = [asyncio.ensure_future(self._opened(warehouse, process, work))]
        fate = self.chance.choice(("well", "killed", "killed", "paused"))
        await asyncio.sleep(self.chance.uniform(0.01, 0.25))
        if fate == "killed":
            self._count("process killed", process)
            process.kill()
        elif fate == "paused":
            self._count("process paused", process)
            process.pause()
            await asyncio.sleep(self.chance.uniform(LEASE, 4 * LEASE))
            process.go_on()
        if fate != "killed":
            await asyncio.wait(doing)
            await warehouse.close()

    def _count(self, kind: str, process: Process) -> None:
        self.network.faults[kind] += 1
        self.network.note(f"{process.name}: {kind}")

    async def _opened(self, warehouse: AsyncWarehouse, process: Process, work: list[Attempt]) -> None:
        for _ in range(20):
            try:
                await warehouse.open()
                break
            except WarehouseError:
                await asyncio.sleep(0.1)
        await asyncio.gather(*(self._run(warehouse, process, attempt) for attempt in work))

    async def _run(self, warehouse: AsyncWarehouse, process: Process, attempt: Attempt) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        options: Any = {"name": attempt.name, "pattern": attempt.pattern}
        if attempt.keyed:
            options["idempotency_key"] = attempt.name
        call = len(attempt.calls)
        attempt.calls.append("dead")
        try:
            result = await warehouse.transaction(attempt.operations(), **options)
            told: str = result.status
            attempt.left |= {(item.tag, item.key["id"]) for item in result.residue}
            attempt.away = any(item.reason == "unreachable" for item in result.residue)
        except OutcomeUnknown:
            told = "unknown"
        except WarehouseError:
            told = "refused"
        await process.awake()  # a dead caller hears nothing
        attempt.calls[call] = told
        self.network.note(f"{attempt.name} told {told}")
        if told == "completed":
            await self._look(warehouse, self.chance.choice(attempt.places)[0], attempt)

    async def _look(self, warehouse: AsyncWarehouse, tag: str, own: Attempt | None = None) -> None:
        """Read a store: each transaction is seen in all of its records there, or in none; `own` has completed."""
        try:
            rows = await warehouse.find({"tag": tag, "entity": ENTITY.name})
        except WarehouseError:
            return
        found = {row["id"]: row for row in rows}
        for attempt in self.attempts:
            mine = [number for store, number in attempt.places if store == tag]
            here = {attempt.is_seen(number, found.get(number, ABSENT)) for number in mine}
            if len(here) == 2:
                self.halves[attempt.number] = f"a reader saw half of it in {tag}: {found}"
            if True in here:
                self.seen.add(attempt.number)
            elif attempt is own:
                self.unseen[attempt.number] = f"a reader did not see it in {tag}"

    async def read(self) -> None:
        """A process that only reads."""
        warehouse, process = self.warehouse("reader")
        await self._opened(warehouse, process, [])
        for _ in range(20):
            await self._look(warehouse, self.chance.choice(list(self.servers)))
            await asyncio.sleep(self.chance.uniform(0, 0.05))
        await warehouse.close()

    async def restart(self, until: float) -> None:
        """A server crashes and comes back."""
        server = self.servers[self.chance.choice(HELD)]
        await asyncio.sleep(self.chance.uniform(0, until))
        self.network.faults["server restarted"] += 1
        self.network.note(f"{server.tag} restarted")
        await server.restart()

    async def interfere(self, places: Sequence[Place], until: float) -> None:
        """Somebody who knows nothing of the warehouse adds to one of these records, as its store lets them."""
        bit = 1 << _FOREIGN + self._strangers
        self._strangers += 1
        place = self.chance.choice(places) if places else self._any_place()
        server = self.servers[place[0]]
        await asyncio.sleep(self.chance.uniform(0, until))
        async with server.adapter.unit(UnitSettings(transaction_id="foreign", lock_timeout=5)) as unit:
            try:
                await unit.read(await server.adapter.describe(ENTITY), [{"id": place[1]}])
            except StoreContention:
                return
            if isinstance(self.image(place), Absent):
                return
            value = self.value(place) + bit
            self._space(server).put(ENTITY, {"id": place[1]}, {"id": place[1], "n": value})
        self.foreign.setdefault(place, []).append(bit)
        self._note_foreign(place)

    def _any_place(self) -> Place:
        return self.chance.choice(list(self.servers)), self.chance.choice(RECORDS)

    def _note_foreign(self, place: Place) -> None:
        self.network.faults["foreign write"] += 1
        self.network.note(f"foreign write to {place}")

    # A duel: who recovers a transaction is struck, too, and somebody else writes to its records

    async def duel(self) -> None:
        """A transaction whose owner dies at some message, and two who recover it, paused at some message each."""
        first = self._duellist(self.chance.choice(("staged", "staged", "saga", "two_phase_commit")))
        second = self._duellist("staged", tuple((tag, 1) for tag, _ in first.places))
        aimed = self.chance.random() < _AIMED
        await asyncio.gather(
            self._strike("owner", first, aimed=aimed),
            self._rescue("rescuer 0", first.places, aimed=aimed),
            self._rescue("rescuer 1", first.places, aimed=aimed),
            self._later(second),
            *(self.interfere(first.places, 4 * LEASE) for _ in range(self.chance.choice((1, 1, 2)))),
            *(self.restart(4 * LEASE) for _ in range(self.chance.choice((0, 0, 1)))),
        )
        await asyncio.gather(*self._meanwhile)

    def _duellist(self, pattern: str, among: tuple[Place, ...] = ()) -> Attempt:
        held = [(tag, self._record()) for tag in HELD]
        planned = [] if pattern == "two_phase_commit" else [(tag, self._record()) for tag in PLANNED]
        places = among or (*self.chance.sample(held, 2), *self.chance.sample(planned, min(1, len(planned))))
        some = self.chance.sample(places, self.chance.choice((2, 2, 3)) if len(places) > 2 else 2)
        return self._attempt(some, pattern)

    def _others(self) -> list[int]:
        """Sometimes, what is inserted or deleted."""
        return [record] if (record := self._record()) not in RECORDS else []

    def _record(self) -> int:
        return 1 if self.chance.random() < _SHARED else self.chance.choice((INSERTED, DELETED))

    def _attempt(self, places: Sequence[Place], pattern: str, *, keyed: bool = False) -> Attempt:
        """A transaction on these records, or some of its own in their places; what it deletes is there."""
        number = len(self.attempts)
        mine = tuple((tag, own(number, record)) for tag, record in places)
        for tag, record in mine:
            if record >= DELETED:
                self._space(self.servers[tag]).put(ENTITY, {"id": record}, {"id": record, "n": 0})
        self.attempts.append(Attempt(number, mine, pattern, keyed))
        return self.attempts[-1]

    async def _strike(self, name: str, attempt: Attempt, *, aimed: bool) -> None:
        """A process that is killed or paused at some message, or killed right after its caller was told."""
        warehouse, process = self.warehouse(name)
        paused = self.chance.random() < _PAUSED
        if aimed:
            number = self.chance.choice((1, 1, 1, 2, 3, 5))
            self._struck(process, number, paused=paused, after="journal.decide")
        elif paused or self.chance.random() < _AT_ONCE:
            self._struck(process, self.chance.randint(6, 24), paused=paused)
        work = asyncio.ensure_future(self._opened(warehouse, process, [attempt]))
        while attempt.told == "dead" and not process.dead and not work.done():  # noqa: ASYNC110 - by the clock
            await asyncio.sleep(0.0005)
        if not process.dead and not paused:
            self._killed(process)
        elif paused:
            await asyncio.wait({work})
            await asyncio.wait({asyncio.ensure_future(warehouse.close())}, timeout=6 * LEASE)

    def _struck(self, process: Process, number: int, *, paused: bool, after: str = "") -> None:
        """Have it paused or killed just before its message of this number (see `Process.strike`)."""
        seconds = self.chance.uniform(LEASE, 3 * LEASE)
        fate = partial(self._pause, process, seconds) if paused else partial(self._killed, process)
        process.strike(number, fate, after=after)

    def _overtaken(self, process: Process, places: Sequence[Place]) -> None:
        """Have it paused about when it looks at a record, until others have ended what it is at.

        Somebody else may write to one of the records before they do.
        """
        seconds = self.chance.uniform(2 * LEASE, 4 * LEASE)
        both, meddled = self.chance.random() < _BOTH, self.chance.random() < _MEANWHILE

        def overtake() -> None:
            if both or not self._meanwhile:
                self._pause(process, seconds)
                meddle = self.interfere(places, LEASE) if meddled else asyncio.sleep(0)
                self._meanwhile.append(asyncio.ensure_future(meddle))

        process.strike(self.chance.randint(0, 4), overtake, after=f"{self.chance.choice(places)[0]}.read")

    def _pause(self, process: Process, seconds: float) -> None:
        self._count("process paused", process)
        process.pause_for(seconds)

    def _killed(self, process: Process) -> None:
        self._count("process killed", process)
        process.kill()

    async def _rescue(self, name: str, places: tuple[Place, ...], *, aimed: bool) -> None:
        """A process that recovers what others left, and is paused or killed at some message."""
        warehouse, process = self.warehouse(name)
        if aimed:
            self._overtaken(process, places)
        else:
            self._struck(process, self.chance.randint(10, 45), paused=self.chance.random() < _PAUSED)
        opening = asyncio.ensure_future(self._opened(warehouse, process, []))
        await asyncio.sleep(6 * LEASE)
        if opening.done() and not process.dead:
            closing = asyncio.ensure_future(warehouse.close())
            await asyncio.wait({closing}, timeout=6 * LEASE)  # it may still be struck

    async def _later(self, attempt: Attempt) -> None:
        await asyncio.sleep(self.chance.uniform(LEASE, 4 * LEASE))
        await self.live("later", [attempt])

    # The whole

    async def run(self) -> None:
        """Let everything happen, then let there be peace, and wait until all has come to its end."""
        self.network.weather = self._weather()
        await (self.duel() if self.duelling else self._melee())
        await self._peace()

    async def _melee(self) -> None:
        """Several processes with several transactions each."""
        groups = [self._attempts() for _ in range(self.chance.randint(1, 3))]
        lives = [self.live(f"p{number}", group) for number, group in enumerate(groups)]
        others = [self.interfere((), 0.5) for _ in range(self.chance.choice((0, 0, 1, 2)))]
        others += [self.restart(0.5) for _ in range(self.chance.choice((0, 0, 0, 1, 2)))]
        keyed = [attempt for attempt in self.attempts if attempt.keyed]
        await asyncio.gather(*lives, *others, self.read(), self._again(keyed))

    async def _again(self, attempts: list[Attempt]) -> None:
        """Who did not hear how its calls ended makes them again, in another process."""
        if attempts:
            await asyncio.sleep(self.chance.uniform(0, 3 * LEASE))
            await self.live("again", attempts)

    async def _peace(self) -> None:
        self.network.weather = Weather()
        self.network.note("peace")
        warehouse, process = self.warehouse("rescue")
        await self._opened(warehouse, process, [])
        await warehouse.participants()  # what was left prepared is looked for in the stores that are in use
        await asyncio.sleep(LATEST)  # what was sent before may still arrive
        for _ in range(600):
            await asyncio.sleep(0.1)
            if not await self.journal.claims() and not self.locks():
                break
        else:
            open_ones = [claim.transaction_id for claim in await self.journal.claims()]
            self.problems.append(f"not at its end after 60 s: {open_ones}, locks in {self.locks()}")
        await asyncio.sleep(LATEST)
        await warehouse.close()
        self.network.over = True

    def _weather(self) -> Weather:
        kind = self.chance.choice(("calm", "calm", "bad", "late"))
        if kind == "calm":
            return Weather()
        if kind == "late":
            return Weather(late=0.04)
        return Weather(lost_request=0.02, lost_reply=0.03, late=0.01, refused=0.02)

    def _attempts(self) -> list[Attempt]:
        out = []
        for _ in range(self.chance.randint(1, 3)):
            pattern = self.chance.choice(("staged", "staged", "staged", "saga", "two_phase_commit"))
            tags = HELD if pattern == "two_phase_commit" else (*HELD, *PLANNED)
            everywhere = [
                (tag, number)
                for tag in tags
                for number in (*RECORDS[: self.chance.choice((1, 1, 2))], *self._others())
            ]
            places = self.chance.sample(everywhere, self.chance.choice((1, 2, 2, 3)))
            out.append(self._attempt(places, pattern, keyed=self.chance.random() < _KEYED))
        return out
