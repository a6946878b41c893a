"""The contract suite on every adapter of ours.

`harness_<name>.py` beside this file lists its harnesses in `HARNESSES`. One that needs a server names the
fixture of `servers.fixtures` in its class attribute `server`, and is made with that `Server`; `marks` are
those of its tests.
"""

from importlib import import_module
from pathlib import Path

import pytest

from warehouse.testing.contract import AdapterContract
from warehouse.testing.harness import Harness


def _harnesses():
    for path in sorted(Path(__file__).parent.glob("harness_*.py")):
        for kind in import_module(f"contract.{path.stem}").HARNESSES:
            yield pytest.param(kind, id=kind.name, marks=getattr(kind, "marks", ()))


class TestAdapter(AdapterContract):
    @pytest.fixture(params=_harnesses())
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        server = getattr(request.param, "server", None)
        return request.param(request.getfixturevalue(server)) if server else request.param()
