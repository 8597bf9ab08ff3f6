"""The tables of queues in PostgreSQL, from version 12, and the statements of the verbs.

    taskcore_jobs      one row for each job, as long as the job lives
    taskcore_ended     ids of jobs that ended within the last minute; unlogged: a crash of the server forgets them
    taskcore_letters   dead letters
    taskcore_queues    names of queues, and until when a worker sleeps there; unlogged

A row of taskcore_jobs is ready, scheduled (``due`` is later than now) or leased (``until`` is). No column of a lease is
in an index, and half of each page is kept free. A lease therefore is a new version of the row on the same page (a HOT
update) and touches no index: half of the work of a table with indexes on leases.

Claims go through two indexes: of rows that never had a time, in the order of their numbers, and of rows that have one,
in the order of these. Each source remembers how far it has come, because an index keeps dead entries in front as long
as any transaction of the server may still see them. Earlier rows (of leases that ended, of transactions that committed
late) are found by looks from the beginning.
"""

from __future__ import annotations

from typing import Final

from taskcore.connections.postgres.schema import PostgresSchema, prepare_schema
from taskcore.connections.postgres.session import Connection

__all__ = [
    "ACK", "CHANNEL", "CLAIM", "CLEAN", "DELETE", "DROP", "EXTEND", "INSERT", "JOBS", "LAST_LETTER", "LETTER",
    "LETTERS", "LOCATE", "PEEK_READY", "PEEK_SCHEDULED", "PURGE", "QUEUES", "REMOVE", "SETTLE", "SLEEP", "STATS",
    "UNDO", "WAKE", "prepare",
]  # fmt: skip

CHANNEL: Final = "taskcore_jobs"  #: notifications for workers that sleep
WINDOW: Final = "interval '60 seconds'"  #: for which the id of an ended job is remembered

TABLES: Final = """\
CREATE TABLE IF NOT EXISTS taskcore_jobs (
    job text COLLATE "C" PRIMARY KEY, id bigint GENERATED ALWAYS AS IDENTITY, queue text COLLATE "C" NOT NULL,
    due timestamptz, created timestamptz NOT NULL DEFAULT clock_timestamp(), until timestamptz, token bigint,
    redeliveries integer NOT NULL DEFAULT 0, envelope bytea NOT NULL, trail bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE taskcore_jobs ALTER envelope SET STORAGE EXTERNAL, ALTER trail SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS taskcore_jobs_ready ON taskcore_jobs (queue, id) WHERE due IS NULL;
CREATE INDEX IF NOT EXISTS taskcore_jobs_due ON taskcore_jobs (queue, due) WHERE due IS NOT NULL;
CREATE TABLE IF NOT EXISTS taskcore_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue text COLLATE "C" NOT NULL, job text NOT NULL,
    envelope bytea NOT NULL, trail bytea NOT NULL, reason text NOT NULL, buried timestamptz NOT NULL DEFAULT now());
CREATE INDEX IF NOT EXISTS taskcore_letters_queue ON taskcore_letters (queue, id);
CREATE UNLOGGED TABLE IF NOT EXISTS taskcore_ended (
    job text COLLATE "C" PRIMARY KEY, ended timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_limit = 2000);
CREATE UNLOGGED TABLE IF NOT EXISTS taskcore_queues (
    queue text COLLATE "C" PRIMARY KEY, sleeping timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
"""
JOBS: Final = PostgresSchema(
    versions="taskcore_jobs_schema",
    probe="taskcore_jobs",
    steps=(TABLES,),
    grants="SELECT, INSERT, UPDATE, DELETE on taskcore_jobs, taskcore_letters, taskcore_ended and taskcore_queues, and "
    "SELECT on taskcore_jobs_schema",
)

FREE: Final = "(until IS NULL OR until <= now())"
NOTED: Final = """INSERT INTO taskcore_ended (job, ended) SELECT job, now() FROM {ended}
    ON CONFLICT (job) DO UPDATE SET ended = excluded.ended"""
