"""Pytest plugin: one fixture per real server, and a summary that says which stores the tests really used.

List it in a conftest: `pytest_plugins = ["servers.fixtures"]`. A test that needs what only a URL can give
is marked `needs_url("WAREHOUSE_TEST_QDRANT_URL")`; without that variable it is deselected, and the summary
says so. A server that is missing fails its tests where CI is set, and skips them elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import servers
from servers import Server, ServerMissing

FIXTURES = {
    "postgres": "postgres",
    "mariadb": "mariadb",
    "redis_server": "redis",
    "mongo": "mongo",
    "neo4j_server": "neo4j",
    "qdrant_server": "qdrant",
}
_not_run = pytest.StashKey[dict[str, int]]()
_missing: dict[str, str] = {}


@pytest.fixture(scope="session")
def postgres() -> Server:
    return _server("postgres")


@pytest.fixture(scope="session")
def mariadb() -> Server:
    return _server("mariadb")


@pytest.fixture(scope="session")
def redis_server() -> Server:
    return _server("redis")


@pytest.fixture(scope="session")
def mongo() -> Server:
    return _server("mongo")


@pytest.fixture(scope="session")
def neo4j_server() -> Server:
    return _server("neo4j")


@pytest.fixture(scope="session")
def qdrant_server() -> Server:
    return _server("qdrant")


def _server(name: str) -> Server:
    try:
        return servers.start(name)
    except ServerMissing as missing:
        _missing[name] = str(missing)
        if os.environ.get("CI"):
            pytest.fail(f"{name} is required here: {missing}", pytrace=False)
        pytest.skip(f"{name} is missing: {missing}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs_url(*names): needs servers that only these environment variables give"
    )
    config.stash[_not_run] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests whose servers only a URL can give, and remember them for the summary."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        absent = _absent_urls(item)
        for name in absent:
            config.stash[_not_run][name] = config.stash[_not_run].get(name, 0) + 1
        (dropped if absent else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _absent_urls(item: pytest.Item) -> list[str]:
    names = [str(name) for mark in item.iter_markers("needs_url") for name in mark.args]
    return [name for name in names if not os.environ.get(name)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot the servers that the tests will ask for, side by side, while the first tests run."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    servers.prestart(*(FIXTURES[name] for name in FIXTURES if name in wanted))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish() -> Iterator[None]:
    yield
    servers.stop_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    write = terminalreporter.write_line
    terminalreporter.section("stores")
    write(f"stores used: {', '.join(servers.used_stores()) or 'none'}")
    for name, count in sorted(config.stash[_not_run].items()):
        write(f"not run: needs {name} ({count} tests)", yellow=True)
    for name, reason in sorted(_missing.items()):
        write(f"NOT RUN: {name} missing: {reason}", red=True, bold=True)
