"""Every queue, job and lease of one file, in synchronous code, for the thread that has the file.

Each function that writes runs inside a transaction that has the file's only lock for writing; ``now`` is this machine's
clock, which all programs on the file share.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal

from taskcore.backend import Delivery, Letter, Outgoing, Place, Published, QueueStats
from taskcore.backends.sql.messages import (
    ACKED,
    BURIED,
    DEDUP_WINDOW,
    LONGEST_DELAY,
    PLACE_NAMES,
    RETRIED,
    Effect,
    Receipt,
    answers_of,
    letter_of,
    stats_of,
)  # fmt: skip
from taskcore.backends.sql.sqlite import layout as sql
from taskcore.toolkit.capabilities import WaitingJob

__all__ = [
    "claim", "clean", "delete", "drop", "extend", "has_work", "last_letter", "letter", "letters", "locate", "next_due",
    "peek", "publish", "purge", "queues", "remove", "settle", "settle_together", "stats",
]  # fmt: skip


# ── the verbs ────────────────────────────────────────────────────────────────────────────────────


def publish(
    connection: sqlite3.Connection | sqlite3.Cursor,
    now: float,
    jobs: Sequence[Outgoing],
    letter: int | None = None,
) -> list[Published]:
    """Store jobs; with ``letter``, delete that dead letter."""
    ids = json.dumps([job.id for job in jobs])
    ended = {job for (job,) in connection.execute(sql.ENDED, {"jobs": ids, "since": now - DEDUP_WINDOW})}
    fresh = [job for job in jobs if job.id not in ended] if ended else jobs
    stored: set[str] = set()
    for start in range(0, len(fresh), sql.INSERT_ROWS):
        part = fresh[start : start + sql.INSERT_ROWS]
        values = [
            value
            for job in part
            for value in (
                job.queue,
                job.id,
                now + min(job.delay, LONGEST_DELAY) if job.delay > 0 else None,
                now,
                job.envelope,
                job.trail,
            )
        ]
        stored.update(job for (job,) in connection.execute(sql.insert_statement(len(part)), values))
    connection.execute(sql.NOTE_QUEUES, {"queues": json.dumps(sorted({job.queue for job in jobs}))})
    if letter is not None:
        drop(connection, letter)
    return answers_of(jobs, stored)


def has_work(connection: sqlite3.Connection, now: float, queues: Sequence[str], lost: Collection[int]) -> list[str]:
    """Return the queues that have a job to hand out, in their order."""
    values = {"queues": json.dumps(queues), "lost": json.dumps([*lost]), "now": now}
    return [queue for (queue,) in connection.execute(sql.WITH_WORK, values)]


def claim(
    connection: sqlite3.Connection,
    now: float,
    queues: Sequence[str],
    *,
    limit: int,
    late: int,
    lease: float,
    token: int,
    lost: Collection[int],
) -> list[Delivery]:
    """Lease jobs, earlier queues first.

    :param late: how many of each queue may be jobs that had a time; they come first.
    :param lost: tokens of leases that their source never learnt of.
    """
    ids: dict[int, None] = {}
    values: dict[str, Any] = {"now": now, "lost": json.dumps([*lost])}
    for queue in has_work(connection, now, queues, lost):
        values |= {"queue": queue, "limit": min(late, limit - len(ids))}
        ids.update((number, None) for (number,) in connection.execute(sql.DUE, values).fetchall())
        values["limit"] = limit - len(ids)
        if values["limit"]:
            ids.update((number, None) for (number,) in connection.execute(sql.READY, values).fetchall())
        if len(ids) >= limit:
            break
    if not ids:
        return []
    values |= {"ids": json.dumps([*ids]), "until": now + lease, "token": token}
    rows = {row[0]: row for row in connection.execute(sql.CLAIM, values)}
    return [
        Delivery(queue, envelope, trail, redeliveries, Receipt(job, token))
        for _, queue, job, envelope, trail, redeliveries in (rows[number] for number in ids)
    ]


def next_due(connection: sqlite3.Connection, now: float, queues: Sequence[str]) -> float | None:
    """Return in how many seconds the next scheduled job is due."""
    [due] = connection.execute(sql.NEXT_DUE, {"queues": json.dumps(queues), "now": now}).fetchone()
    return None if due is None else due - now


def settle(connection: sqlite3.Connection, now: float, batch: Sequence[tuple[Receipt, Effect]]) -> set[str]:
    """Carry out verdicts; return the ids of the jobs that were still leased."""
    acked: defaultdict[int, list[str]] = defaultdict(list)
    done: set[str] = set()
    ended: list[str] = []
    for receipt, effect in batch:
        if effect.kind == ACKED:
            acked[receipt.token].append(receipt.job)
        elif _settle_one(connection, now, receipt, effect):
            done.add(receipt.job)
            if effect.kind == BURIED:
                ended.append(receipt.job)
    for token, jobs in acked.items():
        values = {"jobs": json.dumps(jobs), "token": token, "now": now}
        ended += [job for (job,) in connection.execute(sql.ACK, values)]
    _note_ended(connection, now, ended)
    return done.union(ended)


def settle_together(
    connection: sqlite3.Connection, now: float, batch: Sequence[tuple[Receipt, Effect]], also: Callable[..., Any]
) -> Any:
    """Carry out verdicts and other work, and return its answer; None if nothing was done."""
    connection.execute("SAVEPOINT together")
    done = settle(connection, now, batch)
    answer = also(connection, now) if len(done) == len(batch) else None
    if answer is None:
        connection.execute("ROLLBACK TO together")
    connection.execute("RELEASE together")
    return answer


def _settle_one(connection: sqlite3.Connection, now: float, receipt: Receipt, effect: Effect) -> bool:
    values: dict[str, Any] = {"job": receipt.job, "token": receipt.token, "now": now}
    if effect.kind == BURIED:
        found = connection.execute(sql.TAKE_BURIED, values).fetchall()
        for queue, envelope in found:
            letter = {"queue": queue, "envelope": envelope, "trail": effect.trail, "reason": effect.reason}
            connection.execute(sql.BURY, values | letter)
        return bool(found)
    trail = effect.trail if effect.kind == RETRIED else None
    return connection.execute(sql.AGAIN, values | {"due": now + effect.after, "trail": trail}).rowcount > 0


def extend(connection: sqlite3.Connection, now: float, held: Iterable[Receipt], lease: float) -> set[str]:
    """Renew leases; return the ids of the jobs that were still leased."""
    by_token: defaultdict[int, list[str]] = defaultdict(list)
    for receipt in held:
        by_token[receipt.token].append(receipt.job)
    done: set[str] = set()
    for token, jobs in by_token.items():
        values = {"jobs": json.dumps(jobs), "token": token, "now": now, "until": now + lease}
        done.update(job for (job,) in connection.execute(sql.EXTEND, values))
    return done


def clean(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Forget the ids of jobs that ended some time ago; return how many. Take no lock if there are none."""
    if connection.execute(sql.ENDED_BEFORE, {"since": now - DEDUP_WINDOW}).fetchone() is None:
        return 0
    return connection.execute(sql.CLEAN, {"since": now - DEDUP_WINDOW, "limit": limit}).rowcount


