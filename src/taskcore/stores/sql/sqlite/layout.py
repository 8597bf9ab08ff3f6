"""The tables of records in one SQLite file, and the statements of the verbs. Synchronous.

    taskcore_records    key, value, version, ends (seconds since the epoch; NULL: never)
    taskcore_schema     version: of these tables · next_record: the next record's version, never given twice

Every write stands in BEGIN IMMEDIATE: the lock is taken before the first read, so comparing and setting are one step
for all processes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence

from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.schema import SqliteSchema, prepare_tables
from taskcore.store import ABSENT, ANY, Conflict, Record, Version, Write, is_expected

__all__ = [
    "FIND",
    "NEXT",
    "PUT",
    "RECORDS",
    "TABLES",
    "TAKE",
    "clean",
    "find",
    "is_refusal",
    "prepare",
    "write_all",
    "write_alone",
]

TABLES = (
    """CREATE TABLE IF NOT EXISTS taskcore_records (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, ends REAL)""",
    "CREATE INDEX IF NOT EXISTS taskcore_records_ends ON taskcore_records (ends) WHERE ends IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS taskcore_schema (version INTEGER NOT NULL, next_record INTEGER NOT NULL)",
    # Start above the number that any earlier file of this path can have reached: versions do not repeat even if the
    # file was lost.
    """INSERT INTO taskcore_schema SELECT 1, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
    WHERE NOT EXISTS (SELECT 1 FROM taskcore_schema)""",
)
RECORDS = SqliteSchema("taskcore_schema", (TABLES,))

#: The casts: SQLite keeps any type in any column, and another program may have written there.
FIND = """SELECT CAST(value AS BLOB), CAST(version AS INTEGER) FROM taskcore_records
    WHERE key = ? AND (ends IS NULL OR ends > ?)"""
PUT = """INSERT INTO taskcore_records (key, value, version, ends) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, ends = excluded.ends"""
#: Many new records at once. Python lets go of its lock at each statement, and a thread that computes gives it back only
#: after some time: one statement for each record would be slower by far beside a busy event loop.
MANY = 64  #: records in a statement; older SQLites take 999 values
BEGIN_MANY = f"""INSERT INTO taskcore_records (key, value, version, ends) VALUES {", ".join(["(?, ?, ?, ?)"] * MANY)}
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, ends = excluded.ends
    WHERE taskcore_records.ends <= ?"""  # noqa: S608 - constants of this file
DELETE = "DELETE FROM taskcore_records WHERE key = ?"
NEXT = "SELECT next_record FROM taskcore_schema"
TAKE = "UPDATE taskcore_schema SET next_record = next_record + 1"
COUNTED = "UPDATE taskcore_schema SET next_record = ?"
ENDED = "SELECT 1 FROM taskcore_records WHERE ends <= ? LIMIT 1"
CLEAN = """DELETE FROM taskcore_records WHERE key IN (
    SELECT key FROM taskcore_records WHERE ends <= ? ORDER BY ends LIMIT ?)"""


def prepare(file: SqliteFile) -> None:
    """Create the tables, unless they exist.

    :raises BrokerUnavailable: they are of a newer version.
    """
    prepare_tables(file, RECORDS)


def find(connection: sqlite3.Connection, key: str, now: float) -> Record | None:
    """Return the record, unless it has ended."""
    found = connection.execute(FIND, (key, now)).fetchone()
    return Record(found[0], found[1]) if found is not None else None


def write_all(
    connection: sqlite3.Connection, batches: Iterable[Sequence[Write]], now: float
) -> list[Sequence[Version | Conflict]]:
    """Carry out all batches, inside a transaction that has the lock.

    :raises sqlite3.Error: some may be written; roll the transaction back.
    """
    first = version = connection.execute(NEXT).fetchone()[0]
    answers: list[Sequence[Version | Conflict]] = []
    for batch in batches:
        answered: list[Version | Conflict] = []
        for start in range(0, len(batch), MANY):
            portion = batch[start : start + MANY]
            if _begin_many(connection, portion, version, now):
                answered += range(version, version + MANY)
                version += MANY
                continue
            for write in portion:
                answer = _write(connection, write, version, now)
                version += answer == version
                answered.append(answer)
        answers.append(answered)
    if version != first:
        connection.execute(COUNTED, (version,))
    return answers


def write_alone(connection: sqlite3.Connection, write: Write) -> Version | Conflict:
    """Carry out one write in its own transaction.

    :raises sqlite3.Error: it was not written. See ``is_refusal``.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        [[answer]] = write_all(connection, [[write]], time.time())
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return answer


def _begin_many(connection: sqlite3.Connection, writes: Sequence[Write], version: int, now: float) -> bool:
    """Write records that must not exist, in one statement; False, and nothing written, if that cannot be done."""
    if len(writes) < MANY or not all(write.expect is ABSENT and write.value is not None for write in writes):
        return False
    values = [
        part
        for number, write in enumerate(writes, version)
        for part in (write.key, write.value, number, None if write.keep is None else now + write.keep)
    ]
    connection.execute("SAVEPOINT many")
    if connection.execute(BEGIN_MANY, (*values, now)).rowcount != MANY:
        connection.execute("ROLLBACK TO many")
        connection.execute("RELEASE many")
        return False
    connection.execute("RELEASE many")
    return True


def _write(connection: sqlite3.Connection, write: Write, version: int, now: float) -> Version | Conflict:
    """Carry out one write of a transaction; a new record gets ``version``."""
    deleting = write.value is None
    if write.expect is not ANY or deleting:
        current = find(connection, write.key, now)
        if not is_expected(current, write.expect):
            return Conflict(current)
        if deleting:
            if current is None:
                return ""
            connection.execute(DELETE, (write.key,))
            return current.version
    ends = None if write.keep is None else now + write.keep
    connection.execute(PUT, (write.key, write.value, version, ends))
    return version


def is_refusal(error: sqlite3.Error) -> bool:
    """Tell whether SQLite refuses a value: too large, or against a constraint or a trigger of the table."""
    return isinstance(error, sqlite3.DataError | sqlite3.IntegrityError)


def clean(connection: sqlite3.Connection, limit: int) -> int:
    """Delete up to so many ended records; return how many. Take no lock if there are none."""
    now = time.time()
    if connection.execute(ENDED, (now,)).fetchone() is None:
        return 0
    return connection.execute(CLEAN, (now, limit)).rowcount
