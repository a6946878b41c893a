"""Attack Warehouse on simulated and on real stores, and tell what was found.

Real servers are started here, as processes, and killed; none that runs already is touched.
"""

from __future__ import annotations

import argparse
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import servers
from campaign import judge
from campaign.report import Campaign, write
from campaign.rounds import JOURNALS, SERVERS, Plan, Result, play
from servers import ProcessServer, ServerMissing
from warehouse.testing.simulation.__main__ import run

_ROUND = 120.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    seed = secrets.randbelow(10**9) if chosen.seed is None else chosen.seed
    campaign = Campaign(_command(chosen, seed))
    print(campaign.command, flush=True)
    if chosen.simulations:
        campaign.simulated = run(seed, chosen.simulations)
    if chosen.minutes:
        try:
            judge.install()
        except ServerMissing as missing:
            print(f"no judge from elsewhere: {missing}", flush=True)
        with _servers() as running:
            campaign.stores = [f"{server.title} {server.version}" for server in running.values()]
            campaign.absent = ["Qdrant's server, which no package registry has"]
            _rounds(campaign, running, seed, chosen)
    write(campaign, chosen.report)
    print(f"{len(campaign.problems)} problems; {chosen.report} tells all", flush=True)
    return 1 if campaign.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument(
        "--simulations", type=int, default=10000, help="how many seeds to simulate (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=5, help="how long to attack real servers (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="where chance begins (default: anywhere; it is printed)")
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("build/reliability.md"),
        help="the page to write (default: %(default)s)",
    )
    return parser


def _command(chosen: argparse.Namespace, seed: int) -> str:
    settings = {"SIMULATIONS": chosen.simulations, "MINUTES": f"{chosen.minutes:g}", "SEED": seed}
    return "make campaign " + " ".join(
        f"{name}={shlex.quote(str(value))}" for name, value in settings.items()
    )


@contextmanager
def _servers() -> Iterator[dict[str, ProcessServer]]:
    """One of each kind, side by side."""
    with ThreadPoolExecutor() as pool:
        begun = dict(
            zip(SERVERS, pool.map(lambda name: servers.start(name, private=True), SERVERS), strict=True)
        )
    try:
        yield begun
    finally:
        for server in begun.values():
            server.remove()


def _rounds(
    campaign: Campaign, running: dict[str, ProcessServer], seed: int, chosen: argparse.Namespace
) -> None:
    """Rounds until the time is over; the page is written after each."""
    end, number = time.monotonic() + chosen.minutes * 60, 0
    while (left := end - time.monotonic()) > min(10, chosen.minutes * 30):
        plan = Plan(JOURNALS[number % len(JOURNALS)], min(_ROUND, left), seed + number)
        folder = Path(tempfile.mkdtemp(prefix="warehouse-campaign-"))
        result = play(plan, running, folder)
        _say(number, plan, result, folder)
        campaign.rounds.add(result)
        write(campaign, chosen.report)
        if not result.problems:
            shutil.rmtree(folder, ignore_errors=True)
        number += 1


def _say(number: int, plan: Plan, result: Result, folder: Path) -> None:
    transactions = result.operations["write"]
    print(
        f"round {number + 1}: journal on {plan.journal}, {transactions} transactions"
        f" ({transactions / result.seconds:.0f}/s), {result.effective} took effect, {result.faults.total()} faults,"
        f" {result.judged} operations judged, settled in {result.settled:.1f} s, {len(result.problems)} problems",
        flush=True,
    )
    for problem in result.problems[:10]:
        print(f"  {problem}", flush=True)
    if result.problems:
        print(f"  its history is in {folder}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
