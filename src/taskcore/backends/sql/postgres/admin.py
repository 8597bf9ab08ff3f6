"""PostgresAdmin: counts, purging, removing, dead letters. The id of a dead letter is the number of its row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats
from taskcore.backends.letter_walks import PagedWalk
from taskcore.backends.sql.messages import PLACE_NAMES, KnownCounts, letter_number, letter_of, row_number, stats_of
from taskcore.backends.sql.postgres import layout as sql
from taskcore.backends.sql.postgres.publish import PostgresPublisher
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.capabilities import WaitingJob

__all__ = ["PostgresAdmin"]

AT_ONCE: Final = 3  #: queues that are counted at a time
PURGE_BATCH: Final = 1_000  #: jobs deleted in one statement


class PostgresAdmin:
    """Counts, purging, removing, dead letters."""

    def __init__(self, pool: PostgresPool, publisher: PostgresPublisher, counts: KnownCounts) -> None:
        self._pool = pool
        self._counts = counts
        self._publisher = publisher

    # ── queues ──

    async def queues(self) -> Sequence[str]:
        """Return the queues that have jobs or dead letters, or on which a worker has waited."""
        return sorted(queue for (queue,) in await self._ask(sql.QUEUES, {}))

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Return how full each queue is; their jobs are counted one by one, those of a long queue not each time."""
        return await gather_limited(lambda queue: self._counts.of(queue, self._count), queues, limit=AT_ONCE)

    async def _count(self, queue: str) -> QueueStats:
        [row] = await self._ask(sql.STATS, {"queue": queue})
        return stats_of(row)

    async def peek(self, queue: str, place: Literal["ready", "scheduled"], *, limit: int) -> Sequence[WaitingJob]:
        """Return the jobs that come next."""
        statement = sql.PEEK_READY if place == "ready" else sql.PEEK_SCHEDULED
        rows = await self._ask(statement, {"queue": queue, "limit": limit})
        return [WaitingJob(envelope=envelope, trail=trail, due=due) for envelope, trail, due in rows]

    async def purge(self, queue: str) -> int:
        """Delete all jobs that are ready or scheduled, a batch at a time; return how many."""
        total: int = 0
        while True:
            [(purged,)] = await self._ask(sql.PURGE, {"queue": queue, "limit": PURGE_BATCH}, repeatable=False)
            total += purged
            if not purged:
                self._counts.forget(queue)
                return total

    async def delete(self, queue: str) -> None:
        """Delete the queue and everything in it."""

        async def delete(connection: Connection) -> None:
            async with connection.transaction():
                for statement in sql.DELETE:
                    await connection.execute(statement.encode(), {"queue": queue})

        await self._pool.run(delete, repeatable=True)
        self._counts.forget(queue)

    # ── jobs ──

    async def remove(self, queue: str, job_id: str) -> bool:
        """Delete one job that is not leased; return whether it was there."""
        [(removed,)] = await self._ask(sql.REMOVE, {"queue": queue, "job": job_id}, repeatable=False)
        return bool(removed)

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Return where the job is now."""
        rows = await self._ask(sql.LOCATE, {"queue": queue, "job": job_id})
        return PLACE_NAMES[rows[0][0]] if rows else None

    # ── dead letters ──

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        values = {"queue": queue, "limit": limit, "after": letter_number(after) or 0}
        return [letter_of(row) for row in await self._ask(sql.LETTERS, values)]

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[PagedWalk]:
        """Begin a pass over dead letters."""
        [(last,)] = await self._ask(sql.LAST_LETTER, {"queue": queue})
        yield PagedWalk(self, queue, row_number, last or 0)

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        number = letter_number(letter_id)
        rows = await self._ask(sql.LETTER, {"letter": number}) if number is not None else []
        return letter_of(rows[0]) if rows else None

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and delete the letter, in one transaction."""
        return await self._publisher.replay(letter_number(letter_id), job)

    async def drop(self, letter_id: str) -> bool:
        """Delete a dead letter; return whether it was there."""
        number = letter_number(letter_id)
        if number is None:
            return False

        async def drop(connection: Connection) -> int:
            return (await connection.execute(sql.DROP, {"letter": number})).rowcount

        return bool(await self._pool.run(drop))

    async def _ask(
        self, statement: str, values: Mapping[str, Any], *, repeatable: bool = True
    ) -> list[tuple[Any, ...]]:
        async def ask(connection: Connection) -> list[tuple[Any, ...]]:
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(statement.encode(), values)
                return await cursor.fetchall()

        return await self._pool.run(ask, repeatable=repeatable)
