"""Many transactions at once on few records, while stores fail, replies are lost and callers give up."""

import asyncio
import random

import anyio
import pytest

from integration.memory_world import World, update
from warehouse import (
    JournalUnavailable,
    OutcomeUnknown,
    StoreContention,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from warehouse.journal.base import ReplyLost

pytestmark = pytest.mark.anyio
TAGS = "abpq"
SEEDS = [(0, 0.0), (1, 0.03), (2, 0.05), (3, 0.08)]


class Storm:
    """Faults at random calls, drawn from a seeded source."""

    def __init__(self, world, seed, chance):
        self.world, self.draw, self.chance = world, random.Random(seed), chance
        self.raging = True
        for method in ("unit", "execute", "commit", "write", "read"):
            world.faults.before(f"?.{method}", self.maybe(method, made=False), times=None)
            world.faults.after(f"?.{method}", self.maybe(method, made=True), times=None)
        world.faults.before("journal.*", self.pause, times=None)
        world.faults.before("journal.decide", self.lose, times=None)
        world.faults.after("journal.decide", self.lose, times=None)

    async def pause(self):
        if self.draw.random() < 0.3:
            await asyncio.sleep(self.draw.random() / 500)

    async def lose(self):
        if self.raging and self.draw.random() < self.chance / 3:
            raise ReplyLost("no reply")

    def maybe(self, method, *, made):
        async def fault():
            await self.pause()
            if not self.raging or self.draw.random() > self.chance:
                return
            if method in ("commit", "write"):
                raise StoreOutcomeUnknown("the reply was lost" if made else "the request was lost")
            if method != "unit" or not made:
                raise self.draw.choice([StoreContention("deadlock"), StoreUnavailable("connection lost")])

        return fault


@pytest.mark.parametrize(("seed", "chance"), SEEDS)
async def test_sums(seed, chance):
    async with World(lock_timeout=0.5, grace=5, max_retries=20, retry_on_failure=True) as world:
        for tag in TAGS:
            await world.fill(tag, {"id": 1, "n": 0, "list": []}, {"id": 2, "n": 0, "list": []})
        storm = Storm(world, seed, chance)
        draw = random.Random(-seed)
        expected = {(tag, key): [] for tag in TAGS for key in (1, 2)}

        async def work(number):
            await asyncio.sleep(draw.random() / 50)
            wanted = [(tag, draw.choice([1, 2])) for tag in draw.sample(TAGS * 2, draw.randint(1, 5))]
            operations = [
                update(
                    tag, key, {"n": {"$increment": 1}, "list": {"$push": number}}, expect={"affected_rows": 1}
                )
                for tag, key in wanted
            ]
            if draw.random() < 0.25:
                operations.append(update(draw.choice(TAGS), 99, {"n": 1}, expect={"affected_rows": 1}))
            result = None
            with anyio.move_on_after(draw.random() / 20 if draw.random() < 0.2 else None):
                try:
                    result = await world.run(*operations, pattern=draw.choice(["auto", "staged", "saga"]))
                except (OutcomeUnknown, JournalUnavailable) as error:
                    # A lone store lost a reply, and then others came between; or nothing was changed.
                    assert isinstance(error, JournalUnavailable) or "look at its records" in str(error)
            if result is None:  # that, or cancelled: all or nothing
                there = {number in world.rows(tag)[key]["list"] for tag, key in wanted}
                assert len(there) == 1
                completed = there.pop()
            else:
                assert result.status in ("completed", "compensated"), result
                completed = result.ok
            for place in wanted if completed else ():
                expected[place].append(number)
            return completed

        ends = await asyncio.gather(*(work(number) for number in range(16)))
        storm.raging = False
        assert any(ends)
        for (tag, key), numbers in expected.items():
            found = world.rows(tag)[key]
            assert sorted(found["list"]) == sorted(numbers), (tag, key)
            assert found["n"] == len(numbers)
        assert await world.leftovers() == []
