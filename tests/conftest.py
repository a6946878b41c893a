import pytest

pytest_plugins = ["servers.fixtures"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
