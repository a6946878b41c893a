import os

import pytest
from hypothesis import settings

pytest_plugins = ["servers.fixtures"]

# The same examples in every run of CI; elsewhere fresh ones.
settings.register_profile("ci", derandomize=True, deadline=None)
if "CI" in os.environ:
    settings.load_profile("ci")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
