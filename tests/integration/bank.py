"""One process of the bank: writers that move money between stores, until it is killed or told to stop.

    python -m integration.bank CONFIG SEED

It appends to the file `done` of the configuration one line for each transfer: its key, and how it ended.
"""

import asyncio
import json
import random
import sys
from pathlib import Path
from uuid import uuid4

from warehouse import AsyncWarehouse, OutcomeUnknown, TransactionConflict, WarehouseError

WRITERS = 4
ACCOUNTS = 4
# Where money moves under locks that a reader can take, and where it moves through all stores.
LOCKABLE, ALL = ("pg", "maria", "graph"), ("pg", "maria", "graph", "doc")


class Bank:
    def __init__(self, config, seed):
        self.config = config
        self.random = random.Random(seed)
        self.warehouse = AsyncWarehouse(**config["warehouse"])
        self.done = Path(config["done"])
        self.stop = Path(config["stop"])

    def source(self, tag):
        return {"tag": tag, "entity": self.config["entity"]}

    def note(self, key, how):
        with self.done.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, how]) + "\n")

    async def run(self):
        async with self.warehouse:
            await asyncio.gather(*(self.write() for _ in range(WRITERS)), self.read())

    async def write(self):
        while not self.stop.exists():
            key, steps, options = self.transfer()
            for _ in range(self.random.choice([1, 1, 1, 2])):  # some calls come twice
                try:
                    result = await self.warehouse.transaction(steps, idempotency_key=key, **options)
                except OutcomeUnknown:
                    self.note(key, "unknown")
                except WarehouseError as error:
                    self.note(key, type(error).__name__)
                else:
                    self.note(key, result.status)

    def transfer(self):
        """From one account to another, and a line in the ledger; under a key of its own."""
        group = self.random.choice(["l", "a"])
        tags = LOCKABLE if group == "l" else ALL
        one, two = self.random.sample([(tag, n) for tag in tags for n in range(ACCOUNTS)], 2)
        amount, key = self.random.randint(1, 20), uuid4().hex
        steps = [
            self.step(one, group, -amount),
            self.step(two, group, amount),
            {
                "operation": "insert",
                "from": {"tag": "pg", "entity": self.config["ledger"]},
                "data": {"key": key},
            },
        ]
        patterns = ["auto", "auto", "saga"]
        if {one[0], two[0]} <= {"pg", "maria"}:
            patterns.append("two_phase_commit")
        return key, steps, {"pattern": self.random.choice(patterns), "lock_timeout": 5, "timeout": 20}

    def step(self, account, group, amount):
        tag, number = account
        where = {"_id" if tag == "doc" else "id": f"{group}{number}"}
        if amount < 0:
            where["balance"] = {"$gte": -amount}
        return {
            "operation": "update",
            "from": self.source(tag),
            "where": where,
            "data": {"balance": {"$increment": amount}},
            "expect": {"affected_rows": 1},
        }

    async def read(self):
        """The total of what can be locked is right all the time."""
        where = {"id": {"$startsWith": "l"}}
        while not self.stop.exists():
            try:
                async with self.warehouse.begin(timeout=20) as tx:
                    rows = [
                        row
                        for tag in LOCKABLE
                        for row in await tx.find(None, tag, self.config["entity"], where, lock=True)
                    ]
            except (TransactionConflict, WarehouseError) as error:
                self.note("read", type(error).__name__)
            else:
                self.note("read", sum(row["balance"] for row in rows))
            await asyncio.sleep(self.random.uniform(0.05, 0.3))


if __name__ == "__main__":
    asyncio.run(Bank(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2])).run())
