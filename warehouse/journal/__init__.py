"""The durable record of transactions, changes and locks."""

from __future__ import annotations

from warehouse.config import JournalSettings
from warehouse.errors import ConfigError
from warehouse.journal.base import Entry, EntryStep, Journal, Lock
from warehouse.journal.memory import MemoryJournal

__all__ = ["Entry", "EntryStep", "Journal", "Lock", "open_journal"]

_SQL = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")


def open_journal(settings: JournalSettings) -> Journal:
    """The journal (not opened yet) that the configured URL names; ConfigError where none can be had."""
    scheme = settings.url.get_secret_value().partition("://")[0].partition("+")[0]
    if scheme == "memory":
        return MemoryJournal()
    if scheme in _SQL:
        from warehouse.journal.sql import SqlJournal

        return SqlJournal(settings.url.get_secret_value())
    raise ConfigError(
        f"journal.url has the scheme {scheme!r}",
        hint="use sqlite:///file, postgresql+psycopg://..., or memory:// (redis:// is not supported yet)",
    )
