"""SqliteAdmin: counts, purging, removing, dead letters. The id of a dead letter is the number of its row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats, Refused
from taskcore.backends.letter_walks import PagedWalk
from taskcore.backends.sql.messages import KnownCounts, letter_number, publish_parts, row_number
from taskcore.backends.sql.sqlite import ledger
from taskcore.backends.sql.sqlite.consumer import SqliteQueues
from taskcore.connections.sqlite.works import ValueRefused
from taskcore.toolkit.capabilities import WaitingJob

__all__ = ["SqliteAdmin"]

PURGE_BATCH: Final = 1_000  #: jobs deleted in one transaction


class SqliteAdmin:
    """Counts, purging, removing, dead letters."""

    def __init__(self, file: SqliteQueues, counts: KnownCounts) -> None:
        self._file = file
        self._counts = counts

    # ── queues ──

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        return await self._file.look(ledger.queues)

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Return how full each queue is; their jobs are counted one by one, those of a long queue not each time."""
        return [await self._counts.of(queue, self._count) for queue in queues]

    async def _count(self, queue: str) -> QueueStats:
        return await self._file.look(lambda connection, now: ledger.stats(connection, now, queue))

    async def peek(self, queue: str, place: Literal["ready", "scheduled"], *, limit: int) -> Sequence[WaitingJob]:
        """Return the jobs that come next."""
        return await self._file.look(lambda connection, now: ledger.peek(connection, now, queue, place, limit))

    async def purge(self, queue: str) -> int:
        """Delete all jobs that are ready or scheduled, a batch at a time; return how many."""
        total = 0
        while True:
            purged = await self._file.do(lambda connection, now: ledger.purge(connection, now, queue, PURGE_BATCH))
            total += purged
            if purged < PURGE_BATCH:
                self._counts.forget(queue)
                return total

    async def delete(self, queue: str) -> None:
        """Delete the queue and everything in it."""
        await self._file.do(lambda connection, now: ledger.delete(connection, now, queue))
        self._counts.forget(queue)

    # ── jobs ──

    async def remove(self, queue: str, job_id: str) -> bool:
        """Delete one job that is not leased; return whether it was there."""
        return await self._file.do(lambda connection, now: ledger.remove(connection, now, queue, job_id))

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Return where the job is now."""
        return await self._file.look(lambda connection, now: ledger.locate(connection, now, queue, job_id))

    # ── dead letters ──

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        behind = letter_number(after) or 0
        return await self._file.look(lambda connection, now: ledger.letters(connection, now, queue, limit, behind))

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[PagedWalk]:
        """Begin a pass over dead letters."""
        last = await self._file.look(lambda connection, now: ledger.last_letter(connection, now, queue))
        yield PagedWalk(self, queue, row_number, last)

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        number = letter_number(letter_id)
        if number is None:
            return None
        return await self._file.look(lambda connection, now: ledger.letter(connection, now, number))

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and delete the letter, in one transaction."""
        number = letter_number(letter_id)

        async def replay(jobs: Sequence[Outgoing]) -> Sequence[Published]:
            try:
                return await self._file.do(lambda connection, now: ledger.publish(connection, now, jobs, number))
            except ValueRefused as error:
                return [Refused(error.what)]

        [published] = await publish_parts([job], replay)
        self._file.wake()
        return published

    async def drop(self, letter_id: str) -> bool:
        """Delete a dead letter; return whether it was there."""
        number = letter_number(letter_id)
        if number is None:
            return False
        return await self._file.do(lambda connection, _: ledger.drop(connection, number))
