"""The tables of queues in one SQLite file, and the statements of the verbs.

    taskcore_jobs      one row for each job, as long as the job lives; times are seconds since the epoch
    taskcore_ended     ids of jobs that ended within the last minute
    taskcore_letters   dead letters
    taskcore_queues    names of queues, noted with each job

A row of taskcore_jobs is ready, scheduled (``due`` is later than now) or leased (``until`` is). No column of a lease is
in an index. Lists of ids, tokens and names travel as one JSON text: Python lets go of its lock at each statement, and a
thread that computes gives it back only after some time.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Final

from taskcore.connections.sqlite.file import SqliteFile, sqlite_version
from taskcore.connections.sqlite.schema import SqliteSchema, prepare_tables
from taskcore.errors import BrokerUnavailable

__all__ = [
    "ACK", "AGAIN", "BURY", "CLAIM", "CLEAN", "DELETE", "DROP", "DUE", "ENDED", "ENDED_BEFORE", "EXTEND", "INSERT_ROWS",
    "JOBS", "LAST_LETTER", "LETTER", "LETTERS", "LOCATE", "NEXT_DUE", "NOTE_ENDED", "NOTE_QUEUES", "PEEK_DUE",
    "PEEK_READY", "PEEK_SCHEDULED", "PURGE", "QUEUES", "READY", "REMOVE", "STATS", "TAKE_BURIED", "WITH_WORK",
    "insert_statement", "prepare",
]  # fmt: skip

OLDEST: Final = (3, 35)  #: the first version of SQLite with RETURNING

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS taskcore_jobs (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL UNIQUE, queue TEXT NOT NULL, due REAL, created REAL NOT NULL, until REAL,
    token INTEGER, redeliveries INTEGER NOT NULL DEFAULT 0, envelope BLOB NOT NULL, trail BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS taskcore_jobs_ready ON taskcore_jobs (queue, id) WHERE due IS NULL",
    "CREATE INDEX IF NOT EXISTS taskcore_jobs_due ON taskcore_jobs (queue, due) WHERE due IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS taskcore_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, job TEXT NOT NULL, envelope BLOB NOT NULL,
    trail BLOB NOT NULL, reason TEXT NOT NULL, buried REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS taskcore_letters_queue ON taskcore_letters (queue, id)",
    "CREATE TABLE IF NOT EXISTS taskcore_ended (job TEXT PRIMARY KEY, ended REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS taskcore_ended_when ON taskcore_ended (ended)",
    "CREATE TABLE IF NOT EXISTS taskcore_queues (queue TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS taskcore_jobs_schema (version INTEGER NOT NULL)",
    "INSERT INTO taskcore_jobs_schema SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM taskcore_jobs_schema)",
)
JOBS: Final = SqliteSchema("taskcore_jobs_schema", (TABLES,))

FREE: Final = "(until IS NULL OR until <= :now)"
THESE: Final = "(SELECT value FROM json_each({}))"

# ── publishing ──

INSERT_ROWS: Final = 100  #: jobs in one statement; older SQLites take 999 values
ENDED: Final = f"SELECT job FROM taskcore_ended WHERE job IN {THESE.format(':jobs')} AND ended > :since"  # noqa: S608 - constants of this file
NOTE_QUEUES: Final = "INSERT OR IGNORE INTO taskcore_queues SELECT value FROM json_each(:queues)"


@cache
def insert_statement(rows: int) -> str:
    """Return the statement that stores so many jobs."""
    return (
        "INSERT INTO taskcore_jobs (queue, job, due, created, envelope, trail) VALUES "  # noqa: S608 - as above
        f"{', '.join(['(?, ?, ?, ?, ?, ?)'] * rows)} ON CONFLICT (job) DO NOTHING RETURNING job"
    )


# ── receiving ──

#: Of some queues those that have a job to hand out, in their order.
WITH_WORK: Final = f"""SELECT value FROM json_each(:queues) AS asked
    WHERE EXISTS (SELECT 1 FROM taskcore_jobs WHERE queue = asked.value AND due IS NULL
        AND ({FREE} OR token IN {THESE.format(":lost")}))
    OR EXISTS (SELECT 1 FROM taskcore_jobs WHERE queue = asked.value AND due IS NOT NULL AND due <= :now
        AND ({FREE} OR token IN {THESE.format(":lost")}))
    ORDER BY key"""  # noqa: S608 - as above

READY: Final = f"""SELECT id FROM taskcore_jobs WHERE queue = :queue AND due IS NULL
    AND ({FREE} OR token IN {THESE.format(":lost")}) ORDER BY id LIMIT :limit"""  # noqa: S608 - as above
DUE: Final = f"""SELECT id FROM taskcore_jobs WHERE queue = :queue AND due IS NOT NULL AND due <= :now
    AND ({FREE} OR token IN {THESE.format(":lost")}) ORDER BY due LIMIT :limit"""  # noqa: S608 - as above
CLAIM: Final = f"""UPDATE taskcore_jobs SET until = :until, token = :token,
    redeliveries = redeliveries + (token IS NOT NULL AND token NOT IN {THESE.format(":lost")})
    WHERE id IN {THESE.format(":ids")}
    RETURNING id, queue, job, CAST(envelope AS BLOB), CAST(trail AS BLOB), redeliveries"""  # noqa: S608 - as above

NEXT_DUE: Final = """SELECT min((SELECT due FROM taskcore_jobs
    WHERE queue = asked.value AND due IS NOT NULL AND due > :now ORDER BY due LIMIT 1))
    FROM json_each(:queues) AS asked"""

# ── settling: all of these leases have one token ──

HELD: Final = f"job IN {THESE.format(':jobs')} AND token = :token AND until > :now"
ACK: Final = f"DELETE FROM taskcore_jobs WHERE {HELD} RETURNING job"  # noqa: S608 - as above
NOTE_ENDED: Final = "INSERT OR REPLACE INTO taskcore_ended SELECT value, :now FROM json_each(:jobs)"
AGAIN: Final = """UPDATE taskcore_jobs SET token = NULL, until = NULL, due = :due, trail = coalesce(:trail, trail),
    redeliveries = CASE WHEN :trail IS NULL THEN redeliveries ELSE 0 END
    WHERE job = :job AND token = :token AND until > :now"""
TAKE_BURIED: Final = """DELETE FROM taskcore_jobs WHERE job = :job AND token = :token AND until > :now
    RETURNING queue, envelope"""
BURY: Final = """INSERT INTO taskcore_letters (queue, job, envelope, trail, reason, buried)
    VALUES (:queue, :job, :envelope, :trail, :reason, :now)"""
EXTEND: Final = f"UPDATE taskcore_jobs SET until = :until WHERE {HELD} RETURNING job"  # noqa: S608 - as above

# ── for people ──

QUEUES: Final = "SELECT queue FROM taskcore_queues ORDER BY queue"

STATS: Final = """SELECT coalesce(sum(NOT leased AND NOT later), 0), coalesce(sum(leased), 0),
    coalesce(sum(NOT leased AND later), 0), (SELECT count(*) FROM taskcore_letters WHERE queue = :queue),
    :now - min(CASE WHEN NOT leased AND NOT later THEN since END)