# ── for people ───────────────────────────────────────────────────────────────────────────────────


def queues(connection: sqlite3.Connection, now: float) -> list[str]:  # noqa: ARG001 - as all of them
    """List the queues."""
    return [queue for (queue,) in connection.execute(sql.QUEUES)]


def stats(connection: sqlite3.Connection, now: float, queue: str) -> QueueStats:
    """Count the jobs of a queue."""
    return stats_of(connection.execute(sql.STATS, {"queue": queue, "now": now}).fetchone())


def peek(
    connection: sqlite3.Connection, now: float, queue: str, place: Literal["ready", "scheduled"], limit: int
) -> list[WaitingJob]:
    """Return the jobs that come next."""
    values: dict[str, Any] = {"queue": queue, "now": now}
    rows: list[tuple[bytes, bytes, float | None]] = []
    for statement in (sql.PEEK_DUE, sql.PEEK_READY) if place == "ready" else (sql.PEEK_SCHEDULED,):
        rows += connection.execute(statement, values | {"limit": limit - len(rows)})
    return [WaitingJob(envelope=envelope, trail=trail, due=due) for envelope, trail, due in rows]


def purge(connection: sqlite3.Connection, now: float, queue: str, limit: int) -> int:
    """Delete up to so many ready and scheduled jobs; return how many."""
    values = {"queue": queue, "now": now, "limit": limit}
    purged = [job for (job,) in connection.execute(sql.PURGE, values)]
    _note_ended(connection, now, purged)
    return len(purged)


def remove(connection: sqlite3.Connection, now: float, queue: str, job_id: str) -> bool:
    """Delete one job that is not leased; return whether it was there."""
    values = {"queue": queue, "job": job_id, "now": now}
    removed = [job for (job,) in connection.execute(sql.REMOVE, values)]
    _note_ended(connection, now, removed)
    return bool(removed)


def locate(connection: sqlite3.Connection, now: float, queue: str, job_id: str) -> Place | None:
    """Return where a job is."""
    found = connection.execute(sql.LOCATE, {"queue": queue, "job": job_id, "now": now}).fetchone()
    return None if found is None else PLACE_NAMES[found[0]]


def delete(connection: sqlite3.Connection, now: float, queue: str) -> None:  # noqa: ARG001 - as all of them
    """Delete a queue and everything in it."""
    for statement in sql.DELETE:
        connection.execute(statement, {"queue": queue})


def letters(connection: sqlite3.Connection, now: float, queue: str, limit: int, after: int) -> list[Letter]:  # noqa: ARG001 - as all of them
    """Return a page of dead letters."""
    values = {"queue": queue, "limit": limit, "after": after}
    return [letter_of(row) for row in connection.execute(sql.LETTERS, values)]


def last_letter(connection: sqlite3.Connection, now: float, queue: str) -> int:  # noqa: ARG001 - as all of them
    """Return the number of the newest dead letter; zero if there is none."""
    [number] = connection.execute(sql.LAST_LETTER, {"queue": queue}).fetchone()
    return number or 0


def letter(connection: sqlite3.Connection, now: float, number: int) -> Letter | None:  # noqa: ARG001 - as all of them
    """Return one dead letter."""
    found = connection.execute(sql.LETTER, {"letter": number}).fetchone()
    return None if found is None else letter_of(found)


def drop(connection: sqlite3.Connection | sqlite3.Cursor, number: int) -> bool:
    """Delete a dead letter; return whether it was there."""
    return connection.execute(sql.DROP, {"letter": number}).rowcount > 0


def _note_ended(connection: sqlite3.Connection, now: float, jobs: Sequence[str]) -> None:
    if jobs:
        connection.execute(sql.NOTE_ENDED, {"jobs": json.dumps(jobs), "now": now})
