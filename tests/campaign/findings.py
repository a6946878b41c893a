"""What a round's history and its stores say about the promises; an empty list says that they were kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from campaign.history import Operation
from campaign.vaults import Cell


@dataclass(frozen=True)
class Left:
    """What the stores hold when all is over, by tag."""

    cells: Mapping[str, Mapping[str, Cell]]
    ledgers: Mapping[str, Iterable[str]]
    prepared: Mapping[str, list[str]]


def took_effect(left: Left) -> set[str]:
    """The keys that are in a ledger."""
    return {key for ledger in left.ledgers.values() for key in ledger}


def problems(history: list[Operation], left: Left) -> list[str]:
    """Everything that does not fit, each as a sentence."""
    writes = [operation for operation in history if operation.f == "write"]
    ledgers = {tag: Counter(ledger) for tag, ledger in left.ledgers.items()}
    return [
        *_halves(writes, ledgers),
        *_told_wrong(writes, ledgers),
        *_counts(writes, left, ledgers),
        *_finds(history, ledgers),
        *_bypassed(history, left),
        *(f"{tag} has something prepared left: {names}" for tag, names in left.prepared.items() if names),
    ]


def _halves(writes: list[Operation], ledgers: dict[str, Counter[str]]) -> Iterable[str]:
    """All or none, once."""
    known = {write.value["key"] for write in writes}
    for write in writes:
        key, tags = write.value["key"], write.value["tags"]
        there = {tag: ledger[key] for tag, ledger in ledgers.items() if ledger[key]}
        if there and (set(there) != set(tags) or set(there.values()) != {1}):
            yield f"{key} of {tags} took effect in {there} ({write.type}: {write.told})"
    for tag, ledger in ledgers.items():
        for key in ledger.keys() - known:
            yield f"{tag} has {key}, which nobody wrote"


def _told_wrong(writes: list[Operation], ledgers: dict[str, Counter[str]]) -> Iterable[str]:
    """Callers were told how it ended."""
    for write in writes:
        key = write.value["key"]
        there = any(ledger[key] for ledger in ledgers.values())
        if write.type != "info" and there != (write.type == "ok"):
            yield f"{key} was told {write.told}, and {'took' if there else 'did not take'} effect"
        calls = write.told.get("calls", ())
        if "completed" in calls and {"compensated", "failed"} & set(calls[calls.index("completed") :]):
            yield f"{key} was told {write.told['calls']} when it was asked for twice"
        if there and any("unreachable" not in item for item in write.told.get("residue", ())):
            yield f"{key} left {write.told['residue']}"


def _counts(writes: list[Operation], left: Left, ledgers: dict[str, Counter[str]]) -> Iterable[str]:
    """No write that took effect is lost in its record, and none that did not is left there."""
    expected: Counter[tuple[str, str]] = Counter()
    for write in writes:
        for tag in write.value["tags"]:
            expected[tag, write.value["group"]] += ledgers[tag][write.value["key"]]
    for tag, cells in left.cells.items():
        for group, cell in cells.items():
            if cell.n != expected[tag, group]:
                yield f"{tag} {group} was written {cell.n} times, by {expected[tag, group]} transactions"
            if cell.last and not ledgers[tag][cell.last]:
                yield f"{tag} {group} was last written by {cell.last}, which did not take effect"


def _finds(history: list[Operation], ledgers: dict[str, Counter[str]]) -> Iterable[str]:
    """A read saw only what took effect, as it was written, and a process saw its own writes."""
    written = {
        (tag, operation.value["key"]): n
        for operation in history
        if operation.f == "write" and operation.type == "ok"
        for tag, n in operation.told["seen"].items()
    }
    for operation in history:
        if operation.f not in {"find", "read"} or operation.type != "ok":
            continue
        for tag, (n, last) in operation.told["seen"].items():
            if last and not ledgers[tag][last]:
                yield f"a {operation.f} saw {last} in {tag}, which did not take effect"
            if written.get((tag, last), n) != n or bool(last) != bool(n):
                yield f"a {operation.f} saw {n} by {last!r} in {tag}, which is {written.get((tag, last), 0)}"
    yield from _own_writes(history)


def _own_writes(history: list[Operation]) -> Iterable[str]:
    """Of one process: a find after a write of its own was told sees at least that."""
    told: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for operation in history:
        if operation.f == "write" and operation.type == "ok":
            for tag, n in operation.told["seen"].items():
                told[operation.process.partition(".")[0], tag, operation.value["group"]].append(
                    (operation.end, n)
                )
    for operation in history:
        if operation.f != "find" or operation.type != "ok":
            continue
        (tag, (n, _)), group = next(iter(operation.told["seen"].items())), operation.value["group"]
        own = told[operation.process.partition(".")[0], tag, group]
        if any(end < operation.call and number > n for end, number in own):
            yield f"a find saw {n} in {tag} {group} after its process was told of more"


def _bypassed(history: list[Operation], left: Left) -> Iterable[str]:
    """No write of somebody else is overwritten."""
    least: Counter[tuple[str, str]] = Counter()
    most: Counter[tuple[str, str]] = Counter()
    for operation in history:
        if operation.f == "bypass":
            record = operation.value["tags"][0], operation.value["group"]
            most[record] += 1
            least[record] += operation.type == "ok"
    for tag, cells in left.cells.items():
        for group, cell in cells.items():
            if not least[tag, group] <= cell.f <= most[tag, group]:
                yield f"{tag} {group}: {least[tag, group]} to {most[tag, group]} foreign writes, {cell.f} are left"
