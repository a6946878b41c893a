"""What a transaction returns: as JSON, as text, and as exceptions."""

import enum
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from uuid import UUID

import pytest

from warehouse import (
    Conflict,
    Explanation,
    Residue,
    Rows,
    StepFailed,
    StepResult,
    TransactionCompensated,
    TransactionError,
    TransactionFailed,
    TransactionResult,
    WarehouseError,
)
from warehouse.results import PlannedChange, plain


class Colour(enum.Enum):
    RED = "red"


class Odd:
    def __str__(self):
        return "odd"


VALUES = [
    (None, None),
    (True, True),
    (2**70, 2**70),
    (1.5, 1.5),
    (float("inf"), "inf"),
    (float("nan"), "nan"),
    ("text\u2028\ud7ff", "text\u2028\ud7ff"),
    (Decimal("1.10"), "1.10"),
    (b"\x00\xff", "AP8="),
    (bytearray(b"a"), "YQ=="),
    (memoryview(b"a"), "YQ=="),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (timedelta(days=1, seconds=2), "1 day, 0:00:02"),
    (IPv4Address("127.0.0.1"), "127.0.0.1"),
    (Colour.RED, "Colour.RED"),
    (Odd(), "odd"),
    ((1, [Decimal(2)], {"a": {3}}), [1, ["2"], {"a": [3]}]),
    ({1: {"b": Odd()}, "1.0": 2}, {"1": {"b": "odd"}, "1.0": 2}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: type(value).__name__)
def test_any_value_as_json(value, expected):
    assert plain(value) == expected
    result = TransactionResult(
        transaction_id="t",
        status="failed",
        pattern="saga",
        execution_time=0.5,
        step_results={
            "step_0": StepResult(status="failed", data=[{"id": 1, "x": value}], actions=["inserted"])
        },
        residue=[residue(key={"id": value}, expected=value, found={"deep": value})],
    )
    for dumped in (result.model_dump(mode="json"), json.loads(result.model_dump_json())):
        assert dumped["step_results"]["step_0"]["data"] == [{"id": 1, "x": expected}]
        assert dumped["residue"][0]["key"] == {"id": expected}
        assert dumped["residue"][0]["found"] == {"deep": expected}
    assert json.dumps(result.model_dump(mode="json"), allow_nan=False)
    kept = result.model_dump()["step_results"]["step_0"]["data"][0]["x"]
    assert kept is value or kept == value
    planned = PlannedChange(action="inserted", entity="e", key={"id": 1}, after={"x": value})
    assert planned.model_dump(mode="json")["after"] == {"x": expected}


def residue(**more):
    values = {"step": "step_0", "tag": "t", "entity": "orders", "key": {"id": 1}, "reason": "conflict"}
    return Residue(**{**values, **more})


def result(status="completed", **more):
    return TransactionResult(
        transaction_id="abc", status=status, pattern="staged", execution_time=0.1, **more
    )


def test_completed():
    done = result()
    assert done.ok
    assert done.raise_for_status() is done
    assert done.cause is None


def test_compensated_raises_with_the_whole_chain():
    driver = OSError("connection reset")
    failed = StepFailed("no", step="step_1", tag="t", entity="orders")
    failed.__cause__ = driver
    ended = result("compensated", error=str(failed), name="nightly").caused_by(failed)
    with pytest.raises(TransactionCompensated) as caught:
        ended.raise_for_status()
    error = caught.value
    assert str(error) == "transaction nightly compensated: step_1 (t, orders): no"
    assert (error.result, error.__cause__, error.__cause__.__cause__) == (ended, failed, driver)
    assert isinstance(error, TransactionError)
    assert isinstance(error, WarehouseError)


def test_failed_names_what_is_left():
    ended = result(
        "failed",
        error="step_2: no",
        residue=[
            residue(field="n", expected=1, found=2),
            residue(reason="unreachable", detail="gone"),
            residue(reason="kept", step="step_3"),
            residue(reason="constraint", detail="CHECK positive"),
        ],
    )
    with pytest.raises(TransactionFailed) as caught:
        ended.raise_for_status()
    assert str(caught.value) == (
        "transaction abc failed: step_2: no; left over: "
        "step_0 (t): orders {'id': 1} field 'n' - conflict: expected 1, found 2; "
        "step_0 (t): orders {'id': 1} - unreachable (gone); "
        "step_3 (t): orders {'id': 1} - kept; "
        "step_0 (t): orders {'id': 1} - constraint (CHECK positive)"
    )
    assert isinstance(caught.value.__cause__, StepFailed)


def test_it_reads_back_what_it_dumped():
    ended = result(
        "failed",
        step_results={
            "b": StepResult(status="compensated", affected_rows=2),
            "a": StepResult(status="failed", error="no"),
        },
        compensated_steps=["b"],
        residue=[residue(field="n", expected=1, found=2)],
        conflicts=[Conflict(**residue().model_dump())],
    )
    again = TransactionResult.model_validate_json(ended.model_dump_json())
    assert again == ended
    assert list(again.step_results) == ["b", "a"]


def test_rows():
    rows = Rows([{"id": 1}, {"id": 2}], 3)
    assert (rows.all(), rows.affected_rows, len(rows)) == ([{"id": 1}, {"id": 2}], 3, 2)
    assert (rows[0], rows[-1], rows[:1]) == ({"id": 1}, {"id": 2}, [{"id": 1}])
    assert [row["id"] for row in rows] == [1, 2]
    assert repr(rows) == "Rows([{'id': 1}, {'id': 2}])"
    rows.all().clear()
    assert len(rows) == 2
    with pytest.raises(LookupError, match="one record was expected, and there are 2"):
        rows.one()
    with pytest.raises(LookupError, match="there are 0"):
        Rows([], 0).one()
    assert Rows([{"id": 1}], 1).one() == {"id": 1}


def test_an_explanation_as_text():
    told = Explanation(
        pattern="staged",
        reason="because",
        participants=[],
        changes={"step_0": [PlannedChange(action="deleted", entity="orders", key={"id": 1})], "step_1": []},
        error="no",
    )
    assert str(told).splitlines() == [
        "pattern: staged (because)",
        "step_0: deleted orders {'id': 1}",
        "step_1: nothing",
        "error: no",
    ]


def test_errors_say_where():
    error = WarehouseError("no", tag="t", entity="orders", field="total", hint="try yes")
    assert str(error) == "t, orders.total: no - try yes"
    assert str(error.locate(step="s", tag="other")) == "s (t, orders.total): no - try yes"
    assert str(WarehouseError("no", step="s")) == "s: no"
    assert str(WarehouseError("no", field="x")) == "x: no"
