"""Callers that do not wait: a close, repeated cancellations, a schema that changes. All or nothing all the same."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from warehouse import AsyncWarehouse

pytestmark = pytest.mark.anyio


class Files:
    """Two SQLite stores and a journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tag in "ab":
            self.sql(tag, "CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)")

    def sql(self, tag: str, statement: str) -> list[Any]:
        with contextlib.closing(
            sqlite3.connect(self.folder / f"{tag}.db", isolation_level=None)
        ) as connection:
            return connection.execute(statement).fetchall()

    @property
    def warehouse(self) -> AsyncWarehouse:
        urls = {tag: f"sqlite:///{self.folder}/{tag}.db" for tag in "ab"}
        return AsyncWarehouse(
            journal={"url": f"sqlite:///{self.folder}/journal.db"},
            adapters={tag: {"adapter": "sql", "url": url} for tag, url in urls.items()},
        )

    def agree(self) -> bool:
        return self.sql("a", "SELECT * FROM t ORDER BY id") == self.sql("b", "SELECT * FROM t ORDER BY id")

    def locks(self) -> list[Any]:
        return self.sql("journal", "SELECT * FROM warehouse_locks")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def insert(number: int) -> list[dict[str, Any]]:
    data = {"id": number, "note": "x"}
    return [{"operation": "insert", "from": {"tag": tag, "entity": "t"}, "data": data} for tag in "ab"]


@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_close_waits_for_what_is_running(files: Files, pattern: Any) -> None:
    warehouse = files.warehouse
    await warehouse.transaction(insert(0))
    for number in range(1, 21):
        task = asyncio.create_task(warehouse.transaction(insert(number), pattern=pattern))
        await asyncio.sleep(number / 2000)
        await warehouse.close()
        assert (await task).ok
    await warehouse.close()
    assert files.agree()
    assert files.locks() == []


@pytest.mark.parametrize("pattern", ["staged", "saga"])
async def test_a_second_cancellation_does_not_cut_the_clean_up(files: Files, pattern: Any) -> None:
    async with files.warehouse as warehouse:
        await warehouse.transaction(insert(0))
        for number in range(1, 41):
            task = asyncio.create_task(warehouse.transaction(insert(number), pattern=pattern))
            await asyncio.sleep(number / 4000)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert files.agree()
            assert files.locks() == []


async def test_a_column_that_is_gone_is_an_error_and_no_text(files: Files) -> None:
    async with files.warehouse as warehouse:
        await warehouse.transaction(insert(1))
        files.sql("a", "ALTER TABLE t RENAME COLUMN note TO remark")
        source = {"tag": "a", "entity": "t"}
        result = await warehouse.transaction(
            [{"operation": "delete", "from": source, "where": {"note": {"$ne": "x"}}}]
        )
        assert result.status == "compensated"
        assert "note" in (result.error or "")
        assert files.sql("a", "SELECT * FROM t") == [(1, "x")]


async def test_a_saga_block_is_undone_when_its_time_is_up(files: Files) -> None:
    async with files.warehouse as warehouse:
        tx = warehouse.begin(pattern="saga", timeout=0.3, raise_on_failure=False)
        async with tx:
            await tx.insert("database", "a", "t", {"id": 1})
            assert files.sql("a", "SELECT id FROM t") == [(1,)]
            await asyncio.sleep(0.8)
            assert files.sql("a", "SELECT id FROM t") == []
            assert files.locks() == []
        assert tx.result.status == "compensated"
