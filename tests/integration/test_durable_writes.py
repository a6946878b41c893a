"""How many durable writes a transaction costs in the journal: exact, by pattern."""

import pytest

from integration.memory_world import World, insert, update
from warehouse.errors import ConstraintViolated

pytestmark = pytest.mark.anyio
WRITES = {"decide", "append", "change_state", "finish", "complete", "note", "settle", "resolve", "take_over"}
HELD = [insert("a", {"id": 1}), insert("b", {"id": 1})]
THREE = [insert("a", {"id": 1}), insert("p", {"id": 1}), insert("q", {"id": 1})]
CALL = {"operation": "call", "action": "ask"}


def writes(world):
    calls = [call.removeprefix("journal.") for call in world.faults.calls if call.startswith("journal.")]
    return [call for call in calls if call in WRITES]


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (HELD[:1], {}, []),  # its history is noted behind the caller's back
        (HELD[:1], {"idempotency_key": "k"}, ["decide", "finish"]),
        (THREE, {}, ["decide", "finish"]),
        ([insert("a", {"id": key}) for key in range(20)] + THREE[1:], {}, ["decide", "finish"]),
        (HELD, {"pattern": "two_phase_commit"}, ["decide", "finish"]),
        (THREE, {"pattern": "saga"}, ["decide", "append", "append", "finish"]),
        ([CALL, *THREE], {}, ["decide", "append", "append", "finish"]),  # intent, output, decision, end
    ],
    ids=["one store", "with a key", "staged", "many steps", "two-phase", "saga", "call"],
)
async def test_on_the_way_to_success(steps, options, expected):
    async with World() as world:
        world.warehouse.action("ask")(lambda: "answer")
        assert (await world.run(*steps, **options)).ok
        assert writes(world) == expected


@pytest.mark.parametrize(
    ("call", "options", "expected"),
    [
        ("q.execute", {}, []),  # nothing was ever visible, and nothing is journaled
        ("q.write", {}, ["decide", "change_state", "finish"]),
        ("b.prepare", {"pattern": "two_phase_commit"}, []),
        ("q.write", {"pattern": "saga"}, ["decide", "append", "append", "change_state", "finish"]),
    ],
    ids=["staging", "applying", "vote", "saga"],
)
async def test_on_the_way_back(call, options, expected):
    async with World() as world:
        world.faults.fail(call, ConstraintViolated("no", constraint="c"))
        steps = HELD if "two_phase_commit" in options.values() else THREE
        assert (await world.run(*steps, **options)).status == "compensated"
        assert writes(world) == expected


async def test_of_what_is_held():
    async with World() as world:
        await world.fill("a", {"id": 1})
        async with world.warehouse.begin("name", hold=True) as tx:
            await tx.update(None, "a", "things", {"id": 1}, {"n": 1})
            await tx.insert(None, "p", "things", {"id": 1})
        assert writes(world) == ["decide"]
        assert (await world.warehouse.commit("name")).ok
        assert writes(world) == ["decide", "take_over", "finish"]
        assert (await world.run(update("a", 1, {"n": 2}))).ok
