"""How a typed program uses Warehouse: checked by `mypy --strict` (see test_architecture), and never run."""

from collections.abc import Sequence
from typing import Any, assert_type

from warehouse import (
    AsyncTransaction,
    AsyncWarehouse,
    Call,
    Delete,
    Explanation,
    Insert,
    Residue,
    Rows,
    Source,
    StepResult,
    Transaction,
    TransactionCompensated,
    TransactionError,
    TransactionResult,
    Update,
    Upsert,
    Warehouse,
    WarehouseError,
    ref,
)


async def refund(card: str, amount: int, output: dict[str, Any] | None) -> None:
    """A compensation may be a coroutine function, too."""


def synchronous() -> None:
    with Warehouse.from_config("warehouse.toml") as warehouse:
        assert_type(warehouse, Warehouse)
        result = warehouse.transaction(
            [
                {
                    "operation": "insert",
                    "from": {"tag": "a", "entity": "e"},
                    "data": {"id": 1, "of": ref("step_0.id")},
                },
                Insert(from_=Source(tag="a", entity="e"), data={"id": 1}),
                Update(from_=Source(tag="a", entity="e"), where={"id": 1}, data={"n": {"$inc": 1}}),
                Upsert(
                    from_=Source(type="vector", tag="v", entity="e"), data=[{"id": 1}], conflict_keys=("id",)
                ),
                Delete(from_=Source(tag="g", relationship="KNOWS"), all=True),
            ],
            timeout=30.0,
            retry_on_failure=True,
            max_retries=3,
            pattern="saga",
            concurrency="sequential",
            name="nightly",
        )
        assert_type(result, TransactionResult)
        assert_type(result.raise_for_status(), TransactionResult)
        assert_type(result.step_results["step_0"], StepResult)
        assert_type(result.step_results["step_0"].data, list[dict[str, Any]])
        assert_type(result.residue, list[Residue])
        assert_type(result.ok, bool)
        assert_type(warehouse.find({"tag": "a", "entity": "e"}, order_by=["-n"]), list[dict[str, Any]])
        assert_type(
            warehouse.explain([Insert(from_=Source(tag="a", entity="e"), data={"id": 1})]), Explanation
        )

        @warehouse.action("charge", compensate=refund)
        def charge(card: str, amount: int) -> dict[str, Any]:
            return {"id": f"{card}-{amount}"}

        assert_type(charge("card", 5), dict[str, Any])
        warehouse.transaction(
            [Call(action="charge", args={"card": "c", "amount": 5})], rollback="critical_only"
        )
        with warehouse.begin("later", hold=True, expires_in=60) as held:
            assert_type(held.transaction_id, str)
        assert_type(warehouse.commit("later"), TransactionResult)
        assert_type(warehouse.rollback("later"), TransactionResult)
        assert_type(warehouse.forget({"tag": "a", "entity": "e"}, {"id": 1}), int)
        try:
            with warehouse.begin("by hand", timeout=5, raise_on_failure=True) as tx:
                assert_type(tx, Transaction)
                rows = tx.insert("database", "a", "e", {"id": 1}, returning=["id"])
                assert_type(rows, Rows)
                assert_type(rows.one(), dict[str, Any])
                assert_type(tx.call("charge", {"card": "c", "amount": 5}), Rows)
                assert_type(rows[0], dict[str, Any])
                assert_type(rows[:2], list[dict[str, Any]])
                assert_type(tx.find(None, "a", "e", {"id": 1}, lock=True), list[dict[str, Any]])
        except TransactionCompensated as error:
            assert_type(error.result, TransactionResult)
        except TransactionError as error:
            assert_type(error.result.error, str | None)
        except WarehouseError as error:
            assert_type(error.hint, str | None)


async def asynchronous() -> None:
    async with AsyncWarehouse(
        adapters={"a": {"adapter": "memory"}}, journal={"url": "memory://"}
    ) as warehouse:
        assert_type(warehouse, AsyncWarehouse)
        operations: Sequence[Insert | Delete] = [Insert(from_=Source(tag="a", entity="e"), data={"id": 1})]
        assert_type(await warehouse.transaction(operations, step_timeout=None), TransactionResult)
        assert_type(await warehouse.find(Source(tag="a", entity="e"), limit=1), list[dict[str, Any]])
        async with warehouse.begin(pattern="staged") as tx:
            assert_type(tx, AsyncTransaction)
            assert_type(await tx.upsert(None, "a", "e", [{"id": 1}], ["id"]), Rows)
        assert_type(tx.result, TransactionResult)


def mistakes(warehouse: Warehouse) -> None:
    """What the types refuse: an ignore that is not needed is an error too."""
    warehouse.transaction([], timout=3)  # type: ignore[call-arg]
    warehouse.transaction([], timeout="3")  # type: ignore[arg-type]
    warehouse.transaction([], pattern="sagas")  # type: ignore[arg-type]
    warehouse.transaction("insert")  # type: ignore[arg-type]
    warehouse.begin(retry_on_failure=True)  # type: ignore[call-arg]
    warehouse.find({"tag": "a"}, isolation="dirty")  # type: ignore[arg-type]
    with warehouse.begin() as tx:
        tx.insert("sql", "a", "e", {"id": 1})  # type: ignore[arg-type]
    Insert(from_=Source(tag="a", entity="e"), data="x")  # type: ignore[arg-type]
