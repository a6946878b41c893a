"""`docs/reliability.md`, made from what a campaign found."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from campaign.faults import FULL, KILLED, PAUSED
from campaign.judge import NAME
from campaign.proxy import DELAYED, HALF_CLOSED, REPLY_LOST, REPLY_TORN, REQUEST_LOST, REQUEST_TORN
from campaign.rounds import Result
from warehouse.testing.simulation.many import Figures

_CUTS = (REQUEST_LOST, REQUEST_TORN, REPLY_LOST, REPLY_TORN, HALF_CLOSED, DELAYED)


@dataclass
class Campaign:
    """All that a campaign found."""

    command: str
    rounds: Result = field(default_factory=Result)
    simulated: Figures | None = None
    stores: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return self.rounds.problems + (self.simulated.problems if self.simulated else [])


def report(campaign: Campaign) -> str:
    """The page, as Markdown."""
    parts = [
        _head(campaign),
        _promises(campaign),
        _real(campaign),
        _simulated(campaign),
        _found(campaign),
        _NOT,
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def write(campaign: Campaign, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(campaign), encoding="utf-8")


def _head(campaign: Campaign) -> str:
    return f"""
# Reliability

This page is written by `make campaign`, which anybody can repeat: no figure on it was typed by hand. It says what
is promised, how each promise was attacked, how often, what was found, and what is not promised.

```
{campaign.command}
```

on {os.cpu_count()} cores, with {", ".join(campaign.stores) or "no real server"}.
{"".join(f"Not attacked: {name}. " for name in campaign.absent)}
"""


def _promises(campaign: Campaign) -> str:
    rounds, simulated = campaign.rounds, campaign.simulated
    transactions = rounds.operations["write"] + (simulated.transactions if simulated else 0)
    judged = f"{NAME} found one for {_n(rounds.judged)} operations"
    if rounds.problems or not rounds.judged:
        judged = f"{NAME} was asked about {_n(rounds.judged)} operations"
    return f"""
## What is promised, and how it is looked at

Of {_n(transactions)} transactions, {_n(rounds.operations["write"])} of them on real servers and the others
simulated, with all the faults below going on meanwhile:

* **All of a transaction takes effect, or none of it, once.** Each leaves a line in every store that it
  writes to. The line must be in all of them or in none, and each record must have been changed exactly as
  often as the transactions that took effect say.
* **The caller is told how it ended.** What was told (also to who asked twice under one key) is compared
  with the stores. Only `OutcomeUnknown`, and a caller who was killed, may find either.
* **No write is lost between transactions.** The writes and locked reads of each group of records, over all
  its stores, must have one order that fits their results and real time. A checker that nobody here wrote
  looks for it: {judged}.
* **Nothing is read that does not take effect, and a process sees its own writes.** Each of
  {_n(rounds.operations["find"])} calls of `find` must have seen what a transaction wrote that took effect,
  and nothing older than what its process had been told of.
* **No write of somebody else is overwritten.** Somebody writes to the same records by the stores' own
  drivers, {_n(rounds.operations["bypass"])} times; every such write must still be there at the end.
* **Whatever was interrupted comes to its end by itself.** When the faults stop, nothing may be open, locked
  or prepared after a minute; the longest took {rounds.settled:.1f} s.
"""


def _real(campaign: Campaign) -> str:
    rounds = campaign.rounds
    if not rounds.seconds:
        return ""
    kills = {
        name: number for name, number in rounds.faults.items() if name.endswith(" killed") and name != KILLED
    }
    other = [KILLED, PAUSED, FULL, *_CUTS]
    journals = ", ".join(f"{name} ({number} rounds)" for name, number in rounds.journals.most_common())
    return f"""
## On real servers

{_n(rounds.operations["write"])} transactions in {rounds.seconds / 60:.0f} minutes, by 16 concurrent writers in five
processes, one of whom bypasses the warehouse, with the journal on {journals}.

| their callers were told | transactions |
| --- | ---: |
{_rows(rounds.told)}

{_n(rounds.effective)} of them took effect.

| fault | times |
| --- | ---: |
{_rows(kills)}
{_rows({name: rounds.faults[name] for name in other})}

{" ".join(f"Note: {note}." for note in sorted(rounds.notes))}
"""


def _simulated(campaign: Campaign) -> str:
    figures = campaign.simulated
    if figures is None:
        return ""
    return f"""
## In simulation

{_n(figures.seeds)} seeds from {figures.first} on, {figures.seeds / figures.seconds:.0f} a second: the same engine
on a simulated network, clock and stores. A seed gives the same run again, message by message:
`python -m warehouse.testing.simulation --simulations 1 --seed N --trace`. To show that it can find something, tests
take ten rules of the protocol away, one at a time (`tests/integration/test_simulation.py`): each is missed.

| their callers were told | transactions |
| --- | ---: |
{_rows(figures.told)}

| fault | times |
| --- | ---: |
{_rows(figures.faults)}
"""


def _found(campaign: Campaign) -> str:
    if not campaign.problems:
        return "## What was found\n\nNothing: every promise was kept."
    lines = "\n".join(f"* {problem}" for problem in campaign.problems[:50])
    more = len(campaign.problems) - 50
    return f"## What was found\n\n{lines}" + (f"\n* and {more} more" if more > 0 else "")


def _rows(counts: Counter[str] | dict[str, int]) -> str:
    return "\n".join(f"| {name} | {_n(number)} |" for name, number in counts.items())


def _n(number: int) -> str:
    return f"{number:,}"


_NOT = """
## What is not promised

* **Writers who bypass the warehouse while a transaction is in doubt.** Between the decision and its effect in the
  last store, somebody who writes by the driver may read or change what is half there. What they write is not
  overwritten: where it meets the same field, the transaction ends as `failed` and names the field.
* **Reads by other means than `find`.** Whoever reads a store by its driver, or with `isolation="latest"`, may see
  some of a transaction's effects before the others.
* **One snapshot over several reads.** A `find` is consistent in itself; for several records as of one moment, read
  them under locks in a `begin()` block.
* **A process that stops for longer than its lease between its last look and a write, in a store without
  transactions** (Qdrant; MongoDB without a replica set). It takes back what it wrote when others had ended the
  transaction already; if it dies before it does, or somebody else changes the record first, that write stays.
* **Stores and disks that lose what they acknowledged.** A server with `fsync` off, a disk that lies, or a restored
  backup can take back what the journal counts on.
* **Effects outside of the stores.** Called functions are compensated by your own compensation, no better than it is.
"""
