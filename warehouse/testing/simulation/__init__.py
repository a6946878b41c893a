"""Deterministic simulation: the engine on simulated stores, a simulated network and a virtual clock.

    outcome = simulate(7)
    assert not outcome.problems, outcome.trace

The engine is that of production: what is simulated are the stores, the journal's server, the network, the clock, and
the processes, which are paused and killed. One seed always gives the same trace. Nothing else may run in the process
meanwhile: its clocks, its chance and its threads are replaced.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from warehouse.testing.simulation import clock
from warehouse.testing.simulation.judge import judge
from warehouse.testing.simulation.world import Parts, World

__all__ = ["Outcome", "Parts", "simulate"]

_DUELS = frozenset({3, 5, 8})  # seeds that end with these digits are about who recovers


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulation ended.

    `problems`: what did not hold. `told`: what callers heard, and how often. `faults`: what went wrong, by kind.
    `trace`: every message, in order.
    """

    seed: int
    problems: tuple[str, ...]
    told: Mapping[str, int]
    faults: Mapping[str, int]
    trace: tuple[str, ...]


def simulate(seed: int, parts: Parts | None = None) -> Outcome:
    """What happens under this seed; `parts` replaces some of what the simulation is put together from.

    Raises `clock.Stuck` where everybody waits for ever.
    """

    async def everything() -> Outcome:
        chance = random.Random(f"world {seed}")  # noqa: S311 - to be repeated, not secret
        world = World(chance, parts or Parts(), duelling=seed % 10 in _DUELS)
        await world.run()
        await clock.end_others()
        problems = tuple(await judge(world))
        told = Counter(attempt.told for attempt in world.attempts)
        return Outcome(seed, problems, told, world.network.faults, tuple(world.network.log))

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what the engine warns of here was done to it
    try:
        return clock.run(everything, seed)
    finally:
        logging.disable(level)
