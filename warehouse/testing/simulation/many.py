"""Many simulations, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from warehouse.testing.simulation import Outcome, simulate


@dataclass
class Figures:
    """What simulations from seed `first` on had: how transactions ended, faults by kind, and what did not hold."""

    first: int
    seeds: int = 0
    seconds: float = 0.0
    told: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    failed: int = 0
    """Seeds with problems."""

    @property
    def transactions(self) -> int:
        return self.told.total()

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.told.update(outcome.told)
        self.faults.update(outcome.faults)
        self.problems += [f"seed {outcome.seed}: {problem}" for problem in outcome.problems]
        self.failed += bool(outcome.problems)


def simulate_many(first: int, seeds: int, each: Callable[[Outcome], None]) -> Figures:
    """Simulate `seeds` seeds from `first` on; `each` is called with every outcome, in any order."""
    figures = Figures(first)
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        for outcome in pool.imap_unordered(simulate, range(first, first + seeds), chunksize=20):
            figures.add(outcome)
            figures.seconds = time.perf_counter() - began
            each(outcome)
    return figures
