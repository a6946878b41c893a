"""Taking back what an action did (DESIGN 5.4)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import anyio

from warehouse.actions import Action, Called, Invocation, invoke
from warehouse.engine.retry import back_off
from warehouse.records import Record
from warehouse.results import Reason, Residue


@dataclass(frozen=True, slots=True)
class CallMade:
    """The call that a step made, or may have made, and the action that takes it back.

    `invocation`: the call itself, where it was made here; it may still run.
    """

    step: str
    action: Action
    called: Called
    invocation: Invocation | None = None


async def take_back(made: CallMade, grace: float, keep: Callable[[], Awaitable[None]]) -> list[Residue]:
    """Call the compensation of an action, again and again for `grace` seconds; what is left where it fails.

    `keep` raises Superseded where the transaction is not ours any more.
    """
    give_up = time.monotonic() + grace
    output = None if made.called.output is None else _as_returned(made.called.output)
    if made.called.status == "intended" and made.invocation is not None:
        # What is taken back before it has happened would happen all the same.
        happened, output = await made.invocation.late_output(grace)
        if not happened:
            return []
    if made.action.compensate is None:
        return [call_left(made, "call", "the action has no compensation")]
    for attempt in count(1):
        await keep()
        try:
            with anyio.fail_after(grace):
                await invoke(made.action.compensate, {**made.called.args, "output": output})
        except Exception as error:  # noqa: BLE001 - whatever it is, the other steps are to be undone
            if time.monotonic() >= give_up:
                return [call_left(made, "call", f"its compensation failed: {type(error).__name__}: {error}")]
        else:
            return []
        await anyio.sleep(back_off(attempt))
    return []


def _as_returned(output: tuple[Record, ...]) -> Any:
    """The output as the function returned it: see `records_of`."""
    if not output:
        return None
    if len(output) > 1:
        return list(output)
    return output[0]["value"] if output[0].keys() == {"value"} else output[0]


def call_left(made: CallMade, reason: Reason, detail: str) -> Residue:
    """What is left over of a call."""
    return Residue(
        step=made.step,
        tag="",
        entity=made.action.name,
        key=made.called.args,
        expected=list(made.called.output or ()),
        reason=reason,
        detail=detail,
    )
