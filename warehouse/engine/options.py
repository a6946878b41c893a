"""The options of one transaction, with the configured defaults filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal, TypeAlias, TypedDict

from warehouse.config import TransactionSettings
from warehouse.errors import InvalidOperation, did_you_mean
from warehouse.results import Pattern

Concurrency: TypeAlias = Literal["parallel", "sequential"]
Consistency: TypeAlias = Literal["immediate", "strong", "eventual"]


class CommonOptions(TypedDict, total=False):
    """What both `transaction` and `begin` take. Durations are seconds; None means the configured default.

    * `timeout` bounds the time until the decision; what reaches it before is undone.
    * `step_timeout` bounds one step, `lock_timeout` all waiting for records that others have.
    * `pattern`: `auto` chooses (DESIGN 5.5); `staged` and `saga` may be asked for.
    * `consistency`, `availability`: wishes that `auto` respects.
    * `name`: for people; it is in the result and the journal.
    * `idempotency_key`: stands for this call. The same call again, within `idempotency_ttl` seconds, returns the
      result of the one that completed; while that runs, it waits for it. With other operations it raises
      IdempotencyConflict. What was compensated or failed may be tried again under its key.
    """

    timeout: float | None
    step_timeout: float | None
    lock_timeout: float | None
    pattern: Literal["auto", "staged", "saga", "two_phase_commit"]
    consistency: Consistency | None
    availability: Literal["high"] | None
    compensate_on_timeout: bool | None
    idempotency_key: str | None
    idempotency_ttl: float | None


class TransactionOptions(CommonOptions, total=False):
    """The options of `transaction`.

    * `retry_on_failure`: stage again after transient errors, at most `max_retries` times. (Contention is
      always tried again, until `lock_timeout`.)
    * `compensate_on_timeout=False`: a saga that times out keeps what was committed, as residue `kept`.
    * `rollback`: what a saga undoes where a step fails: `all`, only the steps that are `critical`, or `none`. What
      stays is residue `kept`.
    * `concurrency`: whether stores run their steps side by side.
    """

    name: str | None
    retry_on_failure: bool | None
    max_retries: int | None
    rollback: Literal["all", "critical_only", "none"]
    concurrency: Concurrency


class BeginOptions(CommonOptions, total=False):
    """The options of `begin`. With `raise_on_failure=False`, how it ended is only in `tx.result`.

    `hold`: leaving the block only stages; `commit(name)` or `rollback(name)` ends it later, from any process. What
    is not ended within `expires_in` seconds is rolled back.
    """

    hold: bool
    expires_in: float | None
    raise_on_failure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one transaction is run, everything filled in."""

    timeout: float
    step_timeout: float | None
    lock_timeout: float
    grace: float
    retry_on_failure: bool
    max_retries: int
    compensate_on_timeout: bool
    max_records: int
    max_image_bytes: int
    pattern: Pattern | Literal["auto"] = "auto"
    consistency: Consistency | None = None
    availability: Literal["high"] | None = None
    name: str | None = None
    concurrency: Concurrency = "parallel"
    raise_on_failure: bool = True
    rollback: Literal["all", "critical_only", "none"] = "all"
    hold: bool = False
    expires_in: float = 600
    idempotency_key: str | None = None
    idempotency_ttl: float = 86_400


_CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "pattern": ("auto", "staged", "saga", "two_phase_commit"),
    "consistency": (None, "immediate", "strong", "eventual"),
    "availability": (None, "high"),
    "concurrency": ("parallel", "sequential"),
    "rollback": ("all", "critical_only", "none"),
}
_LONGEST_KEY: Final = 255
_FLAGS: Final = {"retry_on_failure", "compensate_on_timeout", "raise_on_failure", "hold"}
_SECONDS: Final = {"timeout", "step_timeout", "lock_timeout", "idempotency_ttl", "expires_in"}
_NAME: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,120}")


def make_options(
    defaults: TransactionSettings, given: Mapping[str, Any], allowed: type[TransactionOptions | BeginOptions]
) -> Options:
    """The options from what the caller gave. InvalidOperation names what is unknown, bad or not there yet."""
    if not given:
        return _default(defaults)
    known = allowed.__annotations__ | CommonOptions.__annotations__
    for name, value in given.items():
        if name not in known:
            raise InvalidOperation(f"unknown option {name!r}", field=name, hint=did_you_mean(name, known))
        check_option(name, value)
    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(_default(defaults), **chosen)


@cache
def _default(defaults: TransactionSettings) -> Options:
    return Options(**defaults.model_dump())


def check_name(name: Any) -> None:
    """Raise InvalidOperation if `name` is none that a transaction can be held under."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidOperation(
            f"a held transaction needs a name, of letters, digits and _ . : @ - (at most 120), not {name!r}",
            field="name",
        )


def check_option(name: str, value: Any) -> None:
    """Raise InvalidOperation if `value` is none that the option `name` takes."""
    if value is None:
        return
    if name in _CHOICES and value not in _CHOICES[name]:
        texts = [str(choice) for choice in _CHOICES[name] if choice is not None]
        raise InvalidOperation(f"{name} is {value!r}", field=name, hint=did_you_mean(str(value), texts))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _SECONDS and not (number and value > 0):
        raise InvalidOperation(f"{name} is a positive number of seconds, not {value!r}", field=name)
    if name in _FLAGS and not isinstance(value, bool):
        raise InvalidOperation(f"{name} is true or false, not {value!r}", field=name)
    if name == "name" and (not isinstance(value, str) or not value.isprintable()):
        raise InvalidOperation(f"name is printable text, not {value!r}", field=name)
    if name == "idempotency_key" and not (isinstance(value, str) and 0 < len(value) <= _LONGEST_KEY):
        raise InvalidOperation(
            f"idempotency_key is text of at most {_LONGEST_KEY} characters, not {value!r}", field=name
        )
    if name == "max_retries" and not (isinstance(value, int) and number and value >= 0):
        raise InvalidOperation(f"max_retries is a count from 0, not {value!r}", field=name)
