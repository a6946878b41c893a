"""The participants: adapters by tag, made from the configuration, connected on first use, shared by identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import anyio

from warehouse.adapter import Adapter
from warehouse.config import AdapterSettings, validate
from warehouse.errors import ConfigError, UnknownTag, did_you_mean

GROUP = "warehouse.adapters"


@dataclass(slots=True)
class Participant:
    """One configured store, known by its tag. `identity`, the store that it reaches, is known once connected."""

    tag: str
    adapter: Adapter
    settings: AdapterSettings
    connected: bool = False
    identity: str = ""
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Registry:
    """All participants of one Warehouse."""

    def __init__(self, adapters: Mapping[str, Mapping[str, Any]], journal: str | None = None) -> None:
        """Make (not connect) every adapter. Raises ConfigError naming the tag and the key.

        `journal`: the identity of the store that is the journal, and so can be no participant.
        """
        self._journal = journal
        self._participants = {tag: _make(tag, raw) for tag, raw in adapters.items()}

    @property
    def tags(self) -> list[str]:
        return list(self._participants)

    def get(self, tag: str) -> Participant:
        """The participant of `tag`, connected or not; UnknownTag names the nearest."""
        if tag not in self._participants:
            hint = did_you_mean(tag, self._participants)
            raise UnknownTag(f"no adapter is configured under the tag {tag!r}", tag=tag, hint=hint)
        return self._participants[tag]

    async def connected(self, tag: str) -> Participant:
        """The participant of `tag`, connected now if it was not. Raises what `Adapter.connect` raises."""
        participant = self.get(tag)
        if not participant.connected:
            async with participant.lock:
                if not participant.connected:
                    await participant.adapter.connect()
                    participant.identity = participant.adapter.capabilities.identity
                    await self._check_apart(participant)
                    participant.connected = True
        return participant

    async def _check_apart(self, participant: Participant) -> None:
        if participant.identity == self._journal:
            await participant.adapter.close()
            raise ConfigError(
                "the journal is in the same file: a transaction would wait for its own lock",
                tag=participant.tag,
                hint="give journal.url a file of its own",
            )

    async def close(self) -> None:
        """Close every adapter that was connected; each may be connected again."""
        for participant in self._participants.values():
            if participant.connected:
                participant.connected = False
                await participant.adapter.close()


@cache
def _available() -> dict[str, EntryPoint]:
    """The installed adapters by name; to look for them takes milliseconds."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _make(tag: str, raw: Mapping[str, Any]) -> Participant:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"adapters.{tag} must be a table of settings", tag=tag)
    available = _available()
    kind = raw.get("adapter")
    if not isinstance(kind, str) or kind not in available:
        problem = f"is {kind!r}" if "adapter" in raw else "is missing"
        hint = did_you_mean(str(kind), available)
        raise ConfigError(f"adapters.{tag}.adapter {problem}", tag=tag, hint=hint)
    adapter_class = _load(tag, available[kind])
    settings = validate(adapter_class.Settings, raw, ("adapters", tag))
    try:
        return Participant(tag=tag, adapter=adapter_class(settings), settings=settings)
    except ConfigError as error:
        error.locate(tag=tag)
        raise


def _load(tag: str, point: EntryPoint) -> type[Adapter]:
    try:
        loaded: type[Adapter] = point.load()
    except ImportError as error:
        raise ConfigError(
            f"the adapter {point.name!r} needs a driver that is not installed: {error}",
            tag=tag,
            hint=f"pip install 'warehouse[{point.name}]'",
        ) from error
    return loaded
