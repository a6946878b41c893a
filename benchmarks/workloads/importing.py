"""What it costs to import the package."""

from __future__ import annotations

import asyncio
import sys

from benchmarks.harness import Workload


class Import(Workload):
    name = "import of warehouse"
    against = "import pydantic"
    target = 1.5
    rounds = 15
    warm_up = 2

    async def open(self) -> None:
        """Nothing is needed."""

    async def raw(self, number: int) -> None:
        await _run("import pydantic")

    async def ours(self, number: int) -> None:
        await _run("import warehouse")


async def _run(code: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    if await process.wait():
        raise RuntimeError(f"{code} failed")
