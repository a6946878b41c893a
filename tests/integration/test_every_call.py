"""At every call that a transaction makes, an error is raised or its reply is dropped: all or nothing, as was told."""

import itertools

import pytest

from integration.memory_world import World
from warehouse.errors import (
    ConstraintViolated,
    JournalUnavailable,
    OutcomeUnknown,
    StoreOutcomeUnknown,
    StoreUnavailable,
    WarehouseError,
)
from warehouse.journal.base import ReplyLost

pytestmark = pytest.mark.anyio
TAGS = "abpq"
# What is neither an effect nor asked for one: the life of the connections, and what clears up.
QUIET = {"open", "close", "connect", "describe", "unit", "beat", "retire", "rollback"}
JOURNAL_WRITES = {"decide", "append", "change_state", "finish", "complete"}
EFFECTS = {"write", "commit", "prepare", "finish"}


def operations(kind):
    for tag in TAGS:
        what = {
            "insert": {"data": {"id": 3, "n": 30}},
            "update": {"where": {"id": 1}, "data": {"n": {"$increment": 5}}},
            "upsert": {"data": [{"id": 1, "n": 11}, {"id": 5, "n": 40}]},
            "delete": {"where": {"id": 1}},
        }[kind]
        yield {"operation": kind, "from": {"tag": tag, "entity": "things"}, **what}


async def filled():
    world = await World(grace=0.2, lock_timeout=1, timeout=3).__aenter__()
    for tag in TAGS:
        await world.fill(tag, {"id": 1, "n": 1}, {"id": 2, "n": 2})
    return world


def refuse(world, path):
    if path == "back":
        world.faults.fail("q.write", ConstraintViolated("no", constraint="test"), times=None)


def break_at(world, call, nth, how):
    """`fail`: it says that it was not made. `lose`: it was made, `vanish`: it was not, and nobody can tell."""
    where, _, method = call.rpartition(".")
    if where == "journal":
        error = ReplyLost if how != "fail" and method in JOURNAL_WRITES else JournalUnavailable
    else:
        error = StoreOutcomeUnknown if how != "fail" and method in EFFECTS else StoreUnavailable
    (world.faults.lose if how == "lose" else world.faults.fail)(call, error("away"), nth=nth)


async def told(world, steps, pattern):
    try:
        return (await world.run(*steps, pattern=pattern, concurrency="sequential")).status
    except OutcomeUnknown:
        return "unknown"
    except WarehouseError:
        return "refused"


async def points(steps, pattern, path):
    """Every call of an undisturbed run, and which time it is made; with what is left at its end, and at best."""
    world = await filled()
    before = world.everything()
    refuse(world, path)
    status = await told(world, steps, pattern)
    assert status == ("completed" if path == "forth" else "compensated")
    calls, after = list(world.faults.calls), world.everything()
    await world.warehouse.close()
    seen = {}
    out = []
    for call in calls:
        seen[call] = seen.get(call, 0) + 1
        if call.rpartition(".")[2] not in QUIET:
            out.append((call, seen[call]))
    return out, before, after


@pytest.mark.parametrize("how", ["fail", "lose", "vanish"])
@pytest.mark.parametrize(
    ("kind", "pattern", "path"),
    [*itertools.product(["insert", "update", "upsert", "delete"], ["staged", "saga"], ["forth", "back"])],
)
async def test_broken_anywhere(kind, pattern, path, how):
    steps = list(operations(kind))
    places, before, after = await points(steps, pattern, path)
    wanted = {"a.execute", "p.write", "journal.decide", "b.commit" if path == "forth" else "q.write"}
    assert wanted <= {call for call, _ in places}
    problems = []
    for call, nth in places:
        world = await filled()
        refuse(world, path)
        break_at(world, call, nth, how)
        status = await told(world, steps, pattern)
        for _ in range(3):
            if not await world.leftovers():
                break
            await world.warehouse.recover()
        possible = {"completed": [after], "unknown": [before, after]}.get(status, [before])
        if world.everything() not in possible or await world.leftovers():
            problems.append(f"{call} #{nth}: {status} {await world.leftovers()} {world.everything()}")
        await world.warehouse.close()
    assert not problems, "\n".join(problems)
