"""Contract: what a store cannot evaluate or do is refused by the engine before any store is read or written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from warehouse import AsyncWarehouse
from warehouse.adapter import Query
from warehouse.errors import InvalidOperation
from warehouse.records import Entity
from warehouse.results import TransactionResult
from warehouse.testing.bench import Bench
from warehouse.testing.faults import Faults, inject
from warehouse.testing.samples import CONDITIONS, ROWS, UPDATES

OPERANDS: Final[dict[str, tuple[Any, ...]]] = {
    "$eq": (True, 1, "1", {"a": 1}, ["a"], b"x"),
    "$ne": (True, "1", ["a"]),
    "$gt": (True, 1, "1", {"a": 1}, ["a"]),
    "$in": ([True, "1"], [1, None, ["a"]]),
    "$like": ("a%",),
    "$startsWith": ("a",),
    "$contains": ("a", 1, None),
}


class _Pair:
    """Two stores, the second of them the one under test; what was asked of either is in `faults.calls`."""

    def __init__(self, bench: Bench, warehouse: AsyncWarehouse, faults: Faults) -> None:
        self.bench = bench
        self.warehouse = warehouse
        self.faults = faults

    async def run(self, operation: str, **content: Any) -> TransactionResult:
        """A record for the first store, and an operation on the store under test."""
        self.faults.calls.clear()
        source = {"tag": "tried", "entity": self.bench.info.entity.name}
        return await self.warehouse.transaction(
            [
                {"operation": "insert", "from": {"tag": "first", "entity": "things"}, "data": {"n": 1}},
                {"operation": operation, "from": source, **content},
            ]
        )

    async def check_refused(self, caught: InvalidOperation, path: str, operator: str) -> None:
        """The error names everything, and no store was asked for anything but its description."""
        store = self.bench.capabilities.store
        assert (caught.step, caught.tag, caught.field) == ("step_1", "tried", path)
        assert caught.message == f"{store} does not support {operator}"
        await self.check_untouched()

    async def check_untouched(self) -> None:
        asked = {call.rpartition(".")[2] for call in self.faults.calls if not call.startswith("journal.")}
        assert asked <= {"connect", "describe", "prepared"}, asked  # recovery looks what is prepared
        first = self.warehouse._registry.get("first").adapter  # noqa: SLF001 - past the faults
        info = await first.describe(Entity("things"))
        assert await first.find(Query(info=info)) == []


@asynccontextmanager
async def _pair(bench: Bench) -> AsyncIterator[_Pair]:
    memory = {"adapter": "memory"}
    warehouse = AsyncWarehouse(adapters={"first": memory, "tried": memory}, journal={"url": "memory://"})
    participant = warehouse._registry.get("tried")  # noqa: SLF001 - to put the adapter under test in its place
    participant.adapter = bench.adapter
    participant.connected, participant.identity = True, bench.capabilities.identity
    faults = inject(warehouse)
    async with warehouse:
        yield _Pair(bench, warehouse, faults)
        participant.connected = False  # its harness closes it


class RefusalContract:
    async def test_an_operator_that_the_store_lacks_in_a_condition(self, bench: Bench) -> None:
        data = {bench.harness.path("email"): None}
        async with _pair(bench) as pair:
            for operator in sorted(CONDITIONS.keys() - bench.capabilities.conditions):
                for where in (case for case in CONDITIONS[operator] if bench.has(*case)):
                    path, condition = _only(bench, where)
                    for asked in ({path: condition}, {"$not": {path: condition}}):
                        with pytest.raises(InvalidOperation) as caught:
                            await pair.run("update", where=asked, data=data)
                        await pair.check_refused(caught.value, path, operator)
                        with pytest.raises(InvalidOperation) as caught:
                            await pair.run("delete", where={"$or": [{path: 1}, asked]})
                        await pair.check_refused(caught.value, path, operator)

    async def test_an_operator_that_the_store_lacks_in_an_update(self, bench: Bench) -> None:
        async with _pair(bench) as pair:
            for operator in sorted(UPDATES.keys() - bench.capabilities.updates):
                for data in (case for case in UPDATES[operator] if bench.has(*case) and len(case) == 1):
                    path, change = _only(bench, data)
                    with pytest.raises(InvalidOperation) as caught:
                        await pair.run("update", where={bench.harness.path("id"): 1}, data={path: change})
                    await pair.check_refused(caught.value, path, operator)

    @pytest.mark.parametrize("field", ["name", "count", "ratio", "active", "tags", "details"])
    async def test_an_operand_is_refused_before_any_store_is_touched_or_never(
        self, bench: Bench, field: str
    ) -> None:
        """A condition that the store does not take fails while it is planned, not while it runs."""
        if not bench.has(field):
            return
        await bench.seed(*ROWS)
        path = bench.harness.path(field)
        async with _pair(bench) as pair:
            for operator in OPERANDS.keys() & bench.capabilities.conditions:
                for operand in OPERANDS[operator]:
                    await self._check_operand(pair, path, {path: {operator: {"$literal": operand}}})

    async def _check_operand(self, pair: _Pair, path: str, asked: dict[str, Any]) -> None:
        nobody = {pair.bench.harness.path("id"): 99}
        refused: InvalidOperation | None = None
        try:
            result = await pair.run("delete", where={"$and": [nobody, asked]})
        except InvalidOperation as error:
            refused = error
        if refused is not None:
            assert (refused.step, refused.tag, refused.field) == ("step_1", "tried", path), refused
            await pair.check_untouched()
            return
        assert result.ok, (asked, result.error)
        everything = {"tag": "first", "entity": "things"}
        await pair.warehouse.transaction([{"operation": "delete", "from": everything, "all": True}])


def _only(bench: Bench, case: Mapping[str, Any]) -> tuple[str, Any]:
    ((name, value),) = case.items()
    return bench.harness.path(name), value
