"""One process of a round: some writers that share a warehouse, until they are killed or told to stop.

python -m campaign.writer CONFIG SEED
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from campaign.history import Log, Type
from campaign.layout import GROUPS, PREPARING, TAGS, Layout
from campaign.processes import is_over
from warehouse import AsyncWarehouse, OutcomeUnknown, TransactionConflict, WarehouseError

_READS = 0.25  # this share of what a writer does
_FAILURES = 0.08  # this share of the transactions fails at their last step
_CROSSED = 0.05  # this share takes the stores in any order, and may wait for each other in a circle
_KEYED = 0.4  # this share of the transactions has an idempotency key
_TWICE = 0.2  # this share of those is asked for twice


class Writer:
    def __init__(self, config: dict[str, Any], number: int, warehouse: AsyncWarehouse) -> None:
        self.layout = Layout(config["records"])
        self.random = random.Random(f"{config['seed']} {os.getpid()} {number}")
        self.warehouse = warehouse
        self.log = Log(Path(config["folder"]) / f"history-{os.getpid()}.jsonl", f"{os.getpid()}.{number}")
        self.config = config

    async def run(self) -> None:
        while not is_over(self.config):
            if self.random.random() >= _READS:
                await self.write()
            elif self.random.random() < 0.5:
                await self.read()
            else:
                await self.find()

    def source(self, tag: str, entity: str | None = None) -> dict[str, str]:
        return {"tag": tag, "entity": entity or self.layout.records}

    async def write(self) -> None:
        """One transaction with a key of its own, perhaps asked for twice."""
        group = self.random.choice(list(GROUPS))
        known = TAGS[GROUPS[group]]
        tags = self.random.sample(known, min(len(known), self.random.choice([1, 2, 2, 3, 3, 4])))
        if self.random.random() >= _CROSSED:
            tags.sort()
        key = uuid4().hex
        patterns = ["auto", "auto", "saga"]
        if len(tags) > 1 and PREPARING.issuperset(tags):
            patterns.append("two_phase_commit")
        options: dict[str, Any] = {"pattern": self.random.choice(patterns), "lock_timeout": 1, "timeout": 20}
        keyed = self.random.random() < _KEYED
        if keyed:
            options["idempotency_key"] = key
        steps = self.steps(group, tags, key)
        self.log.write("invoke", "write", {"group": group, "tags": tags, "key": key})
        ends = [await self.attempt(steps, options)]
        if keyed and self.random.random() < _TWICE:
            ends.append(await self.attempt(steps, options))
        type_, value = _certain(ends)
        self.log.write(type_, "write", {**value, "calls": [end["told"] for _, end in ends]})

    def steps(self, group: str, tags: list[str], key: str) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for tag in tags:
            out += [
                {
                    "name": tag,
                    "operation": "update",
                    "from": self.source(tag),
                    "where": {self.layout.key(tag): group},
                    "data": {"n": {"$increment": 1}, "last": key},
                    "expect": {"affected_rows": 1},
                },
                {
                    "operation": "insert",
                    "from": self.source(tag, self.layout.ledger),
                    "data": {self.layout.key(tag): key},
                },
            ]
        if self.random.random() < _FAILURES:
            missing = {**out[0], "name": "missing", "where": {self.layout.key(tags[0]): "nobody"}}
            out.append(missing)
        return out

    async def attempt(self, steps: Any, options: Any) -> tuple[Type, dict[str, Any]]:
        try:
            result = await self.warehouse.transaction(steps, **options)
        except OutcomeUnknown:
            return "info", {"told": "unknown"}
        except WarehouseError as error:
            return "fail", {"told": type(error).__name__}
        if not result.ok:
            residue = [str(item) for item in result.residue]
            return "fail", {"told": result.status, "pattern": result.pattern, "residue": residue}
        seen = {
            name: step.data[0]["n"]
            for name, step in result.step_results.items()
            if name in TAGS["a"] and step.data
        }
        return "ok", {"told": "completed", "pattern": result.pattern, "seen": seen}

    async def read(self) -> None:
        """A group's records in all its stores, under locks."""
        group = self.random.choice([group for group, kind in GROUPS.items() if kind == "l"])
        seen: dict[str, Any] = {}
        self.log.write("invoke", "read", {"group": group, "tags": list(TAGS["l"])})
        try:
            async with self.warehouse.begin(timeout=20) as tx:
                for tag in TAGS["l"]:
                    (row,) = await tx.find(None, tag, self.layout.records, {"id": group}, lock=True)
                    seen[tag] = [row["n"], row["last"]]
        except (TransactionConflict, WarehouseError) as error:
            self.log.write("fail", "read", {"told": type(error).__name__})
        else:
            self.log.write("ok", "read", {"told": "read", "seen": seen})

    async def find(self) -> None:
        """One record, as it is committed."""
        group = self.random.choice(list(GROUPS))
        tag = self.random.choice(TAGS[GROUPS[group]])
        self.log.write("invoke", "find", {"group": group, "tags": [tag]})
        try:
            (row,) = await self.warehouse.find(
                self.source(tag), where={self.layout.key(tag): group}, timeout=20
            )
        except WarehouseError as error:
            self.log.write("fail", "find", {"told": type(error).__name__})
        else:
            self.log.write("ok", "find", {"told": "read", "seen": {tag: [row["n"], row["last"]]}})


def _certain(ends: list[tuple[Type, dict[str, Any]]]) -> tuple[Type, dict[str, Any]]:
    """What several calls say together: the last that tells of the transaction, and not just of itself."""
    telling = [end for end in ends if end[0] != "fail" or end[1]["told"] in {"compensated", "failed"}]
    completed = [end for end in telling if end[0] == "ok"]
    return (completed or telling or ends)[-1]


async def main(config: dict[str, Any], writers: int) -> None:
    warehouse = AsyncWarehouse(**config["warehouse"])
    while True:
        try:
            await warehouse.open()
            break
        except WarehouseError:  # a server is down
            if is_over(config):
                return
            await asyncio.sleep(0.1)
    async with warehouse:
        await asyncio.gather(*(Writer(config, number, warehouse).run() for number in range(writers)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2])))
