"""Every error that Warehouse raises. All derive from `WarehouseError`; retryable ones from `TransientError`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from warehouse.results import TransactionResult


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or else all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else "known are " + (", ".join(names) or "none")


class WarehouseError(Exception):
    """Base of all errors; names the step, tag, entity and field it is about, where there are any.

    `hint` says what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        tag: str | None = None,
        entity: str | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.tag = tag
        self.entity = entity
        self.field = field
        self.hint = hint

    def locate(
        self,
        *,
        step: str | None = None,
        tag: str | None = None,
        entity: str | None = None,
        field: str | None = None,
    ) -> WarehouseError:
        """Fill in whatever the raiser did not know; what is known already stays."""
        self.step = self.step or step
        self.tag = self.tag or tag
        self.entity = self.entity or entity
        self.field = self.field or field
        return self

    @property
    def place(self) -> str:
        """Where it happened, as `step_0 (orders-postgres, orders.total)`; empty if nothing is known."""
        target = ".".join(part for part in (self.entity, self.field) if part)
        inside = ", ".join(part for part in (self.tag, target) if part)
        if self.step:
            return f"{self.step} ({inside})" if inside else self.step
        return inside

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text} - {self.hint}" if self.hint else text


class TransientError(WarehouseError):
    """What may succeed when tried again."""


# Mistakes of the caller: raised before any store is touched.


class ConfigError(WarehouseError):
    """The configuration is wrong or names something that is not there."""


class InvalidOperation(WarehouseError):
    """An operation or an option is malformed, or asks a store for what it cannot do."""


class UnknownTag(InvalidOperation):
    """No participant has this tag."""


class UnknownEntity(InvalidOperation):
    """The store has no such table, collection, label or relationship type."""


class UnknownField(InvalidOperation):
    """The entity has no such field."""


class NotPermitted(InvalidOperation):
    """The configuration forbids it (`read_only`)."""


# What a store says while a step runs. Adapters raise these, with the driver's exception as `__cause__`.


class StoreError(WarehouseError):
    """A store refused or failed; `__cause__` is the driver's exception.

    `outcome_unknown` is true where the write that failed may have taken effect all the same.
    """

    outcome_unknown: ClassVar[bool] = False


class ConstraintViolated(StoreError):
    """A unique, foreign key, check or not-null constraint (or a schema rule) refused the write."""

    def __init__(self, message: str, *, constraint: str | None = None, **where: str | None) -> None:
        super().__init__(message, **where)
        self.constraint = constraint


class StoreUnavailable(StoreError, TransientError):
    """The store cannot be reached, or dropped the connection before the write could have taken effect."""


class StoreContention(StoreError, TransientError):
    """A deadlock, a lock wait that ran out, or a write conflict: the unit must be rolled back and run again."""


class StoreOutcomeUnknown(StoreError, TransientError):
    """The reply to a write or a commit never came: it may or may not have taken effect."""

    outcome_unknown: ClassVar[bool] = True


# Ends of a transaction.


class StepFailed(WarehouseError):
    """A step failed. `__cause__` is the driver's exception where a store said no, `reason` our error for it."""

    reason: WarehouseError | None = None


class TransactionError(WarehouseError):
    """A transaction did not complete; `result` says all about it."""

    def __init__(self, message: str, *, result: TransactionResult) -> None:
        super().__init__(message)
        self.result = result


class TransactionCompensated(TransactionError):
    """A step failed, and nothing of the transaction remains anywhere."""


class TransactionFailed(TransactionError):
    """A step failed, and `result.residue` lists what could not be undone."""


class TransactionConflict(TransientError):
    """Another transaction has the record; run the `begin()` block again."""


class ReadConflict(TransientError):
    """A consistent read was not possible within its time-out."""


class JournalUnavailable(WarehouseError):
    """The journal cannot be written; nothing was changed in any store, and nothing will be."""


class OutcomeUnknown(WarehouseError):
    """How the transaction ended cannot be told yet."""

    def __init__(self, message: str, *, transaction_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.transaction_id = transaction_id


class UnknownTransaction(WarehouseError):
    """No transaction of this id or name is known."""


class AlreadyFinished(WarehouseError):
    """The transaction ended before this call."""


class TransactionExpired(WarehouseError):
    """The transaction outlived its time-out and was rolled back."""


class IdempotencyConflict(WarehouseError):
    """The idempotency key was used before with other operations."""
