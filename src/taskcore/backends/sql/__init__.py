"""Queues in a SQL database: one SQLite file, or PostgreSQL.

sqlite/        SqliteBackend        postgres/      PostgresBackend
messages.py    what both share
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskcore.backends.sql.sqlite.backend import SqliteBackend

if TYPE_CHECKING:
    from taskcore.backends.sql.postgres.backend import PostgresBackend

__all__ = ["PostgresBackend", "SqliteBackend"]


def __getattr__(name: str) -> Any:
    """Import PostgresBackend when it is used: it needs psycopg, and SQLite does not."""
    if name == "PostgresBackend":
        from taskcore.backends.sql.postgres.backend import PostgresBackend  # noqa: PLC0415 - see above

        return PostgresBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
