"""What must hold once a simulation is over."""

from __future__ import annotations

from collections.abc import Mapping

from warehouse.journal.base import FINAL, Entry
from warehouse.testing.simulation.attempts import DELETED, RECORDS, Attempt, Place
from warehouse.testing.simulation.world import World


async def judge(world: World) -> list[str]:
    """Everything that does not hold."""
    entries = [entry for entry in await world.journal.entries() if entry.name]
    out = list(world.problems)
    twice = 0
    for attempt in world.attempts:
        mine = sorted((entry for entry in entries if entry.name == attempt.name), key=_weight)
        if len({entry.state for entry in mine} & {"completed", "failed"}) > 1:
            twice |= attempt.bit | attempt.bit << 1  # what was left of a failed call, and all of another
        else:
            out += _of_transaction(world, attempt, mine[-1] if mine else None)
        out += _of_own(world, attempt)
    out += _of_records(world, twice)
    out += [f"{entry.name} is still {entry.state}" for entry in entries if entry.state not in FINAL]
    every = [lock for entry in entries for lock in entry.locks()]
    if await world.journal.locked(every) is not None:
        out.append("a record is still locked in the journal")
    return out


def _weight(entry: Entry) -> int:
    """Of several calls with one key, the one that says how it ended has the greatest."""
    return ["compensated", "failed", "completed"].index(entry.state) if entry.state in FINAL else -1


def _of_transaction(world: World, attempt: Attempt, entry: Entry | None) -> list[str]:
    there = {place for place in attempt.places if attempt.is_seen(place[1], world.image(place))}
    places = set(attempt.places)
    state = None if entry is None else entry.state
    about = f"{attempt.name} ({attempt.pattern}, {attempt.places}) told {attempt.told}, journal {state}"
    out = []
    if attempt.told == "completed" and there != places:
        out.append(f"{about}: missing in {sorted(places - there)}")
    if attempt.told in {"compensated", "refused"} and there:
        out.append(f"{about}: found in {sorted(there)}")
    if state == "completed" and there != places:
        out.append(f"{about}: completed, but missing in {sorted(places - there)}")
    if state == "compensated" and _told_itself(world, attempt, there):
        return out
    if state == "compensated" and there:
        out.append(f"{about}: compensated, but found in {sorted(there)}")
    if state == "failed":
        out += [f"{about}: {text}" for text in _of_failed(world, there, entry)]
    elif there not in (set(), places):
        out.append(f"{about}: half of it, in {sorted(there)}")
    if (
        attempt.told in FINAL
        and state in FINAL
        and state != attempt.told
        and not _told_too_much(world, attempt, state)
    ):
        out.append(f"{about}: they differ")
    if attempt.number in world.unseen:
        out.append(f"{about}: {world.unseen[attempt.number]}")
    if attempt.number in world.halves and state != "failed":
        out.append(f"{about}: {world.halves[attempt.number]}")
    if attempt.number in world.seen and not there and state != "failed":
        out.append(f"{about}: a reader saw what never took effect")
    return out


def _of_failed(world: World, there: set[Place], entry: Entry | None) -> list[str]:
    """What is left is reported; and nothing is left but where somebody interfered, or a store was out of reach."""
    residue = [] if entry is None else entry.detail.get("residue", [])
    reasons = {(item["tag"], item["key"]["id"]): item["reason"] for item in residue}
    out = [f"left in {place}, and not reported" for place in sorted(there - reasons.keys())]
    for place, reason in reasons.items():
        if reason == "conflict" and place not in world.foreign:
            out.append(f"a conflict in {place}, where nobody interfered")
    return out


def _told_itself(world: World, attempt: Attempt, there: set[Place]) -> bool:
    """Whether the caller was told of what is left, and the journal cannot say it.

    An owner that was paused beyond its lease between its check and its write, in a store without transactions, takes
    back what it wrote when all was over; if somebody else changes the record before it does, it says so.
    """
    changed = {place for other in world.attempts if other is not attempt for place in other.places}
    changed |= world.foreign.keys()
    return attempt.told == "failed" and bool(there) and there <= attempt.left & changed


def _told_too_much(world: World, attempt: Attempt, state: str) -> bool:
    """Whether residue was told that is none.

    What could not be undone while a store was away is undone later. And an owner that was paused beyond its lease,
    and comes back when all has been undone and somebody else has changed the record since, cannot tell what is
    undone from what is left.
    """
    others = {place for other in world.attempts if other is not attempt for place in other.places}
    changed = not others.union(world.foreign).isdisjoint(attempt.places)
    return (attempt.told, state) == ("failed", "compensated") and (attempt.away or changed)


def _of_own(world: World, attempt: Attempt) -> list[str]:
    """What it inserted, or deleted and gave back, holds what it held, but for what foreign writers added."""
    out = []
    for place in attempt.places:
        image = world.image(place)
        if place[1] not in RECORDS and isinstance(image, Mapping):
            value = image["n"] & ~sum(world.foreign.get(place, []))
            if value != (attempt.bit if place[1] < DELETED else 0):
                out.append(f"{place} of {attempt.name} is {image}")
    return out


def _of_records(world: World, twice: int) -> list[str]:
    """No number holds anything but what transactions (some perhaps `twice`) and foreign writers added.

    And no foreign write is lost.
    """
    known = sum(attempt.bit for attempt in world.attempts) | twice
    out = []
    for tag in world.servers:
        for number in RECORDS:
            place = tag, number
            value, foreign = world.value(place), sum(world.foreign.get(place, []))
            if value & foreign != foreign:
                out.append(f"{place}: a foreign write was overwritten ({value:#x})")
            if value & ~(known | foreign):
                out.append(f"{place}: {value:#x} is no sum of what was added")
    return out
