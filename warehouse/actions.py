"""Actions: the functions that a transaction may call, each with the one that takes its effect back (DESIGN 5.4)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio.to_thread

from warehouse.errors import InvalidOperation, did_you_mean
from warehouse.records import Record

Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Action:
    """A function, called with the arguments of its step by name; and `compensate`, called with the same and `output`.

    Either may be a coroutine function; any other runs in a thread. `compensate` gets None as the output where it is
    not known whether the function had an effect, and may be called again: it must be idempotent.
    """

    name: str
    function: Function
    compensate: Function | None

    def check(self, args: Iterable[str]) -> None:
        """Raise InvalidOperation where either function does not take these arguments."""
        names = dict.fromkeys(args)
        if self.compensate is not None and "output" in names:
            raise InvalidOperation("`output` is what the compensation gets", field="args.output")
        _check_bind(f"the action {self.name!r}", self.function, names)
        if self.compensate is not None:
            _check_bind(f"the compensation of {self.name!r}", self.compensate, {**names, "output": None})


@dataclass(frozen=True, slots=True)
class Called:
    """One call of an action, as it is journaled: before it is made (`intended`), and after it.

    `output` are the records that it put out. What is `failed` had no effect, as the function said.
    """

    action: str
    args: Record
    output: tuple[Record, ...] | None = None
    status: Literal["intended", "made", "failed"] = "intended"

    @property
    def counts(self) -> bool:
        """Whether it had, or may have had, an effect."""
        return self.status != "failed"


class Actions:
    """The actions of one Warehouse, by name."""

    def __init__(self) -> None:
        self._actions: dict[str, Action] = {}

    def register(self, name: str, function: Function, compensate: Function | None) -> None:
        """Raises InvalidOperation where another function has the name."""
        if not name or (name in self._actions and self._actions[name].function is not function):
            raise InvalidOperation(f"an action {name!r} is registered already", field="action")
        self._actions[name] = Action(name, function, compensate)

    def get(self, name: str) -> Action:
        """The action of this name; InvalidOperation names the nearest."""
        if name not in self._actions:
            hint = (
                did_you_mean(name, self._actions)
                if self._actions
                else "register it by @warehouse.action(...)"
            )
            raise InvalidOperation(f"no action is registered as {name!r}", field="action", hint=hint)
        return self._actions[name]

    def knows(self, name: str) -> bool:
        return name in self._actions

    def adopt(self, others: Actions) -> None:
        """Know what `others` know, too."""
        self._actions.update(others._actions)


async def invoke(function: Function, arguments: Mapping[str, Any]) -> Any:
    """What `function` returns. One that is no coroutine function runs in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    result = await anyio.to_thread.run_sync(partial(function, **arguments), abandon_on_cancel=True)
    return await result if inspect.isawaitable(result) else result


class Invocation:
    """One call of a function, which may be waited for in vain: a thread goes on, whoever waits for it."""

    def __init__(self, function: Function, arguments: Mapping[str, Any]) -> None:
        self._in_thread = not inspect.iscoroutinefunction(function)
        self._task = asyncio.ensure_future(invoke(function, arguments))
        self._task.add_done_callback(_seen)

    async def result(self) -> Any:
        """What the function returns. A cancellation stops a coroutine, and leaves a thread to itself."""
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if not self._in_thread:
                self._task.cancel()
            raise

    async def late_output(self, seconds: float) -> tuple[bool, Any]:
        """Whether it had an effect, as far as one can tell after waiting so many seconds; and its output, or None.

        An exception says that it had none, as it does in time.
        """
        await asyncio.wait({self._task}, timeout=seconds)
        if not self._task.done() or self._task.cancelled():
            return True, None
        error = self._task.exception()
        if error is not None:
            return isinstance(error, TimeoutError), None
        return True, self._task.result()


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def records_of(output: Any) -> tuple[Record, ...]:
    """What a function returned, as records: a mapping is one, a list of mappings several, anything else a `value`."""
    if output is None:
        return ()
    if isinstance(output, Mapping):
        return (dict(output),)
    if isinstance(output, list | tuple) and output and all(isinstance(item, Mapping) for item in output):
        return tuple(dict(item) for item in output)
    return ({"value": output},)


def _check_bind(what: str, function: Function, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some functions in C have none
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InvalidOperation(f"{what} does not take these arguments: {error}", field="args") from None
