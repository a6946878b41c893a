"""Contract: what an adapter says about itself and its entities."""

from __future__ import annotations

from uuid import uuid4

import pytest

from warehouse import conditions, updates
from warehouse.errors import UnknownEntity
from warehouse.records import Entity
from warehouse.testing.bench import Bench
from warehouse.testing.harness import Harness


class DescribeContract:
    async def test_capabilities_are_sound(self, bench: Bench) -> None:
        found = bench.capabilities
        assert found.store
        assert found.version
        assert found.identity
        assert found.operations <= {"insert", "update", "upsert", "delete"}
        assert found.conditions <= conditions.OPERATORS
        assert found.updates <= updates.OPERATORS
        assert found.guards in {"full", "partial", "none"}
        assert found.holds or not (found.prepares or found.asks), "only what is held can be asked or prepared"
        for name in ("holds", "prepares", "asks", "savepoints", "relationships"):
            bench.note(f"({name})", "yes" if getattr(found, name) else "no")
        bench.note("(guards)", found.guards)

    async def test_capabilities_are_unknown_before_connect(self, harness: Harness) -> None:
        adapter = await harness.make()
        with pytest.raises(RuntimeError):
            _ = adapter.capabilities
        await adapter.close()

    async def test_close_may_be_repeated(self, bench: Bench) -> None:
        await bench.adapter.close()
        await bench.adapter.close()

    async def test_an_entity_is_described(self, bench: Bench) -> None:
        info, path = bench.info, bench.harness.path
        assert info.key == tuple(bench.harness.key(1))
        if info.fields is not None:
            assert info.fields >= {path(name).partition(".")[0] for name in bench.harness.fields}
        assert ((path("email"),) in info.unique) == bench.harness.unique
        assert await bench.adapter.describe(info.entity) == info
        assert await bench.adapter.describe(info.entity, fresh=True) == info

    async def test_an_unknown_entity_is_refused_unless_the_store_creates_it(self, bench: Bench) -> None:
        unknown = Entity(f"nothing_{uuid4().hex}")
        if bench.harness.creates:
            assert (await bench.adapter.describe(unknown)).entity == unknown
        else:
            with pytest.raises(UnknownEntity):
                await bench.adapter.describe(unknown)
