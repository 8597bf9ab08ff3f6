"""RedisAdmin: counts, purging, removing, dead letters.

The id of a dead letter is its queue and its entry in the stream of letters: ``mail:1795354263381-0``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats, Refused, Uncertain
from taskcore.backends.letter_walks import PagedWalk
from taskcore.backends.redis.layout import HEADS, PEEK, PLACE, PURGE, STATS
from taskcore.backends.redis.messages import letter_number, letter_of, split_letter_id
from taskcore.backends.redis.publish import RedisPublisher
from taskcore.connections.redis import RedisLink, ReplyLost
from taskcore.connections.redis.large_replies import SENT_ALWAYS
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.capabilities import WaitingJob

__all__ = ["RedisAdmin"]

PURGE_BATCH: Final = 1000  #: jobs that one script deletes
COUNTED_AT_ONCE: Final = 50  #: queues that are counted at a time
WHOLE_LETTER: Final = 2**53  #: bytes of what is shown whole
LETTER_PART: Final = SENT_ALWAYS // 4  #: bytes of each part of a letter that is not
PLACE_NAMES: Final[Mapping[bytes | None, Place]] = {b"ready": "ready", b"scheduled": "scheduled", b"leased": "leased"}


class RedisAdmin:
    """Counts, purging, removing, dead letters."""

    def __init__(self, link: RedisLink, publisher: RedisPublisher) -> None:
        self._link = link
        self._publisher = publisher
        self._keys_of = publisher.keys_of

    # ── queues ──

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        key = self._publisher.queues_key
        [names] = await self._link.call("ask", key, ("SMEMBERS", key))
        return sorted(name.decode(errors="replace") for name in names)

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Return how full each queue is."""
        return await gather_limited(self._stats, queues, limit=COUNTED_AT_ONCE)

    async def _stats(self, queue: str) -> QueueStats:
        [counts] = await self._link.run("ask", STATS, self._keys_of(queue).stats, ())
        ready, leased, scheduled, dead, oldest = counts
        return QueueStats(
            ready=ready, leased=leased, scheduled=scheduled, dead=dead, oldest=None if oldest < 0 else oldest / 1000
        )

    async def peek(self, queue: str, place: Literal["ready", "scheduled"], *, limit: int) -> Sequence[WaitingJob]:
        """Return the jobs that come next."""
        keys, most = self._keys_of(queue).peek, WHOLE_LETTER
        while True:
            try:
                [found] = await self._link.run("ask", PEEK, keys, (place, limit, most))
                break
            except ReplyLost as lost:
                if not lost.cut or most == LETTER_PART:
                    raise
                limit, most = max(limit // 2, 1), LETTER_PART if limit == 1 else WHOLE_LETTER
        return [
            WaitingJob(envelope=envelope, trail=trail, due=due / 1000 if place == "scheduled" else None)
            for envelope, trail, due in found
        ]

    async def purge(self, queue: str) -> int:
        """Delete all jobs that are ready or scheduled, a batch at a time; return how many."""
        keys = self._keys_of(queue)
        total = 0
        while True:
            [deleted] = await self._link.run("ask", PURGE, keys.purge, (PURGE_BATCH,))
            total += int(deleted)
            if deleted < PURGE_BATCH:
                return total

    async def delete(self, queue: str) -> None:
        """Delete the queue and everything in it."""
        keys = self._keys_of(queue).all
        await self._link.call("ask", keys[0], ("UNLINK", *keys))
        await self._publisher.unregister(queue)

    # ── jobs ──

    async def remove(self, queue: str, job_id: str) -> bool:
        """Delete one job that is not leased; return whether it was there."""
        [place] = await self._link.run("ask", PLACE, self._keys_of(queue).place, (job_id, 1))
        return place in {b"ready", b"scheduled"}

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Return where the job is now."""
        [place] = await self._link.run("ask", PLACE, self._keys_of(queue).place, (job_id, 0))
        return PLACE_NAMES.get(place)

    # ── dead letters ──

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        key = self._keys_of(queue).letters
        place = split_letter_id(after)
        start = f"({place[1]}" if place is not None else "-"
        return [letter_of(queue, *entry) for entry in await self._entries(key, "XRANGE", start, "+", limit=limit)]

    async def _entries(self, key: str, command: str, start: str, end: str, *, limit: int = 1) -> Sequence[Any]:
        """Read letters; fewer of them if the server does not send so many bytes, and of one alone its beginning."""
        while True:
            try:
                [found] = await self._link.call("ask", key, (command, key, start, end, "COUNT", limit))
            except ReplyLost as lost:
                if not lost.cut:
                    raise
            else:
                return list(found)
            if limit == 1:
                [found] = await self._link.run("ask", HEADS, (key,), (command, start, end, LETTER_PART))
                return list(found)
            limit //= 2

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[PagedWalk]:
        """Begin a pass over dead letters."""
        key = self._keys_of(queue).letters
        newest = await self._entries(key, "XREVRANGE", "+", "-")
        last = letter_of(queue, *newest[0]).id if newest else ""
        yield PagedWalk(self, queue, letter_number, letter_number(last))

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        place = split_letter_id(letter_id)
        if place is None:
            return None
        queue, entry = place
        key = self._keys_of(queue).letters
        found = await self._entries(key, "XRANGE", entry, entry)
        return letter_of(queue, *found[0]) if found else None

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and delete the letter: in one step if it goes back to its queue, else in this order."""
        place = split_letter_id(letter_id)
        here = place is not None and place[0] == job.queue
        [published] = await self._publisher.publish_in(job.queue, [job], letter=place[1] if here and place else "")
        if not here and not isinstance(published, Refused | Uncertain):
            await self.drop(letter_id)
        return published

    async def drop(self, letter_id: str) -> bool:
        """Delete a dead letter; return whether it was there."""
        place = split_letter_id(letter_id)
        if place is None:
            return False
        key = self._keys_of(place[0]).letters
        [dropped] = await self._link.call("ask", key, ("XDEL", key, place[1]))
        return bool(dropped)
