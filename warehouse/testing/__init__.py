"""For the authors of adapters: the contract suite, its `Harness`, the matrix, faults, and a simulator."""

from pathlib import Path

import pytest

from warehouse.testing.simulation import simulate

__all__ = ["simulate"]

pytest.register_assert_rewrite(
    "warehouse.testing.bench",
    *(f"warehouse.testing.{path.stem}" for path in Path(__file__).parent.glob("contract_*.py")),
)