DUE: Final = "now() + make_interval(secs => {after})"

# ── publishing ──

INSERT: Final = """INSERT INTO taskcore_jobs (queue, job, due, envelope, trail)
    SELECT queue, job, CASE WHEN delay > 0 THEN clock_timestamp() + make_interval(secs => delay) END, envelope, trail
    FROM unnest(%(queues)s::text[], %(jobs)s::text[], %(delays)s::float8[], %(envelopes)s::bytea[], %(trails)s::bytea[])
        AS input (queue, job, delay, envelope, trail)
    ON CONFLICT (job) DO NOTHING RETURNING job"""

#: Deletes rows whose jobs have ended, in a statement of its own: one that began earlier does not see a job that ended
#: while it waited for that very row.
UNDO: Final = f"""DELETE FROM taskcore_jobs AS job USING taskcore_ended AS gone
    WHERE gone.job = ANY(%(jobs)s::text[]) AND gone.ended > clock_timestamp() - {WINDOW} AND job.job = gone.job
    RETURNING job.job"""  # noqa: S608 - as above

# ── receiving ──

CLAIM: Final = f"""WITH picked AS MATERIALIZED (
    SELECT found.job
    FROM unnest(%(queues)s::text[], %(lows)s::bigint[], %(sinces)s::float8[]) AS asked (queue, low, since)
    CROSS JOIN LATERAL (
        SELECT job FROM (SELECT job FROM taskcore_jobs
            WHERE queue = asked.queue AND due IS NOT NULL AND due <= now() AND due >= to_timestamp(asked.since)
                AND ({FREE} OR token = ANY(%(lost)s::bigint[]))
            ORDER BY due LIMIT %(late)s::int FOR UPDATE SKIP LOCKED) AS late
        UNION ALL
        SELECT job FROM (SELECT job FROM taskcore_jobs
            WHERE queue = asked.queue AND due IS NULL AND id >= asked.low
                AND ({FREE} OR token = ANY(%(lost)s::bigint[]))
            ORDER BY id LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED) AS ready
    ) AS found LIMIT %(limit)s::int
)
UPDATE taskcore_jobs AS job SET token = %(token)s::bigint, until = {DUE.format(after="%(lease)s::float8")},
    redeliveries = redeliveries + (token IS NOT NULL AND token <> ALL(%(lost)s::bigint[]))::int
FROM picked WHERE job.job = picked.job
RETURNING job.queue, job.job, job.id, extract(epoch FROM job.due)::float8, job.envelope, job.trail, job.redeliveries"""  # noqa: S608 - as above

#: Notes that a worker sleeps on these queues; says in how many seconds the next scheduled job is due.
SLEEP: Final = """WITH noted AS (
    INSERT INTO taskcore_queues AS known (queue, sleeping)
    SELECT queue, now() + make_interval(secs => %(seconds)s::float8) FROM unnest(%(queues)s::text[]) AS asked (queue)
    ON CONFLICT (queue) DO UPDATE SET sleeping = excluded.sleeping
    WHERE known.sleeping IS NULL OR known.sleeping < excluded.sleeping
)
SELECT extract(epoch FROM min(next.due) - now())::float8 FROM unnest(%(queues)s::text[]) AS asked (queue)
CROSS JOIN LATERAL (
    SELECT due FROM taskcore_jobs WHERE queue = asked.queue AND due IS NOT NULL AND due > now() ORDER BY due LIMIT 1
) AS next"""

WAKE: Final = f"""WITH woken AS (
    UPDATE taskcore_queues SET sleeping = NULL WHERE queue = ANY(%(queues)s::text[]) AND sleeping > now()
    RETURNING queue
)
SELECT pg_notify('{CHANNEL}', queue)::text FROM woken"""  # noqa: S608 - as above

# ── settling ──

HELD: Final = "job.job = input.job AND job.token = input.token AND job.until > now()"

