"""For the authors of adapters: the contract suite (`contract`), the `Harness` that it needs, and the matrix."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "warehouse.testing.bench",
    *(f"warehouse.testing.{path.stem}" for path in Path(__file__).parent.glob("contract_*.py")),
)
