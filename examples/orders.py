"""Order processing over four stores: an order takes everything it needs, or nothing.

    python examples/orders.py

An order decrements the stock of each item (only if there is enough), and writes the order, its payment, an
event in the graph and the customer's behaviour as a vector.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stores

from warehouse import TransactionResult, Warehouse

SCHEMA = stores.Schema(
    tables=[
        "CREATE TABLE stock (product TEXT PRIMARY KEY, quantity INTEGER NOT NULL)",
        """CREATE TABLE payments (
            id INTEGER PRIMARY KEY, "order" TEXT NOT NULL UNIQUE, amount NUMERIC(10, 2) CHECK (amount > 0)
        )""",
    ],
    documents=["orders"],
    labels={"OrderEvent": "id"},
    vectors={"behaviours": 2},
)
STOCK = {"tag": "records", "entity": "stock"}
PAYMENTS = {"tag": "records", "entity": "payments"}
ORDERS = {"tag": "documents", "entity": "orders"}
EVENTS = {"tag": "graph", "entity": "OrderEvent"}
BEHAVIOURS = {"tag": "vectors", "entity": "behaviours"}


def place(
    warehouse: Warehouse, order: str, user: str, items: Mapping[str, int], amount: str
) -> TransactionResult:
    """Place an order: all of it, or, where an item is out of stock, nothing."""
    take: list[dict[str, Any]] = [
        {
            "operation": "update",
            "name": f"take_{product}",
            "from": STOCK,
            "where": {"product": product, "quantity": {"$gte": number}},
            "data": {"quantity": {"$decrement": number}},
            "expect": {"affected_rows": 1},
        }
        for product, number in items.items()
    ]
    document = {"user": user, "items": dict(items), "status": "placed"}
    write = [
        {"operation": "insert", "from": ORDERS, "data": {"_id": order, "document": document}},
        {"operation": "insert", "from": PAYMENTS, "data": {"order": order, "amount": amount}, "name": "pay"},
        # The key of the payment is made by its database: a later step can refer to it.
        {"operation": "insert", "from": EVENTS, "data": {"id": order, "payment": {"$ref": "pay.id"}}},
        {"operation": "upsert", "from": BEHAVIOURS, "data": {"id": user, "vector": [1.0, len(items)]}},
    ]
    return warehouse.transaction([*take, *write], name=order)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        stores.embedded(SCHEMA, Path(folder)) as found,
        Warehouse.from_config(found.config) as warehouse,
    ):
        stock = [{"product": "lamp", "quantity": 5}, {"product": "desk", "quantity": 1}]
        warehouse.transaction([{"operation": "insert", "from": STOCK, "data": stock}]).raise_for_status()
        for order, items in {
            "order-1": {"lamp": 2, "desk": 1},
            "order-2": {"lamp": 1, "desk": 1},  # the only desk is sold: the lamp stays as well
            "order-3": {"lamp": 3},
        }.items():
            result = place(warehouse, order, "user-7", items, amount="120.00")
            print(f"{order}: {result.status}" + (f" - {result.error}" if result.error else ""))
        print(
            "stock:", {row["product"]: row["quantity"] for row in warehouse.find(STOCK, order_by=["product"])}
        )
        for source in (ORDERS, PAYMENTS, EVENTS, BEHAVIOURS):
            print(f"{source['entity']}: {len(warehouse.find(source))}")


if __name__ == "__main__":
    main()