ACK: Final = f"""WITH acked AS (
    DELETE FROM taskcore_jobs AS job USING unnest(%(jobs)s::text[], %(tokens)s::bigint[]) AS input (job, token)
    WHERE {HELD} RETURNING job.job
), noted AS ({NOTED.format(ended="acked")})
SELECT job FROM acked"""  # noqa: S608 - as above

SETTLE: Final = f"""WITH input AS MATERIALIZED (
    SELECT * FROM unnest(%(jobs)s::text[], %(tokens)s::bigint[], %(kinds)s::smallint[], %(afters)s::float8[],
        %(trails)s::bytea[], %(reasons)s::text[]) AS input (job, token, kind, after, trail, reason)
), gone AS (
    DELETE FROM taskcore_jobs AS job USING input WHERE kind IN (0, 3) AND {HELD}
    RETURNING job.job, job.queue, job.envelope, input.kind, input.trail, input.reason
), noted AS ({NOTED.format(ended="gone")}), buried AS (
    INSERT INTO taskcore_letters (queue, job, envelope, trail, reason)
    SELECT queue, job, envelope, trail, reason FROM gone WHERE kind = 3
), again AS (
    UPDATE taskcore_jobs AS job SET token = NULL, until = NULL, due = {DUE.format(after="input.after")},
        trail = CASE kind WHEN 2 THEN input.trail ELSE job.trail END,
        redeliveries = CASE kind WHEN 2 THEN 0 ELSE redeliveries END
    FROM input WHERE kind IN (1, 2) AND {HELD} RETURNING job.job
)
SELECT job FROM gone UNION ALL SELECT job FROM again"""  # noqa: S608 - as above

EXTEND: Final = f"""UPDATE taskcore_jobs AS job SET until = {DUE.format(after="%(lease)s::float8")}
    FROM unnest(%(jobs)s::text[], %(tokens)s::bigint[]) AS input (job, token) WHERE {HELD} RETURNING job.job"""  # noqa: S608 - as above

# ── for people ──

#: The names that are noted, and those of rows, found by one step in an index for each.
QUEUES: Final = """WITH RECURSIVE ready AS (
    (SELECT queue FROM taskcore_jobs WHERE due IS NULL ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM taskcore_jobs WHERE due IS NULL AND queue > ready.queue ORDER BY queue LIMIT 1)
    FROM ready WHERE ready.queue IS NOT NULL
), timed AS (
    (SELECT queue FROM taskcore_jobs WHERE due IS NOT NULL ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM taskcore_jobs WHERE due IS NOT NULL AND queue > timed.queue ORDER BY queue LIMIT 1)
    FROM timed WHERE timed.queue IS NOT NULL
), dead AS (
    (SELECT queue FROM taskcore_letters ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM taskcore_letters WHERE queue > dead.queue ORDER BY queue LIMIT 1)
    FROM dead WHERE dead.queue IS NOT NULL
)
SELECT queue FROM taskcore_queues UNION SELECT queue FROM ready WHERE queue IS NOT NULL
UNION SELECT queue FROM timed WHERE queue IS NOT NULL UNION SELECT queue FROM dead WHERE queue IS NOT NULL"""

STATS: Final = """SELECT count(*) FILTER (WHERE NOT leased AND NOT later), count(*) FILTER (WHERE leased),
    count(*) FILTER (WHERE NOT leased AND later), (SELECT count(*) FROM taskcore_letters WHERE queue = %(queue)s),
    extract(epoch FROM now() - min(since) FILTER (WHERE NOT leased AND NOT later))::float8
FROM (
    SELECT until > now() AND until IS NOT NULL AS leased, false AS later, created AS since
    FROM taskcore_jobs WHERE queue = %(queue)s AND due IS NULL
    UNION ALL
    SELECT until > now() AND until IS NOT NULL, due > now(), due
    FROM taskcore_jobs WHERE queue = %(queue)s AND due IS NOT NULL
) AS jobs"""

