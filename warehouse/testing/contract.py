"""The contract suite: what every adapter must do, said once, run on each.

An adapter passes when this test module passes:

    from collections.abc import Iterator
    import pytest
    from warehouse.testing.contract import AdapterContract
    from warehouse.testing.harness import Harness

    class MyHarness(Harness):
        name = "mine"
        paths = {"id": "_id"}                       # where a field is not kept under its own name

        async def make(self):
            return MyAdapter(MyAdapter.Settings(adapter="mine", url="mine://localhost"))

        async def entity(self):
            name = f"things_{uuid4().hex}"
            await create_my_table(name)
            return Entity(name)

    class TestMine(AdapterContract):
        @pytest.fixture
        def harness(self):
            return MyHarness()

What an adapter does not declare in its capabilities is not tried: the test then passes, and the matrix that
`warehouse.testing.matrix` prints says `refused` (or `untried`, where the store holds no field for it).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from warehouse.testing.bench import Bench
from warehouse.testing.contract_conditions import ConditionContract
from warehouse.testing.contract_describe import DescribeContract
from warehouse.testing.contract_graph import GraphContract
from warehouse.testing.contract_injection import InjectionContract
from warehouse.testing.contract_law import LawContract
from warehouse.testing.contract_many import ManyContract
from warehouse.testing.contract_operations import OperationContract
from warehouse.testing.contract_prepared import PreparedContract
from warehouse.testing.contract_refusals import RefusalContract
from warehouse.testing.contract_types import TypeContract
from warehouse.testing.contract_undo import UndoContract
from warehouse.testing.contract_units import UnitContract
from warehouse.testing.contract_updates import UpdateContract
from warehouse.testing.contract_vector import VectorContract
from warehouse.testing.contract_writes import WriteContract
from warehouse.testing.harness import Harness
from warehouse.testing.matrix import PROPERTY


class AdapterContract(
    DescribeContract,
    OperationContract,
    ConditionContract,
    UpdateContract,
    UnitContract,
    PreparedContract,
    WriteContract,
    UndoContract,
    LawContract,
    TypeContract,
    ManyContract,
    GraphContract,
    VectorContract,
    InjectionContract,
    RefusalContract,
):
    """The whole suite. A subclass gives the `harness` fixture."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def bench(self, harness: Harness, record_property: pytest.FixtureRequest) -> AsyncIterator[Bench]:
        """The adapter, connected, and an empty entity with the logical fields."""
        async with harness:
            info = await harness.adapter.describe(await harness.entity())
            yield Bench(harness=harness, info=info, note=_note(harness, record_property))

    @pytest.fixture
    async def typed(self, harness: Harness, record_property: pytest.FixtureRequest) -> AsyncIterator[Bench]:
        """The adapter, connected, and an empty entity with a field for each type of the store."""
        async with harness:
            info = await harness.adapter.describe(await harness.typed_entity())
            yield Bench(harness=harness, info=info, note=_note(harness, record_property))


def _note(harness: Harness, record_property: Any) -> Callable[[str, str], None]:
    return lambda capability, state: record_property(PROPERTY, [harness.name, capability, state])
