"""A campaign of simulations: `python -m warehouse.testing.simulation --simulations 10000`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence

from warehouse.testing.simulation import Outcome, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate so many seeds on all cores; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m warehouse.testing.simulation", description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000, help="how many seeds (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the first of them (default: any)")
    parser.add_argument("--trace", action="store_true", help="print every message; with --simulations 1")
    chosen = parser.parse_args(arguments)
    first = secrets.randbelow(10**9) if chosen.seed is None else chosen.seed
    told: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    failed = 0
    began = time.perf_counter()
    cores = os.cpu_count() or 1
    print(f"{chosen.simulations} simulations from seed {first}, on {cores} cores", flush=True)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for outcome in pool.imap_unordered(simulate, range(first, first + chosen.simulations), chunksize=20):
            told.update(outcome.told)
            faults.update(outcome.faults)
            failed += bool(outcome.problems)
            _show(outcome, trace=chosen.trace)
    print(f"{chosen.simulations / (time.perf_counter() - began):.0f} seeds a second")
    print("callers were told: " + _counted(told))
    print("faults: " + _counted(faults))
    print(f"seeds with problems: {failed}")
    return 1 if failed else 0


def _show(outcome: Outcome, *, trace: bool) -> None:
    if trace:
        print("\n".join(outcome.trace))
    for problem in outcome.problems:
        print(f"seed {outcome.seed}: {problem}", flush=True)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