PEEK_READY: Final = f"""SELECT envelope, trail, NULL::float8 FROM (
    SELECT 0 AS place, * FROM (SELECT due AS since, id, envelope, trail FROM taskcore_jobs
        WHERE queue = %(queue)s AND due IS NOT NULL AND due <= now() AND {FREE} ORDER BY due LIMIT %(limit)s) AS late
    UNION ALL
    SELECT 1, * FROM (SELECT NULL::timestamptz, id, envelope, trail FROM taskcore_jobs
        WHERE queue = %(queue)s AND due IS NULL AND {FREE} ORDER BY id LIMIT %(limit)s) AS ready
    ) AS next ORDER BY place, since, id LIMIT %(limit)s"""  # noqa: S608 - as above
PEEK_SCHEDULED: Final = f"""SELECT envelope, trail, extract(epoch FROM due - now())::float8 FROM taskcore_jobs
    WHERE queue = %(queue)s AND due IS NOT NULL AND due > now() AND {FREE} ORDER BY due LIMIT %(limit)s"""  # noqa: S608 - as above

PURGE: Final = f"""WITH picked AS MATERIALIZED (
    SELECT job FROM (SELECT job FROM taskcore_jobs WHERE queue = %(queue)s AND due IS NULL AND {FREE}
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED) AS ready
    UNION ALL
    SELECT job FROM (SELECT job FROM taskcore_jobs WHERE queue = %(queue)s AND due IS NOT NULL AND {FREE}
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED) AS timed
), purged AS (
    DELETE FROM taskcore_jobs AS job USING picked WHERE job.job = picked.job RETURNING job.job
), noted AS ({NOTED.format(ended="purged")})
SELECT count(*) FROM purged"""  # noqa: S608 - as above

REMOVE: Final = f"""WITH removed AS (
    DELETE FROM taskcore_jobs WHERE job = %(job)s AND queue = %(queue)s AND {FREE} RETURNING job
), noted AS ({NOTED.format(ended="removed")})
SELECT count(*) FROM removed"""  # noqa: S608 - as above

LOCATE: Final = """SELECT CASE WHEN until > now() THEN 'leased' WHEN due > now() THEN 'scheduled' ELSE 'ready' END
    FROM taskcore_jobs WHERE job = %(job)s AND queue = %(queue)s"""

#: In the order in which they are deleted.
DELETE: Final = tuple(
    f"DELETE FROM {table} WHERE queue = %(queue)s"  # noqa: S608 - as above
    for table in ("taskcore_jobs", "taskcore_letters", "taskcore_queues")
)

LETTER_COLUMNS: Final = "id, queue, envelope, trail, reason, extract(epoch FROM buried)::float8"
LETTERS: Final = f"""SELECT {LETTER_COLUMNS} FROM taskcore_letters
    WHERE queue = %(queue)s AND id > %(after)s::bigint ORDER BY id LIMIT %(limit)s"""  # noqa: S608 - as above
LETTER: Final = f"SELECT {LETTER_COLUMNS} FROM taskcore_letters WHERE id = %(letter)s::bigint"  # noqa: S608 - as above
LAST_LETTER: Final = "SELECT max(id) FROM taskcore_letters WHERE queue = %(queue)s"
DROP: Final = "DELETE FROM taskcore_letters WHERE id = %(letter)s::bigint"

#: Forgets ended jobs; one program at a time does it.
CLEAN: Final = f"""DELETE FROM taskcore_ended WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM taskcore_ended WHERE ended < now() - {WINDOW} LIMIT %(limit)s))
    AND pg_try_advisory_xact_lock(7310582011944714)"""  # noqa: S608 - as above


async def prepare(connection: Connection) -> None:
    """Make the tables, unless they are there.

    :raises BrokerUnavailable: this role may not, or they are of a newer version.
    """
    await prepare_schema(connection, JOBS)
