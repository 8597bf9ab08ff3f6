"""Records in a SQL database: one SQLite file, or PostgreSQL.

sqlite.py            SqliteStore            postgres.py            PostgresStore
sqlite_lane.py       its threads            postgres_statements.py its SQL
sqlite_records.py    its SQL                postgres_news.py       LISTEN, and what is read after it
completing.py        complete_in: the outcome of a key in a transaction of the program's own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskcore.stores.sql.completing import complete_in, complete_in_async
from taskcore.stores.sql.sqlite import SqliteStore

if TYPE_CHECKING:
    from taskcore.stores.sql.postgres import PostgresStore

__all__ = ["PostgresStore", "SqliteStore", "complete_in", "complete_in_async"]


def __getattr__(name: str) -> Any:
    """SQLite needs nothing installed, so psycopg is imported by those who want PostgreSQL."""
    if name == "PostgresStore":
        from taskcore.stores.sql.postgres import PostgresStore  # noqa: PLC0415 - see above

        return PostgresStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
