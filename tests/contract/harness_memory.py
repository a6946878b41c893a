from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import ClassVar
from uuid import UUID, uuid4

from hypothesis import strategies as st

from servers import used
from warehouse.planning import freeze
from warehouse.records import Entity
from warehouse.testing.harness import FIELDS, Harness, StoredType
from warehouse_adapters.memory import MemoryAdapter


def _type(kind, values):
    return StoredType(
        field=kind.__name__, stored=kind.__name__, takes=kind.__name__, gives=kind.__name__, values=values
    )


class MemoryHarness(Harness):
    driver = False
    creates = True
    types = (
        _type(str, st.text()),
        _type(int, st.integers()),
        _type(float, st.floats()),
        _type(Decimal, st.decimals()),
        _type(bytes, st.binary()),
        _type(UUID, st.uuids()),
        _type(date, st.dates()),
        _type(datetime, st.datetimes()),
        _type(list, st.lists(st.none() | st.integers() | st.text())),
        _type(dict, st.dictionaries(st.text(), st.none() | st.integers() | st.text())),
    )
    settings: ClassVar = {}

    async def make(self):
        options = {"unique": {f"things{number}": [["email"]] for number in range(3)}} if self.unique else {}
        used("memory", "1", "in process")
        return MemoryAdapter(MemoryAdapter.Settings(adapter="memory", options=options, **self.settings))

    async def entity(self):
        return Entity("things0" if self.unique else f"things{uuid4().hex}")

    async def rendered(self, entity, number):
        table = self.adapter._store.space.table(entity)
        return repr(sorted(table.get(freeze(self.key(number)), {}).items()))


class MemoryHeld(MemoryHarness):
    name = "memory"


class MemoryGuarded(MemoryHarness):
    name = "memory-guarded"
    settings: ClassVar = {"transactions": False}


class MemoryGraph(MemoryHarness):
    name = "memory-graph"
    settings: ClassVar = {"type": "graph"}


class MemoryVector(MemoryHarness):
    name = "memory-vector"
    unique = False
    paths: ClassVar = {field: f"metadata.{field}" for field in FIELDS if field != "id"}
    settings: ClassVar = {"type": "vector", "transactions": False}
    types = tuple(replace(kind, field=f"metadata.{kind.field}") for kind in MemoryHarness.types)

    async def vectors(self):
        return await self.entity()

    def blank(self, number):
        return {"vector": [0.1 * number, 0.5, -1.0]}


HARNESSES = [MemoryHeld, MemoryGuarded, MemoryGraph, MemoryVector]
