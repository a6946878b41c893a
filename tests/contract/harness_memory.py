from typing import ClassVar
from uuid import uuid4

from servers import used
from warehouse.records import Entity
from warehouse.testing.harness import FIELDS, Harness
from warehouse_adapters.memory import MemoryAdapter


class MemoryHarness(Harness):
    driver = False
    settings: ClassVar = {}

    async def make(self):
        options = {"unique": {f"things{number}": [["email"]] for number in range(3)}} if self.unique else {}
        used("memory", "1", "in process")
        return MemoryAdapter(MemoryAdapter.Settings(adapter="memory", options=options, **self.settings))

    async def entity(self):
        return Entity("things0" if self.unique else f"things{uuid4().hex}")


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

    def blank(self, number):
        return {"vector": [0.1 * number, 0.5, -1.0]}


HARNESSES = [MemoryHeld, MemoryGuarded, MemoryGraph, MemoryVector]
