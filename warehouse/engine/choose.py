"""Choosing the pattern (DESIGN 5.5): the first rule that applies."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from warehouse.engine.options import Options
from warehouse.engine.plan import AnyStep, CallStep
from warehouse.errors import InvalidOperation
from warehouse.registry import Participant
from warehouse.results import Pattern


def choose(
    options: Options, participants: Collection[Participant], *, calls: bool = False
) -> tuple[Pattern, str]:
    """The pattern for these participants (and `calls`), and why.

    InvalidOperation where what was asked for cannot be.
    """
    if options.pattern == "two_phase_commit":
        _check_prepares(participants, "pattern")
    if options.pattern != "auto":
        return options.pattern, "the caller asked for it"
    if calls:
        return "staged", "a call: the full protocol"
    if is_alone(participants):
        return "staged", "one participant with transactions: its own transaction is enough"
    if options.consistency == "immediate":
        _check_prepares(participants, "consistency")
        return "two_phase_commit", "consistency='immediate'"
    if options.consistency == "strong" and participants and not _that_cannot_prepare(participants):
        return "two_phase_commit", "consistency='strong', and every store can prepare"
    if options.availability == "high":
        return "saga", "availability='high'"
    if options.consistency == "eventual":
        return "saga", "consistency='eventual'"
    return "staged", "the default for several stores"


def is_alone(participants: Collection[Participant]) -> bool:
    """Whether there is one store only, and it has transactions: its own commit is all that is needed."""
    first = next(iter(participants), None)
    if first is None or not first.adapter.capabilities.holds:
        return False
    return all(item.identity == first.identity for item in participants)


def acts_alone(steps: Iterable[AnyStep]) -> bool:
    """Whether these steps need no protocol: see `is_alone`."""
    participants = []
    for step in steps:
        if isinstance(step, CallStep):
            return False
        participants.append(step.participant)
    return is_alone(participants)


def _that_cannot_prepare(participants: Collection[Participant]) -> dict[str, str]:
    """The tags, each with its store, that cannot take part in two-phase commit."""
    return {
        item.tag: item.adapter.capabilities.store
        for item in participants
        if not item.adapter.capabilities.prepares
    }


def _check_prepares(participants: Collection[Participant], field: str) -> None:
    unable = _that_cannot_prepare(participants)
    if unable:
        raise InvalidOperation(
            "these cannot take part in two-phase commit: "
            + ", ".join(f"{tag} ({store})" for tag, store in unable.items()),
            field=field,
            hint="use 'staged'; PostgreSQL prepares where max_prepared_transactions is not 0",
        )


def check_step(step: AnyStep, pattern: Pattern, *, alone: bool) -> None:
    """Refuse a step that cannot be run, or not be undone, in this pattern.

    `alone`: its store has transactions and is the only participant, so nothing will ever have to be undone.
    """
    if isinstance(step, CallStep):
        return
    capabilities = step.participant.adapter.capabilities
    problem: tuple[str, str, str] | None = None
    if not step.info.key and not (alone and pattern == "staged"):
        problem = (
            "key",
            "nothing identifies its records, so a change of them could not be undone",
            f"give [adapters.{step.tag}.entities.{step.info.entity.name}] a key, or the store a unique constraint",
        )
    elif pattern == "two_phase_commit" and not capabilities.prepares:
        problem = ("pattern", f"{capabilities.store} cannot take part in two-phase commit", "use 'staged'")
    elif step.operation.allow_fail and pattern != "saga":
        if capabilities.holds and not capabilities.savepoints:
            problem = (
                "allow_fail",
                f"{capabilities.store} cannot go on after a failed step",
                "use pattern='saga'",
            )
        elif step.operation.expect is not None:
            problem = ("allow_fail", "it cannot be combined with expect here", "use pattern='saga'")
    if problem is not None:
        field, message, hint = problem
        error = InvalidOperation(message, field=field, hint=hint)
        step.locate(error)
        raise error
