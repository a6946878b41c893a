"""A campaign of simulations: `python -m warehouse.testing.simulation --simulations 10000`."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections import Counter
from collections.abc import Sequence

from warehouse.testing.simulation import Outcome
from warehouse.testing.simulation.many import Figures, simulate_many


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate so many seeds on all cores; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m warehouse.testing.simulation", description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000, help="how many seeds (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the first of them (default: any)")
    parser.add_argument("--trace", action="store_true", help="print every message; with --simulations 1")
    chosen = parser.parse_args(arguments)
    first = secrets.randbelow(10**9) if chosen.seed is None else chosen.seed
    return 1 if run(first, chosen.simulations, trace=chosen.trace).failed else 0


def run(first: int, simulations: int, *, trace: bool = False) -> Figures:
    """Simulate, and print what happens."""

    def show(outcome: Outcome) -> None:
        if trace:
            print("\n".join(outcome.trace))
        for problem in outcome.problems:
            print(f"seed {outcome.seed}: {problem}", flush=True)

    print(f"{simulations} simulations from seed {first}, on {os.cpu_count() or 1} cores", flush=True)
    figures = simulate_many(first, simulations, show)
    print(f"{figures.seeds / figures.seconds:.0f} seeds a second")
    print("callers were told: " + _counted(figures.told))
    print("faults: " + _counted(figures.faults))
    print(f"seeds with problems: {figures.failed}")
    return figures


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
