"""Jobs in a transaction of the program's own: rows that are committed or rolled back with it.

    with psycopg.connect(…) as connection:
        connection.execute("INSERT INTO orders …")
        insert_jobs(connection, [Outgoing("mail", id, envelope)])

Nothing here commits, rolls back or wakes a worker; a sleeping worker finds the jobs when it looks again. The connection
leads to the database of the backend, which has its tables there already.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskcore.backend import Outgoing, Published
from taskcore.backends.sql.messages import answers_of
from taskcore.backends.sql.sqlite import ledger
from taskcore.errors import InvalidSetting

if TYPE_CHECKING:
    import psycopg

__all__ = ["insert_jobs", "insert_jobs_async"]


def insert_jobs(
    connection: sqlite3.Connection | psycopg.Connection[Any], batch: Sequence[Outgoing]
) -> Sequence[Published]:
    """Store jobs in the transaction of this connection; one answer for each, which holds if it is committed.

    :raises InvalidSetting: there is no transaction, or this database is not the backend's (TC104).
    """
    if isinstance(connection, sqlite3.Connection):
        return _insert_sqlite(connection, batch)
    psycopg = sys.modules.get("psycopg")  # a program with one of its connections has imported it
    if psycopg is None or not isinstance(connection, psycopg.Connection):
        raise _unknown(connection)
    _check_transaction(connection)
    layout, columns = _statements(batch)
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        try:
            stored = {job for (job,) in cursor.execute(layout.INSERT, columns).fetchall()}
        except psycopg.errors.UndefinedTable as error:
            raise _elsewhere(str(error)) from error
        stored.difference_update(job for (job,) in cursor.execute(layout.UNDO, columns).fetchall())
    return answers_of(batch, stored)


async def insert_jobs_async(connection: psycopg.AsyncConnection[Any], batch: Sequence[Outgoing]) -> Sequence[Published]:
    """Do the same as :func:`insert_jobs`, for psycopg's asynchronous connections."""
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(connection, psycopg.AsyncConnection):
        raise _unknown(connection)
    _check_transaction(connection)
    layout, columns = _statements(batch)
    async with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        try:
            await cursor.execute(layout.INSERT, columns)
        except psycopg.errors.UndefinedTable as error:
            raise _elsewhere(str(error)) from error
        stored = {job for (job,) in await cursor.fetchall()}
        await cursor.execute(layout.UNDO, columns)
        stored.difference_update(job for (job,) in await cursor.fetchall())
    return answers_of(batch, stored)


def _insert_sqlite(connection: sqlite3.Connection, batch: Sequence[Outgoing]) -> Sequence[Published]:
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        if not connection.in_transaction:
            if connection.isolation_level is None or getattr(connection, "autocommit", None) is True:
                raise _no_transaction()
            cursor.execute("BEGIN IMMEDIATE")
        return ledger.publish(cursor, time.time(), batch)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise _elsewhere(str(error)) from error
        raise
    finally:
        cursor.close()


def _statements(batch: Sequence[Outgoing]) -> tuple[Any, dict[str, Any]]:
    from taskcore.backends.sql.postgres import layout  # noqa: PLC0415 - SQLite needs no psycopg
    from taskcore.backends.sql.postgres.publish import columns_of  # noqa: PLC0415 - as above

    return layout, columns_of(batch)


def _check_transaction(connection: psycopg.BaseConnection[Any]) -> None:
    """Refuse autocommit: the jobs would be committed without the program's own work."""
    if connection.autocommit and not connection.info.transaction_status:  # idle is zero
        raise _no_transaction()


def _elsewhere(why: str) -> InvalidSetting:
    return InvalidSetting(
        "no job was stored: this connection does not lead to the database of the queue",
        facts=[why],
        fix="connect to the same database (and schema) as the app's URL",
    )


def _no_transaction() -> InvalidSetting:
    return InvalidSetting(
        "no job was stored: this connection commits every statement by itself",
        fix="begin a transaction first: BEGIN with sqlite3, connection.transaction() with psycopg",
    )


def _unknown(connection: object) -> InvalidSetting:
    return InvalidSetting(
        f"jobs cannot be stored through {type(connection).__qualname__}",
        facts=["sqlite3.Connection, psycopg.Connection and psycopg.AsyncConnection can be used"],
        fix="hand over the driver's own connection (SQLAlchemy: session.connection().connection.driver_connection)",
    )
