"""Contract: what a store that declares `prepares` keeps of a prepared unit, and who may end it, and how."""

from __future__ import annotations

from uuid import uuid4

import pytest

from warehouse.adapter import PreparedId
from warehouse.errors import StoreContention, StoreError
from warehouse.testing.bench import Bench
from warehouse.testing.contract_operations import ANN, BOB

MANY = 40


def _new() -> PreparedId:
    return PreparedId(uuid4().hex[:16], uuid4().hex, uuid4().hex)


class PreparedContract:
    async def _prepare(self, bench: Bench, prepared: PreparedId) -> None:
        """Change ANN and insert BOB in a unit that is left prepared."""
        async with bench.unit(prepare_as=prepared) as unit:
            await unit.execute(bench.update({"id": 1}, {"name": "Anna"}))
            await unit.execute(bench.insert(BOB))
            await unit.prepare()

    @pytest.mark.parametrize("commit", [True, False])
    async def test_what_is_prepared_outlives_its_unit(self, bench: Bench, commit: bool) -> None:
        if not bench.capabilities.prepares:
            return
        await bench.seed(ANN)
        prepared = _new()
        await self._prepare(bench, prepared)
        assert prepared in await bench.adapter.prepared()
        assert await bench.contents() == [bench.expected(ANN)]
        with pytest.raises(StoreContention):  # its records stay locked
            async with bench.unit(lock_timeout=0.1) as other:
                await other.execute(bench.update({"id": 1}, {"name": "other"}))
        await _finish(bench, prepared, commit=commit)
        assert prepared not in await bench.adapter.prepared()
        made = [bench.expected(ANN | {"name": "Anna"}), bench.expected(BOB)]
        assert await bench.contents() == (made if commit else [bench.expected(ANN)])
        await bench.do(bench.update({"id": 1}, {"name": "free"}))

    @pytest.mark.parametrize("commit", [True, False])
    async def test_a_prepared_unit_ends_itself(self, bench: Bench, commit: bool) -> None:
        if not bench.capabilities.prepares:
            return
        await bench.seed(ANN)
        for _ in range(3):  # the connection is of use afterwards
            prepared = _new()
            async with bench.unit(prepare_as=prepared) as unit:
                await unit.execute(bench.update({"id": 1}, {"name": "Anna"}))
                await unit.prepare()
                await (unit.commit() if commit else unit.rollback())
            assert await bench.adapter.prepared() == []
        assert await bench.contents() == [bench.expected(ANN | ({"name": "Anna"} if commit else {}))]

    async def test_what_was_never_prepared_leaves_nothing(self, bench: Bench) -> None:
        if not bench.capabilities.prepares:
            return
        await bench.seed(ANN)
        async with bench.unit(prepare_as=_new()) as unit:
            await unit.execute(bench.update({"id": 1}, {"name": "Anna"}))
        async with bench.unit(prepare_as=_new()) as unit:
            await unit.execute(bench.update({"id": 1}, {"name": "Anna"}))
            await unit.rollback()
        async with bench.unit(prepare_as=_new()):
            pass
        assert await bench.adapter.prepared() == []
        assert await bench.contents() == [bench.expected(ANN)]
        async with bench.unit(prepare_as=_new()) as unit:
            await unit.execute(bench.update({"id": 1}, {"name": "Anna"}))
            await unit.commit()
        assert await bench.contents() == [bench.expected(ANN | {"name": "Anna"})]

    async def test_an_unknown_id_is_an_error(self, bench: Bench) -> None:
        if not bench.capabilities.prepares:
            return
        for commit in (True, False):
            with pytest.raises(StoreError):
                await bench.adapter.finish(_new(), commit=commit)


async def _finish(bench: Bench, prepared: PreparedId, *, commit: bool) -> None:
    """MariaDB knows it only once the connection that prepared it is gone: it is asked again."""
    for attempt in range(MANY):
        try:
            await bench.adapter.finish(prepared, commit=commit)
        except StoreError:
            if attempt == MANY - 1:
                raise
        else:
            return