FROM (
    SELECT until IS NOT NULL AND until > :now AS leased, due IS NOT NULL AND due > :now AS later,
        coalesce(due, created) AS since
    FROM taskcore_jobs WHERE queue = :queue AND due IS NULL
    UNION ALL
    SELECT until IS NOT NULL AND until > :now, due > :now, due
    FROM taskcore_jobs WHERE queue = :queue AND due IS NOT NULL
)"""

PEEK: Final = "SELECT CAST(envelope AS BLOB), CAST(trail AS BLOB)"
PEEK_READY: Final = f"""{PEEK}, NULL FROM taskcore_jobs WHERE queue = :queue AND due IS NULL AND {FREE}
    ORDER BY id LIMIT :limit"""
PEEK_DUE: Final = f"""{PEEK}, NULL FROM taskcore_jobs
    WHERE queue = :queue AND due IS NOT NULL AND due <= :now AND {FREE} ORDER BY due LIMIT :limit"""
PEEK_SCHEDULED: Final = f"""{PEEK}, due - :now FROM taskcore_jobs
    WHERE queue = :queue AND due IS NOT NULL AND due > :now AND {FREE} ORDER BY due LIMIT :limit"""

PURGE: Final = f"""DELETE FROM taskcore_jobs WHERE id IN (
    SELECT id FROM taskcore_jobs WHERE queue = :queue AND due IS NULL AND {FREE}
    UNION ALL SELECT id FROM taskcore_jobs WHERE queue = :queue AND due IS NOT NULL AND {FREE} LIMIT :limit)
    RETURNING job"""  # noqa: S608 - as above
REMOVE: Final = f"DELETE FROM taskcore_jobs WHERE job = :job AND queue = :queue AND {FREE} RETURNING job"  # noqa: S608 - as above
LOCATE: Final = """SELECT CASE WHEN until IS NOT NULL AND until > :now THEN 'leased'
    WHEN due IS NOT NULL AND due > :now THEN 'scheduled' ELSE 'ready' END
    FROM taskcore_jobs WHERE job = :job AND queue = :queue"""
DELETE: Final = tuple(
    f"DELETE FROM {table} WHERE queue = :queue"  # noqa: S608 - as above
    for table in ("taskcore_jobs", "taskcore_letters", "taskcore_queues")
)
LETTER_COLUMNS: Final = "id, queue, CAST(envelope AS BLOB), CAST(trail AS BLOB), reason, buried"
LETTERS: Final = f"""SELECT {LETTER_COLUMNS} FROM taskcore_letters WHERE queue = :queue AND id > :after
    ORDER BY id LIMIT :limit"""  # noqa: S608 - as above
LETTER: Final = f"SELECT {LETTER_COLUMNS} FROM taskcore_letters WHERE id = :letter"  # noqa: S608 - as above
LAST_LETTER: Final = "SELECT max(id) FROM taskcore_letters WHERE queue = :queue"
DROP: Final = "DELETE FROM taskcore_letters WHERE id = :letter"

ENDED_BEFORE: Final = "SELECT 1 FROM taskcore_ended WHERE ended <= :since LIMIT 1"
CLEAN: Final = """DELETE FROM taskcore_ended WHERE job IN (
    SELECT job FROM taskcore_ended WHERE ended <= :since ORDER BY ended LIMIT :limit)"""


def prepare(file: SqliteFile) -> None:
    """Create the tables, unless they exist.

    :raises BrokerUnavailable: they are of a newer version, or this SQLite is too old.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise BrokerUnavailable(
            f"queues need SQLite 3.35, and this Python uses {sqlite_version()}",
            fix="use a Python with a newer SQLite, or another broker",
        )
    prepare_tables(file, JOBS)
