"""PostgreSQL, MariaDB (or MySQL) and SQLite."""

from warehouse_adapters.sql.adapter import SqlAdapter

__all__ = ["SqlAdapter"]
