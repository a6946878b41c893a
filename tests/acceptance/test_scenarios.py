"""The scenarios that people want Warehouse for, each on real servers, staged and as a saga."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from warehouse import AsyncWarehouse, TransactionCompensated, Warehouse, ref

from .conftest import World

pytestmark = pytest.mark.parametrize("pattern", ["staged", "saga"])


def insert(tag: str, entity: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"operation": "insert", "from": {"tag": tag, "entity": entity}, "data": data, **more}


def update(tag: str, entity: str, where: Any, data: Any, **more: Any) -> dict[str, Any]:
    source = {"tag": tag, "entity": entity}
    return {"operation": "update", "from": source, "where": where, "data": data, **more}


def upsert(tag: str, entity: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"operation": "upsert", "from": {"tag": tag, "entity": entity}, "data": data, **more}


def delete(tag: str, entity: str, where: Any, **more: Any) -> dict[str, Any]:
    return {"operation": "delete", "from": {"tag": tag, "entity": entity}, "where": where, **more}


def point(**metadata: Any) -> dict[str, Any]:
    return {"id": str(uuid4()), "vector": [0.6, 0.8, 0.0], "metadata": metadata}


def test_order_event_and_behaviour_all_complete(warehouse: Warehouse, world: World, pattern: Any) -> None:
    result = warehouse.transaction(
        [
            insert(
                "orders",
                world.tables["orders"],
                {"user_id": "user_123", "total": "99.99", "status": "pending"},
            ),
            insert("social", world.labels["OrderEvent"], {"id": "evt-1", "type": "ORDER_PLACED"}),
            upsert("vectors", "behaviours", point(action="purchase", order=ref("step_0.id"))),
        ],
        pattern=pattern,
    )
    assert result.raise_for_status().status == "completed"
    order = result.step_results["step_0"].data[0]
    assert world.pg(
        f"SELECT user_id, total, status FROM {world.tables['orders']} WHERE id = %s", order["id"]
    ) == [("user_123", Decimal("99.99"), "pending")]
    assert world.cypher(f"MATCH (n:{world.labels['OrderEvent']}) RETURN n.id") == [["evt-1"]]
    (behaviour,) = world.vectors(warehouse)["behaviours"]
    assert behaviour["metadata"] == {"action": "purchase", "order": order["id"]}


def create_user(world: World, name: str, email: str) -> list[dict[str, Any]]:
    return [
        insert("orders", world.tables["users"], {"id": name, "email": email}, name="row", after=["edge"]),
        insert("profiles", "users", {"_id": name, "email": email, "tags": ["new"]}, name="profile"),
        insert("social", world.labels["User"], {"id": name}, name="edge"),
        upsert("vectors", "users", point(user=name), name="embedding"),
    ]


def test_user_everywhere_and_a_taken_email_leaves_nothing(
    warehouse: Warehouse, world: World, pattern: Any
) -> None:
    warehouse.transaction(create_user(world, "ada", "ada@example.org"), pattern=pattern).raise_for_status()
    before = world.snapshot(warehouse)
    assert before["users"] == [("ada", "ada@example.org", None)]
    assert before["mongo.users"] == [{"_id": "ada", "email": "ada@example.org", "tags": ["new"]}]
    assert len(before["nodes"]) == len(before["vectors"]["users"]) == 1

    operations = create_user(world, "bob", "ada@example.org")
    operations[0]["after"] = ["profile", "edge", "embedding"]
    result = warehouse.transaction(operations, pattern=pattern)
    assert result.status == "compensated"
    assert sorted(result.compensated_steps) == ["edge", "embedding", "profile"]
    assert "email" in (result.step_results["row"].error or "")
    assert world.snapshot(warehouse) == before
    with pytest.raises(TransactionCompensated) as caught:
        result.raise_for_status()
    assert type(caught.value.__cause__.__cause__).__name__ == "UniqueViolation"


def order_items(world: World, items: dict[str, int]) -> list[dict[str, Any]]:
    stock = world.tables["stock"]
    return [
        insert("orders", world.tables["orders"], {"user_id": "ada", "total": "10.00"}, name="order"),
        *[
            update(
                "warehouse-stock",
                stock,
                {"sku": sku, "quantity": {"$gte": count}},
                {"quantity": {"$decrement": count}},
                expect={"affected_rows": 1},
                name=f"take-{sku}",
            )
            for sku, count in items.items()
        ],
        insert(
            "orders",
            world.tables["payments"],
            {"order_id": ref("order.id"), "amount": "10.00"},
            name="payment",
        ),
        insert(
            "social", world.labels["OrderEvent"], {"id": str(uuid4()), "items": list(items)}, name="event"
        ),
    ]


def test_order_of_several_items_and_one_out_of_stock(
    warehouse: Warehouse, world: World, pattern: Any
) -> None:
    for sku, count in {"p-1": 5, "p-2": 1}.items():
        world.maria(f"INSERT INTO {world.tables['stock']} VALUES (%s, %s, 'A')", sku, count)
    warehouse.transaction(order_items(world, {"p-1": 2, "p-2": 1}), pattern=pattern).raise_for_status()
    before = world.snapshot(warehouse)
    assert before["stock"] == [("p-1", 3, "A"), ("p-2", 0, "A")]
    assert len(before["orders"]) == len(before["payments"]) == len(before["nodes"]) == 1

    result = warehouse.transaction(order_items(world, {"p-1": 1, "p-2": 1}), pattern=pattern)
    assert result.status == "compensated"
    assert result.step_results["take-p-2"].status == "failed"
    assert "expected affected_rows 1, found 0" in (result.error or "")
    after = world.snapshot(warehouse)
    assert after == before


def test_three_inserts_the_third_violates_a_constraint(
    warehouse: Warehouse, world: World, pattern: Any
) -> None:
    before = world.snapshot(warehouse)
    result = warehouse.transaction(
        [
            insert("warehouse-stock", world.tables["stock"], {"sku": "p-9", "quantity": 1}),
            insert("invoices", "invoices", {"number": "i-1", "total": 5}),
            insert("orders", world.tables["orders"], {"user_id": "ada", "total": "-1.00"}),
        ],
        pattern=pattern,
    )
    assert result.status == "compensated"
    assert result.compensated_steps == ["step_0", "step_1"]
    assert "check" in (result.error or "").lower()
    assert world.snapshot(warehouse) == before


def seed(warehouse: Warehouse, world: World) -> None:
    """Two records in every store, and an edge between the two nodes."""
    t = world.tables
    users, label = (
        [{"id": name, "email": f"{name}@example.org", "city": "x"} for name in "ab"],
        world.labels["User"],
    )
    operations = [
        insert("orders", t["users"], users),
        insert("warehouse-stock", t["stock"], [{"sku": sku, "quantity": 7, "shelf": "B"} for sku in "ab"]),
        insert("invoices", "invoices", [{"number": number, "total": 3, "paid": 0} for number in "ab"]),
        insert("profiles", "users", [{"_id": name, "n": 1, "deep": {"x": [1, 2]}} for name in "ab"]),
        insert("social", label, [{"id": name, "n": 1, "tags": ["t"]} for name in "ab"], name="nodes"),
        {
            "operation": "insert",
            "from": {"tag": "social", "relationship": "KNOWS"},
            "data": {
                "start": {"entity": label, "where": {"id": "a"}},
                "end": {"entity": label, "where": {"id": "b"}},
                "properties": {"since": 2020},
            },
        },
        insert(
            "vectors", "users", [{"id": n, "vector": [0.6, 0.8, 0], "metadata": {"n": n}} for n in (1, 2)]
        ),
    ]
    warehouse.transaction(operations).raise_for_status()


def changes(world: World) -> list[dict[str, Any]]:
    """An update, a delete and two upserts (one of each kind) in every store."""
    t, label = world.tables, world.labels["User"]
    return [
        update("orders", t["users"], {"id": "a"}, {"city": "y"}),
        upsert("orders", t["users"], {"id": "a", "email": "new@example.org"}),
        upsert("orders", t["users"], {"id": "c", "email": "c@example.org"}),
        delete("orders", t["users"], {"id": "b"}),
        update("warehouse-stock", t["stock"], {"sku": "a"}, {"quantity": {"$decrement": 2}, "shelf": None}),
        upsert("warehouse-stock", t["stock"], [{"sku": "a", "quantity": 1}, {"sku": "c", "quantity": 1}]),
        delete("warehouse-stock", t["stock"], {"sku": "b"}),
        update("invoices", "invoices", {"number": "a"}, {"total": {"$increment": 2}}),
        upsert("invoices", "invoices", [{"number": "a", "paid": 1}, {"number": "c", "paid": 1}]),
        delete("invoices", "invoices", {"number": "b"}),
        update("profiles", "users", {"_id": "a"}, {"deep.x": {"$push": 3}, "n": {"$increment": 1}}),
        upsert("profiles", "users", [{"_id": "a", "n": 9}, {"_id": "c", "n": 9}]),
        delete("profiles", "users", {"_id": "b"}),
        update("social", label, {"id": "a"}, {"tags": {"$push": "u"}, "n": {"$increment": 1}}),
        upsert("social", label, [{"id": "a", "n": 9}, {"id": "c", "n": 9}]),
        delete("social", label, {"id": "b"}),
        update("vectors", "users", {"id": 1}, {"metadata.n": 5, "metadata.extra": "e"}),
        upsert(
            "vectors",
            "users",
            [
                {"id": 1, "vector": [0.0, 1.0, 0.0], "metadata": {"n": 7}},
                {"id": 3, "vector": [0.0, 1.0, 0.0], "metadata": {}},
            ],
        ),
        delete("vectors", "users", {"id": 2}),
    ]


def test_changes_in_every_store_and_a_failing_step_leave_all_as_before(
    warehouse: Warehouse, world: World, pattern: Any
) -> None:
    seed(warehouse, world)
    before = world.snapshot(warehouse)
    failing = insert("orders", world.tables["orders"], {"user_id": "ada", "total": "-1.00"})
    result = warehouse.transaction([*changes(world), failing], pattern=pattern)
    assert (result.status, result.residue) == ("compensated", [])
    assert len(result.compensated_steps) == len(changes(world))
    assert world.snapshot(warehouse) == before

    warehouse.transaction(changes(world), pattern=pattern).raise_for_status()
    after = world.snapshot(warehouse)
    assert all(
        after[name] != before[name] for name in before if name not in {"orders", "payments", "shipments"}
    )
    assert after["users"] == [("a", "new@example.org", "y"), ("c", "c@example.org", None)]
    assert after["stock"] == [("a", 1, None), ("c", 1, None)]
    assert after["invoices"] == [("a", 5, 1), ("c", None, 1)]
    assert after["mongo.users"] == [{"_id": "a", "n": 9, "deep": {"x": [1, 2, 3]}}, {"_id": "c", "n": 9}]
    assert after["edges"] == []


def test_foreign_writes_before_the_undo_stay(warehouse: Warehouse, world: World, pattern: Any) -> None:
    """In a saga our commit is visible before the end; staged, it never is: then nothing is there to be met."""
    if pattern == "staged":
        check_staged_is_invisible(warehouse, world)
        return
    seed(warehouse, world)
    tx = warehouse.begin(pattern="saga")
    with pytest.raises(RuntimeError, match="on purpose"), tx:
        tx.update("database", "orders", world.tables["users"], {"id": "a"}, {"city": "ours"})
        tx.update("database", "orders", world.tables["users"], {"id": "b"}, {"city": "ours"})
        tx.update("database", "profiles", "users", {"_id": "a"}, {"n": {"$increment": 5}})
        world.pg(f"UPDATE {world.tables['users']} SET email = 'theirs@example.org' WHERE id = 'a'")
        world.pg(f"UPDATE {world.tables['users']} SET city = 'theirs' WHERE id = 'b'")
        with world.documents() as client:
            client[world.mongo_database]["users"].update_one({"_id": "a"}, {"$inc": {"n": 100}})
        raise RuntimeError("on purpose")
    result = tx.result
    assert result.status == "failed"
    (left,) = result.residue
    assert (left.entity, left.key, left.field) == (world.tables["users"], {"id": "b"}, "city")
    assert (left.expected, left.found, left.reason) == ("ours", "theirs", "conflict")
    after = world.snapshot(warehouse)
    assert after["users"] == [("a", "theirs@example.org", "x"), ("b", "b@example.org", "theirs")]
    assert after["mongo.users"][0]["n"] == 101


def check_staged_is_invisible(warehouse: Warehouse, world: World) -> None:
    seed(warehouse, world)
    before = world.snapshot(warehouse)
    tx = warehouse.begin(pattern="staged")
    with pytest.raises(RuntimeError, match="on purpose"), tx:
        tx.update("database", "profiles", "users", {"_id": "a"}, {"n": {"$increment": 5}})
        tx.update("database", "orders", world.tables["users"], {"id": "a"}, {"city": "ours"})
        tx.insert("graph", "social", world.labels["User"], {"id": "z"})
        assert world.snapshot(warehouse) == before
        raise RuntimeError("on purpose")
    assert tx.result.status == "compensated"
    assert world.snapshot(warehouse) == before


def test_two_threads_on_one_warehouse(warehouse: Warehouse, world: World, pattern: Any) -> None:
    world.maria(f"INSERT INTO {world.tables['stock']} VALUES ('p', 0, 'A')")
    results: list[str] = []

    def work(thread: int) -> None:
        for number in range(5):
            result = warehouse.transaction(
                [
                    update(
                        "warehouse-stock",
                        world.tables["stock"],
                        {"sku": "p"},
                        {"quantity": {"$increment": 1}},
                    ),
                    insert("profiles", "log", {"_id": f"{thread}-{number}"}),
                ],
                pattern=pattern,
                lock_timeout=20,
            )
            results.append(result.error or result.status)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["completed"] * 10
    after = world.snapshot(warehouse)
    assert after["stock"] == [("p", 10, "A")]
    assert len(after["mongo.log"]) == 10


def test_fifty_tasks_on_one_async_warehouse(world: World, pattern: Any) -> None:
    async def main() -> list[str]:
        async with AsyncWarehouse.from_config(world.config) as warehouse:
            results = await asyncio.gather(
                *[
                    warehouse.transaction(
                        [
                            insert(
                                "orders", world.tables["orders"], {"user_id": f"u{number}", "total": "1.00"}
                            ),
                            insert("profiles", "log", {"_id": number, "order": ref("step_0.id")}),
                            insert("social", world.labels["OrderEvent"], {"id": f"e{number}"}),
                        ],
                        pattern=pattern,
                    )
                    for number in range(50)
                ]
            )
            return [result.error or result.status for result in results]

    assert asyncio.run(main()) == ["completed"] * 50
    assert world.pg(f"SELECT count(DISTINCT user_id) FROM {world.tables['orders']}") == [(50,)]
    assert world.cypher(f"MATCH (n:{world.labels['OrderEvent']}) RETURN count(n)") == [[50]]
    with world.documents() as client:
        assert client[world.mongo_database]["log"].count_documents({}) == 50


def test_timeout_in_the_middle_of_a_slow_step(warehouse: Warehouse, world: World, pattern: Any) -> None:
    import psycopg
    from sqlalchemy.engine import make_url

    seed(warehouse, world)
    before = world.snapshot(warehouse)
    url = make_url(world.postgres.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as blocker:
        blocker.execute(f"SELECT * FROM {world.tables['users']} WHERE id = 'a' FOR UPDATE")
        result = warehouse.transaction(
            [
                update("profiles", "users", {"_id": "a"}, {"n": 5}),
                insert("social", world.labels["User"], {"id": "z"}),
                update("orders", world.tables["users"], {"id": "a"}, {"city": "ours"}, after=["step_1"]),
            ],
            pattern=pattern,
            timeout=1.0,
        )
    assert result.status == "compensated"
    assert "timeout of 1.0 s" in (result.step_results["step_2"].error or "")
    assert result.execution_time < 8
    assert world.snapshot(warehouse) == before
