"""RedisAdmin: counts, purging, removing, dead letters.

The id of a dead letter is its queue and its entry in the stream of letters: ``mail:1795354263381-0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats, Refused, Uncertain
from taskcore.backends.redis.layout import PLACE, PURGE, STATS
from taskcore.backends.redis.messages import letter_of, split_letter_id
from taskcore.backends.redis.publish import RedisPublisher
from taskcore.connections.redis import RedisLink

__all__ = ["RedisAdmin"]

PURGE_BATCH: Final = 1000  #: jobs that one script deletes
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

    async def stats(self, queue: str) -> QueueStats:
        """Return how full the queue is."""
        [counts] = await self._link.run("ask", STATS, self._keys_of(queue).stats, ())
        ready, leased, scheduled, dead, oldest = counts
        return QueueStats(
            ready=ready, leased=leased, scheduled=scheduled, dead=dead, oldest=None if oldest < 0 else oldest / 1000
        )

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
        [found] = await self._link.call("ask", key, ("XRANGE", key, start, "+", "COUNT", limit))
        return [letter_of(queue, entry, fields) for entry, fields in found]

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        place = split_letter_id(letter_id)
        if place is None:
            return None
        queue, entry = place
        key = self._keys_of(queue).letters
        [found] = await self._link.call("ask", key, ("XRANGE", key, entry, entry))
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
