"""Warehouses over in-process stores, in which anything may go wrong, and what is left in them afterwards."""

import asyncio

from warehouse import AsyncWarehouse
from warehouse.adapter import UnitSettings
from warehouse.planning import freeze
from warehouse.records import ABSENT, Change, Entity
from warehouse.testing.faults import Faults, inject

# a and b have transactions, p and q are planned, as are graphs and vectors where they are asked for.
STORES = {
    "a": {"adapter": "memory"},
    "b": {"adapter": "memory"},
    "p": {"adapter": "memory", "transactions": False},
    "q": {"adapter": "memory", "transactions": False},
}
UNIQUE = {"options": {"unique": {"things": [["email"]]}}}


class World:
    """`warehouse`, its `faults`, and the raw stores by tag."""

    def __init__(self, stores=STORES, *, journal="memory://", **transactions):
        self.warehouse = AsyncWarehouse(
            adapters=stores,
            journal={"url": journal, "recover": "manual"},
            transactions={"lock_timeout": 0.5, "grace": 2, **transactions},
        )
        registry = self.warehouse._registry
        self.stores = {tag: registry.get(tag).adapter for tag in registry.tags}
        self.faults: Faults = inject(self.warehouse)
        self.journal = self.warehouse._journal.inner

    async def __aenter__(self):
        await self.warehouse.open()
        return self

    async def __aexit__(self, *_):
        await self.warehouse.close()

    async def run(self, *operations, **options):
        return await self.warehouse.transaction(list(operations), **options)

    async def fill(self, tag, *records, entity="things"):
        """Put records into a store behind everybody's back."""
        for record in records:
            await self.foreign(tag, record["id"], record, entity=entity)
        return self

    async def foreign(self, tag, key, after, *, entity="things"):
        """Somebody else's write, past the warehouse: an image, ABSENT, or some fields of a record."""
        table = self.stores[tag]._store.space
        old = table.table(Entity(entity)).get(freeze({"id": key}), ABSENT)
        if after is not ABSENT and old is not ABSENT:
            after = {**old, **after}
        table.put(Entity(entity), {"id": key}, after)

    def rows(self, tag, entity="things"):
        """What a store has, by id."""
        table = self.stores[tag]._store.space.table(Entity(entity))
        return {record["id"]: {k: v for k, v in record.items() if k != "id"} for record in table.values()}

    def everything(self):
        return {tag: self.rows(tag) for tag in self.stores}

    async def leftovers(self):
        """What should not be there once all transactions ended: locks and open entries."""
        out = []
        for tag, store in self.stores.items():
            out += [f"{tag}: {name}" for name in store._store.space.locks._owners]
        entries = await self.journal.entries(["committing", "running", "compensating"])
        out += [f"journal: {entry.state}" for entry in entries]
        every = [lock for entry in await self.journal.entries() for lock in entry.locks()]
        if await self.journal.locked(every):
            out.append("journal: a lock")
        return out

    async def held(self, tag, key, entity="things"):
        """A unit of somebody else's that has a record locked; roll it back to let it go."""
        store = self.stores[tag]
        unit = store.unit(UnitSettings(transaction_id="somebody", lock_timeout=1))
        await unit.read(await store.describe(Entity(entity)), [{"id": key}])
        return unit


def insert(tag, data, **more):
    return {"operation": "insert", "from": {"tag": tag, "entity": "things"}, "data": data, **more}


def update(tag, where, data, **more):
    where = {"id": where} if isinstance(where, int) else where
    source = {"tag": tag, "entity": "things"}
    return {"operation": "update", "from": source, "where": where, "data": data, **more}


def upsert(tag, data, **more):
    return {"operation": "upsert", "from": {"tag": tag, "entity": "things"}, "data": data, **more}


def delete(tag, where, **more):
    where = {"id": where} if isinstance(where, int) else where
    return {"operation": "delete", "from": {"tag": tag, "entity": "things"}, "where": where, **more}


def statuses(result):
    """The steps' statuses, by their first letters: `c`ompleted, compensated as `u`ndone, `f`ailed, `s`kipped."""
    return "".join(
        "u" if step.status == "compensated" else step.status[0] for step in result.step_results.values()
    )


def change(before, after, written, key=1):
    return Change(
        entity=Entity("things"), key={"id": key}, before=before, after=after, written=frozenset(written)
    )


async def turns(number=5):
    """Let everybody else run."""
    for _ in range(number):
        await asyncio.sleep(0)
