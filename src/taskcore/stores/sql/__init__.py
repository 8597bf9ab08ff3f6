"""Records in a SQL database: one SQLite file, or PostgreSQL.

sqlite/        SqliteStore        postgres/      PostgresStore        each: store.py layout.py diagnose.py
complete.py    complete_in: the outcome of a key in a transaction of the program's own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskcore.stores.sql.complete import complete_in, complete_in_async
from taskcore.stores.sql.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from taskcore.stores.sql.postgres.store import PostgresStore

__all__ = ["PostgresStore", "SqliteStore", "complete_in", "complete_in_async"]


def __getattr__(name: str) -> Any:
    """Import PostgresStore when it is used: it needs psycopg, and SQLite does not."""
    if name == "PostgresStore":
        from taskcore.stores.sql.postgres.store import PostgresStore  # noqa: PLC0415 - see above

        return PostgresStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
