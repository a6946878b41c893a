"""How a planning unit hands its changes to its store."""

import pytest

from warehouse.adapter import EntityInfo, WriteStatus, Written
from warehouse.planning import PlanningUnit
from warehouse.records import ABSENT, Change, Entity

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Store:
    """A store that notes each batch, and stops at the record `stop`."""

    def __init__(self, stop=None):
        self.stop = stop
        self.batches = []

    async def apply(self, info, changes):
        keys = [change.key["id"] for change in changes]
        self.batches.append((info.entity.name, keys))
        if self.stop in keys:
            return [Written(WriteStatus.APPLIED)] * keys.index(self.stop) + [Written(WriteStatus.CONFLICT)]
        return [Written(WriteStatus.APPLIED)] * len(keys)


async def describe(entity):
    return EntityInfo(entity=entity, key=("id",))


def changes(*places):
    return [
        Change(
            entity=Entity(name), key={"id": number}, before=ABSENT, after={"id": number}, written=frozenset()
        )
        for name, number in places
    ]


async def test_changes_of_one_entity_that_stand_together_are_one_batch():
    store = Store()
    written = await PlanningUnit(store, describe).write(
        changes(("a", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 5))
    )
    assert store.batches == [("a", [1, 2]), ("b", [3]), ("a", [4, 5])]
    assert [item.status for item in written] == [WriteStatus.APPLIED] * 5


async def test_nothing_is_written_after_the_first_that_was_not_applied():
    store = Store(stop=3)
    written = await PlanningUnit(store, describe).write(changes(("a", 1), ("b", 2), ("b", 3), ("c", 4)))
    assert store.batches == [("a", [1]), ("b", [2, 3])]
    assert [item.status for item in written] == [WriteStatus.APPLIED] * 2 + [WriteStatus.CONFLICT]


async def test_nothing_to_write_reaches_no_store():
    store = Store()
    assert await PlanningUnit(store, describe).write([]) == []
    assert store.batches == []
