"""What a transaction returns."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Annotated, Any, Literal, Self, TypeAlias, overload

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PrivateAttr

from warehouse.errors import StepFailed, TransactionCompensated, TransactionFailed

Status: TypeAlias = Literal["completed", "compensated", "failed"]
StepStatus: TypeAlias = Literal["completed", "compensated", "failed", "skipped"]
State: TypeAlias = Literal[
    "running", "held", "committing", "compensating", "completed", "compensated", "failed"
]
Pattern: TypeAlias = Literal["staged", "saga", "two_phase_commit"]
Reason: TypeAlias = Literal["conflict", "constraint", "kept", "call", "unreachable"]


def plain(value: Any) -> Any:
    """`value` as JSON can carry it: bytes as base64, times as ISO text, any other foreign type as its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)  # noqa: PLR0124
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)


Value: TypeAlias = Annotated[Any, PlainSerializer(plain, when_used="json")]


class _Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)


class Discrepancy(_Model):
    """A change, or one field of it, that is not as the transaction left it.

    `key` identifies the record; `field` is None where the whole record is meant. `expected` is what the
    transaction left there and `found` what is there (None: nothing). `detail` is what the store said.
    """

    step: str
    tag: str
    entity: str
    key: Annotated[dict[str, Any], PlainSerializer(plain, when_used="json")]
    field: str | None = None
    expected: Value = None
    found: Value = None
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        what = f"{self.entity} {self.key}" + (f" field {self.field!r}" if self.field else "")
        values = f": expected {self.expected!r}, found {self.found!r}" if self.reason == "conflict" else ""
        return f"{self.step} ({self.tag}): {what} - {self.reason}{values}" + (
            f" ({self.detail})" if self.detail else ""
        )


class Residue(Discrepancy):
    """A change that could be neither kept nor undone."""


class Conflict(Discrepancy):
    """A field that somebody else wrote since, met by `undo`."""


class StepResult(_Model):
    """One step of a transaction.

    `data` are the after images of its records (of a delete, the before images), with one entry of `actions`
    each; `affected_rows` counts the records it matched, changed or not. `duration` is in seconds.
    """

    status: StepStatus
    data: Annotated[list[dict[str, Any]], PlainSerializer(plain, when_used="json")] = Field(
        default_factory=list
    )
    actions: list[str] = Field(default_factory=list)
    affected_rows: int = 0
    error: str | None = None
    attempts: int = 0
    duration: float = 0.0


class TransactionResult(_Model):
    """How a transaction ended; `step_results` by step name, in the order they were listed."""

    transaction_id: str
    name: str | None = None
    status: Status
    pattern: Pattern
    execution_time: float
    step_results: dict[str, StepResult] = Field(default_factory=dict)
    compensated_steps: list[str] = Field(default_factory=list)
    error: str | None = None
    residue: list[Residue] = Field(default_factory=list)
    conflicts: list[Conflict] = Field(default_factory=list)
    _cause: BaseException | None = PrivateAttr(None)

    @property
    def ok(self) -> bool:
        """Whether every step took effect."""
        return self.status == "completed"

    @property
    def cause(self) -> BaseException | None:
        """The StepFailed that ended the transaction, with the driver's exception as its `__cause__`."""
        return self._cause

    def caused_by(self, failure: StepFailed | None) -> Self:
        """The same result, telling that `failure` ended it."""
        self._cause = failure
        return self

    def raise_for_status(self) -> Self:
        """Return the result if completed; else raise TransactionCompensated or TransactionFailed.

        The error carries the result, and is chained from a StepFailed whose cause is the driver's exception.
        """
        if self.ok:
            return self
        kind = TransactionCompensated if self.status == "compensated" else TransactionFailed
        text = f"transaction {self.name or self.transaction_id} {self.status}: {self.error}"
        if self.residue:
            text += "; left over: " + "; ".join(str(item) for item in self.residue)
        raise kind(text, result=self) from (self._cause or StepFailed(self.error or self.status))


class Rows(Sequence[dict[str, Any]]):
    """The records that a step of a `begin()` block returned."""

    def __init__(self, data: list[dict[str, Any]], affected_rows: int) -> None:
        self._data = data
        self.affected_rows = affected_rows

    def all(self) -> list[dict[str, Any]]:
        """Every record."""
        return list(self._data)

    def one(self) -> dict[str, Any]:
        """The only record; LookupError where there is none, or more than one."""
        if len(self._data) != 1:
            raise LookupError(f"one record was expected, and there are {len(self._data)}")
        return self._data[0]

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._data[index]

    def __repr__(self) -> str:
        return f"Rows({self._data!r})"


class PlannedChange(_Model):
    """A change that a transaction would make; `before` and `after` are None where no record is."""

    action: Literal["inserted", "updated", "deleted"]
    entity: str
    key: Annotated[dict[str, Any], PlainSerializer(plain, when_used="json")]
    before: Value = None
    after: Value = None


class ParticipantInfo(_Model):
    """A participant and what its store can do."""

    tag: str
    type: str
    store: str
    version: str
    identity: str
    holds: bool
    prepares: bool
    guards: str
    role: str


class Explanation(_Model):
    """What `explain` found: the pattern and why, who takes part and how, and the changes by step.

    `error` says why the transaction would not complete as things are now.
    """

    pattern: Pattern
    reason: str
    participants: list[ParticipantInfo]
    changes: dict[str, list[PlannedChange]]
    error: str | None = None

    def __str__(self) -> str:
        lines = [f"pattern: {self.pattern} ({self.reason})"]
        lines += [f"{item.tag}: {item.store} {item.version}, {item.role}" for item in self.participants]
        for step, changes in self.changes.items():
            lines += [f"{step}: {item.action} {item.entity} {item.key}" for item in changes] or [
                f"{step}: nothing"
            ]
        return "\n".join([*lines, f"error: {self.error}"] if self.error else lines)


class Recovered(_Model):
    """A transaction whose owner was gone, and how it was ended. `status` is None where it could not be: `error`."""

    transaction_id: str
    name: str | None = None
    status: Status | None
    residue: list[Residue] = Field(default_factory=list)
    error: str | None = None


class ChangeInfo(_Model):
    """What a step did to one record: its images before and after (None: no record)."""

    entity: str
    key: Annotated[dict[str, Any], PlainSerializer(plain, when_used="json")]
    action: Literal["inserted", "updated", "deleted"]
    before: Annotated[dict[str, Any] | None, PlainSerializer(plain, when_used="json")] = None
    after: Annotated[dict[str, Any] | None, PlainSerializer(plain, when_used="json")] = None


class StepInfo(_Model):
    """A step of a transaction in the journal, and what it changed; or the `action` that it called, and its output."""

    name: str
    tag: str
    changes: list[ChangeInfo] = Field(default_factory=list)
    action: str | None = None
    output: Annotated[list[dict[str, Any]] | None, PlainSerializer(plain, when_used="json")] = None


class TransactionInfo(_Model):
    """A transaction in the journal. `started` and `finished` are in UTC; lists leave out the `steps`.

    `resolved` tells how somebody settled it after it had failed.
    """

    transaction_id: str
    name: str | None = None
    status: State
    pattern: Pattern
    started: datetime
    finished: datetime | None = None
    steps: list[StepInfo] = Field(default_factory=list)
    residue: list[Residue] = Field(default_factory=list)
    resolved: str | None = None


class HistoryItem(ChangeInfo):
    """One change of a record: in which step of which transaction, when (UTC), and how that ended."""

    transaction_id: str
    name: str | None = None
    status: State
    step: str
    tag: str
    at: datetime
