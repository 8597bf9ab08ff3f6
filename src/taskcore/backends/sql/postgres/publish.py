"""Publishing: one transaction for a batch, answered job by job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg

from taskcore.backend import STORED, Duplicate, Outgoing, Published, Refused, Uncertain
from taskcore.backends.sql.messages import LONGEST_DELAY, answers_of, publish_parts
from taskcore.backends.sql.postgres.consumer import LONGEST_WAIT
from taskcore.backends.sql.postgres.layout import DROP, INSERT, UNDO
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection, is_refusal
from taskcore.errors import BrokerUnavailable

__all__ = ["PostgresPublisher", "columns_of"]

ENDED_BY_ADMIN: Final = "57P"  #: states of SQL that end a connection, perhaps behind the commit


class PostgresPublisher:
    """Stores jobs.

    :param wake: is called with the queues where a worker may have to wake up.
    """

    def __init__(self, pool: PostgresPool, wake: Callable[[Iterable[str]], None]) -> None:
        self._pool = pool
        self._wake = wake

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        return await publish_parts(batch, self._publish_part)

    async def replay(self, letter: int | None, job: Outgoing) -> Published:
        """Store a job and delete its dead letter, in one transaction.

        :raises BrokerUnavailable: surely neither was done.
        """
        [answer] = await publish_parts([job], lambda jobs: self._publish_part(jobs, letter=letter))
        return answer

    async def _publish_part(self, part: Sequence[Outgoing], *, letter: int | None = None) -> Sequence[Published]:
        """Store some jobs in one transaction; with ``letter``, delete that dead letter in it.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        began = False

        async def store(connection: Connection) -> list[Published]:
            nonlocal began
            began = True
            return await _store(connection, part, letter)

        try:
            answers = await self._pool.run(store)
        except BrokerUnavailable as error:
            if error.__cause__ is not None and is_refusal(error.__cause__):
                return await self._publish_apart(part, letter, error.__cause__)
            if not began or _is_undone(error.__cause__):
                raise
            try:
                again = await self._pool.run(store)
            except BrokerUnavailable:
                return [Uncertain(error.what)] * len(part)
            answers = [STORED if isinstance(one, Duplicate) else one for one in again]  # by the first try, most likely
        self._wake({job.queue for job in part if job.delay <= LONGEST_WAIT})
        return answers

    async def _publish_apart(
        self, part: Sequence[Outgoing], letter: int | None, error: BaseException | None
    ) -> Sequence[Published]:
        """Store each job in its own transaction: the server refuses one of them, which undid the others."""
        if len(part) == 1:
            return [Refused(f"PostgreSQL refuses the job: {' '.join(str(error).split())}")]
        return [answer for job in part for answer in await self._publish_part([job], letter=letter)]


async def _store(connection: Connection, jobs: Sequence[Outgoing], letter: int | None) -> list[Published]:
    """Send all statements at once; they are one transaction."""
    inserting, undoing = connection.cursor(binary=True), connection.cursor(binary=True)
    columns = columns_of(jobs)
    async with connection.pipeline():
        await inserting.execute(INSERT, columns, prepare=True)
        await undoing.execute(UNDO, {"jobs": columns["jobs"]}, prepare=True)
        if letter is not None:
            await connection.execute(DROP, {"letter": letter})
    stored = {job for (job,) in await inserting.fetchall()}
    stored.difference_update(job for (job,) in await undoing.fetchall())
    return answers_of(jobs, stored)


def columns_of(jobs: Sequence[Outgoing]) -> dict[str, Any]:
    """Return the jobs as the statement takes them."""
    return {
        "queues": [job.queue for job in jobs],
        "jobs": [job.id for job in jobs],
        "delays": [min(float(job.delay), LONGEST_DELAY) for job in jobs],
        "envelopes": [job.envelope for job in jobs],
        "trails": [job.trail for job in jobs],
    }


def _is_undone(error: BaseException | None) -> bool:
    """Tell whether the server has answered that nothing was done."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return bool(state) and not str(state).startswith(ENDED_BY_ADMIN)
