"""How two ways of doing the same are compared: in one process, in turn, warm-up discarded, medians.

A `Workload` does one thing by the drivers (`raw`) and by the warehouse (`ours`). `compare` alternates them one by
one; `compare_throughput` alternates windows in which so many do it at once. The interval of a ratio is the
percentile bootstrap of the ratio of medians over pairs (Efron and Tibshirani, 1993).
"""

from __future__ import annotations

import asyncio
import random
import resource
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

_DRAWN = 1000


class Workload(ABC):
    """One line of the table. `needs` are servers by name; `rounds` how often it is done at the most."""

    name: ClassVar[str]
    against: ClassVar[str]
    target: ClassVar[float]
    needs: ClassVar[tuple[str, ...]] = ()
    rounds: ClassVar[int] = 1000
    warm_up: ClassVar[int] = 100
    more_is_better: ClassVar[bool] = False
    at_once: ClassVar[int] = 1

    def __init__(self, urls: dict[str, str], folder: str) -> None:
        self.urls, self.folder = urls, folder

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make what is written to."""

    @abstractmethod
    async def raw(self, number: int) -> None:
        """Do it by the drivers; `number` is another one each time."""

    @abstractmethod
    async def ours(self, number: int) -> None:
        """Do it by the warehouse."""

    async def prepare(self) -> None:
        """What has to be there before each `ours`, and is not measured."""

    async def close(self) -> None:
        """Close what was opened."""

    async def notes(self) -> dict[str, Any]:
        """What else is to be told, by name."""
        return {}


@dataclass
class Figure:
    """What came of a comparison; times in seconds for one, CPU times of this process."""

    name: str
    against: str
    target: float
    ratio: float
    low: float
    high: float
    raw: float
    ours: float
    cpu_raw: float = 0.0
    cpu_ours: float = 0.0
    more_is_better: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def meets(self) -> bool:
        """Whether the ratio meets its target."""
        return self.ratio >= self.target if self.more_is_better else self.ratio <= self.target

    @property
    def misses(self) -> bool:
        """Whether it surely does not: the whole interval is on the wrong side."""
        return self.high < self.target if self.more_is_better else self.low > self.target


@dataclass
class Times:
    """Seconds, and seconds of CPU, each time something was done."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def take(self, work: Awaitable[None]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        await work
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


async def compare(workload: Workload, seconds: float) -> Figure:
    """Do it in turn, until `rounds` or `seconds` are over."""
    raw, ours = Times(), Times()
    give_up = time.monotonic() + seconds
    for number in range(workload.warm_up + workload.rounds):
        if number == workload.warm_up:
            raw, ours = Times(), Times()
        await raw.take(workload.raw(2 * number))
        await workload.prepare()
        await ours.take(workload.ours(2 * number + 1))
        if time.monotonic() > give_up and len(raw.wall) >= 5 and number >= workload.warm_up:
            break
    return figure_of(workload, raw, ours, await workload.notes())


def figure_of(workload: Workload, raw: Times, ours: Times, notes: dict[str, Any]) -> Figure:
    """The ratio of ours to raw."""
    low, high = interval(raw.wall, ours.wall)
    one, other = statistics.median(raw.wall), statistics.median(ours.wall)
    return Figure(
        workload.name, workload.against, workload.target, other / one, low, high, one, other,
        statistics.mean(raw.cpu), statistics.mean(ours.cpu), notes={"pairs": len(raw.wall), **notes},
    )  # fmt: skip


async def compare_throughput(workload: Workload, seconds: float, windows: int = 7) -> Figure:
    """How many a second, with `at_once` of them at the same time, in windows that alternate."""
    each = seconds / (2 * windows + 2)
    raws, mine = [], []
    numbers = _Numbers()
    for window in range(windows + 1):
        one = await _window(workload.raw, workload.at_once, each, numbers)
        other = await _window(workload.ours, workload.at_once, each, numbers)
        if window:
            raws.append(one)
            mine.append(other)
    low, high = interval(raws, mine)
    one, other = statistics.median(raws), statistics.median(mine)
    return Figure(
        workload.name, workload.against, workload.target, other / one, low, high, 1 / one, 1 / other,
        more_is_better=True, notes={"raw/s": one, "ours/s": other, **await workload.notes()},
    )  # fmt: skip


class _Numbers:
    """Another number each time."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


async def _window(
    work: Callable[[int], Awaitable[None]], at_once: int, seconds: float, numbers: _Numbers
) -> float:
    """How many a second."""
    done, end = 0, time.monotonic() + seconds

    async def again() -> None:
        nonlocal done
        while time.monotonic() < end:
            await work(numbers.next())
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(again() for _ in range(at_once)))
    return done / (time.monotonic() - began)


def interval(raws: Sequence[float], mine: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the ratio of the medians, pairs drawn together."""
    pairs = list(zip(raws, mine, strict=True))
    chance = random.Random(1)
    ratios = []
    for _ in range(_DRAWN):
        drawn = chance.choices(pairs, k=len(pairs))
        ratios.append(statistics.median(p[1] for p in drawn) / statistics.median(p[0] for p in drawn))
    ratios.sort()
    return ratios[_DRAWN // 40], ratios[-_DRAWN // 40]


def peak_memory() -> float:
    """The most memory that this process has had, in MiB; not that of who started it, as `ru_maxrss` may be."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
