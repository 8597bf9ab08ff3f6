"""complete_in: the outcome of a job's key, committed in the program's own transaction.

    with sqlite3.connect("shop.db") as connection:                  the file of the app's store
        connection.execute("INSERT INTO payments …")
        complete_in(connection, current().completion(receipt))

    async with await psycopg.AsyncConnection.connect(…) as connection:
        await connection.execute("INSERT INTO payments …")
        await complete_in_async(connection, current().completion(receipt))

Effect and outcome are in one commit, so a redelivery finds both or neither. The record is locked first, then checked:
it has to belong to this start of the job. Nothing here commits or rolls back; the program does.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from taskcore.errors import InvalidSetting, LeaseLost
from taskcore.records.keys import Completion
from taskcore.stores.sql.sqlite.layout import FIND, NEXT, PUT, TAKE

if TYPE_CHECKING:
    import psycopg

__all__ = ["complete_in", "complete_in_async"]

#: Unlike FIND it locks the row until the program's transaction ends. An ended record counts as none.
LOCK: Final = """SELECT value FROM taskcore_records
    WHERE key = %s AND (ends IS NULL OR ends > clock_timestamp()) FOR UPDATE"""
COMPLETE: Final = """WITH changed AS (
    UPDATE taskcore_records SET value = %s, version = nextval('taskcore_versions'),
        ends = clock_timestamp() + make_interval(secs => %s)
    WHERE key = %s RETURNING key
) SELECT pg_notify('taskcore_records', %s) FROM changed"""


def complete_in(connection: sqlite3.Connection | psycopg.Connection[Any], completion: Completion) -> None:
    """Write the outcome of the job's key in the transaction of this connection.

    :param connection: to the database of the app's store; in a transaction, or one that begins them by itself.
    :param completion: the value of ``current().completion(result)``.
    :raises LeaseLost: the key has another owner by now; let the error pass, so the transaction is rolled back (TC204).
    :raises InvalidSetting: this database does not have the key's record, or there is no transaction (TC104).
    """
    if isinstance(connection, sqlite3.Connection):
        _complete_sqlite(connection, completion)
        return
    psycopg = sys.modules.get("psycopg")  # a program with one of its connections has imported it
    if psycopg is None or not isinstance(connection, psycopg.Connection):
        raise _unknown(connection)
    _check_transaction(connection)
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        try:
            found = cursor.execute(LOCK, (_name(completion),)).fetchone()
        except psycopg.errors.UndefinedTable as error:
            raise _elsewhere("it has no table taskcore_records") from error
        _check(found, completion)
        cursor.execute(COMPLETE, _values(completion))


async def complete_in_async(connection: psycopg.AsyncConnection[Any], completion: Completion) -> None:
    """Do the same as :func:`complete_in`, for psycopg's asynchronous connections."""
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(connection, psycopg.AsyncConnection):
        raise _unknown(connection)
    _check_transaction(connection)
    async with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        try:
            found = await (await cursor.execute(LOCK, (_name(completion),))).fetchone()
        except psycopg.errors.UndefinedTable as error:
            raise _elsewhere("it has no table taskcore_records") from error
        _check(found, completion)
        await cursor.execute(COMPLETE, _values(completion))


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────


def _complete_sqlite(connection: sqlite3.Connection, completion: Completion) -> None:
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        if not connection.in_transaction:
            if connection.isolation_level is None or getattr(connection, "autocommit", None) is True:
                raise _no_transaction()
            cursor.execute("BEGIN IMMEDIATE")
        try:
            # Write first: no other connection can write from here on, so the record that is read stays.
            cursor.execute(TAKE)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise _elsewhere(f"it has no table taskcore_schema ({error})") from error
            raise
        now = time.time()
        _check(cursor.execute(FIND, (completion.name, now)).fetchone(), completion)
        [following] = cursor.execute(NEXT).fetchone()
        cursor.execute(PUT, (completion.name, completion.value, following - 1, now + completion.keep))
    finally:
        cursor.close()


# ── what both need ───────────────────────────────────────────────────────────────────────────────


def _name(completion: Completion) -> str:
    from taskcore.stores.sql.postgres.layout import name  # noqa: PLC0415 - SQLite needs no psycopg

    return name(completion.name)


def _values(completion: Completion) -> tuple[bytes, float, str, str]:
    from taskcore.stores.sql.postgres.layout import key_hash  # noqa: PLC0415 - as above

    return completion.value, completion.keep, _name(completion), key_hash(_name(completion))


def _check_transaction(connection: psycopg.BaseConnection[Any]) -> None:
    """Refuse autocommit: the outcome would be committed without its effect."""
    if connection.autocommit and not connection.info.transaction_status:  # idle is zero
        raise _no_transaction()


def _check(found: tuple[Any, ...] | None, completion: Completion) -> None:
    """Refuse a record that may not be completed by this start of the job."""
    if found is None:
        raise _elsewhere("it has no record of this key")
    conflict = completion.conflict(found[0])
    if conflict is not None:
        raise LeaseLost(
            "the outcome was not committed: the key does not belong to this start of the job any more",
            facts=[conflict],
            fix="let this error pass, so the transaction is rolled back; the job then acquires its key again",
        )


def _elsewhere(why: str) -> InvalidSetting:
    return InvalidSetting(
        "the outcome was not committed: this connection does not lead to the app's store",
        facts=[why],
        fix="connect to the same database (and schema) as the app's store=…, and write the effect there too",
    )


def _no_transaction() -> InvalidSetting:
    return InvalidSetting(
        "the outcome was not committed: this connection commits every statement by itself",
        fix="begin a transaction first: BEGIN with sqlite3, connection.transaction() with psycopg",
    )


def _unknown(connection: object) -> InvalidSetting:
    return InvalidSetting(
        f"complete_in cannot use {type(connection).__qualname__}",
        facts=["it knows sqlite3.Connection and psycopg.Connection; complete_in_async knows psycopg.AsyncConnection"],
        fix="hand over the driver's own connection (SQLAlchemy: session.connection().connection.driver_connection)",
    )
