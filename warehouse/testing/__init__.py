"""For the authors of adapters: the contract suite, the `Harness` that it needs, the matrix, and faults."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "warehouse.testing.bench",
    *(f"warehouse.testing.{path.stem}" for path in Path(__file__).parent.glob("contract_*.py")),
)
