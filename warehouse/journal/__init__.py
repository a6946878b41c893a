"""The durable record of transactions, changes and locks."""

from __future__ import annotations

from warehouse.config import JournalSettings
from warehouse.errors import ConfigError
from warehouse.journal.base import Entry, EntryStep, Journal, Lock
from warehouse.journal.memory import MemoryJournal
from warehouse.journal.seal import Seal

__all__ = ["Entry", "EntryStep", "Journal", "Lock", "open_journal"]

_SQL = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")


def open_journal(settings: JournalSettings) -> Journal:
    """The journal (not opened yet) that the configured URL names; ConfigError where none can be had."""
    url = settings.url.get_secret_value()
    scheme, is_url, _ = url.partition("://")
    scheme = scheme.partition("+")[0]
    if is_url and scheme == "memory":
        return MemoryJournal()
    seal = Seal(None if settings.key is None else settings.key.get_secret_value())
    if is_url and scheme in _SQL:
        from warehouse.journal.sql import SqlJournal

        return SqlJournal(url, seal)
    if is_url and scheme in {"redis", "rediss"}:
        from warehouse.journal.redis import RedisJournal

        return RedisJournal(url, seal)
    raise ConfigError(
        f"journal.url has the scheme {scheme!r}" if is_url else "journal.url is no URL",
        hint="use sqlite:///file, postgresql://..., mysql://..., redis://... or memory://",
    )
