"""RedisAdmin: counts, purging, removing, dead letters.

A letter's id is its queue and its place in the stream of letters: ``mail:1795354263381-0``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from taskcore.backend import Letter, Outgoing, Place, Published, QueueStats, Refused, Uncertain
from taskcore.backends.redis.layout import PLACE, PURGE, STATS, Keys
from taskcore.connections.redis import RedisLink

__all__ = ["RedisAdmin"]

PORTION: Final = 1000  #: jobs that one script forgets
PLACES: Final[Mapping[bytes | None, Place]] = {b"ready": "ready", b"scheduled": "scheduled", b"leased": "leased"}
ENTRY: Final = re.compile(r"\d+-\d+")


class Publish(Protocol):
    """How the backend stores jobs of one queue; with ``letter``, that letter goes in the same step."""

    def __call__(self, queue: str, jobs: Sequence[Outgoing], *, letter: str = "") -> Awaitable[list[Published]]: ...


class RedisAdmin:
    """Counts, purging, removing, dead letters."""

    def __init__(self, link: RedisLink, keys_of: Callable[[str], Keys], publish: Publish, registered: set[str]) -> None:
        self._link = link
        self._keys_of = keys_of
        self._publish = publish
        self._registered = registered
        self._list = f"{link.options.prefix}:queues"

    # ── queues ──

    async def queues(self) -> Sequence[str]:
        """The queues that exist."""
        [names] = await self._link.call("ask", self._list, ("SMEMBERS", self._list))
        return sorted(name.decode(errors="replace") for name in names)

    async def stats(self, queue: str) -> QueueStats:
        """How full the queue is."""
        [counts] = await self._link.run("ask", STATS, self._keys_of(queue).stats, ())
        ready, leased, scheduled, dead, oldest = counts
        return QueueStats(
            ready=ready, leased=leased, scheduled=scheduled, dead=dead, oldest=None if oldest < 0 else oldest / 1000
        )

    async def purge(self, queue: str) -> int:
        """Forget all jobs that are ready or scheduled, some at a time; returns how many."""
        keys = self._keys_of(queue)
        total = 0
        while True:
            [forgotten] = await self._link.run("ask", PURGE, keys.purge, (PORTION,))
            total += int(forgotten)
            if forgotten < PORTION:
                return total

    async def delete(self, queue: str) -> None:
        """Forget the queue and everything in it."""
        keys = self._keys_of(queue).all
        self._registered.discard(queue)
        await self._link.call("ask", keys[0], ("UNLINK", *keys))
        await self._link.call("ask", self._list, ("SREM", self._list, queue))

    # ── jobs ──

    async def remove(self, queue: str, job_id: str) -> bool:
        """Forget one job that nobody holds; True if it was there."""
        [place] = await self._link.run("ask", PLACE, self._keys_of(queue).place, (job_id, 1))
        return place in {b"ready", b"scheduled"}

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Where the job is now."""
        [place] = await self._link.run("ask", PLACE, self._keys_of(queue).place, (job_id, 0))
        return PLACES.get(place)

    # ── dead letters ──

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Dead letters, oldest first, a page at a time."""
        key = self._keys_of(queue).letters
        place = _place(after)
        start = f"({place[1]}" if place is not None else "-"
        [found] = await self._link.call("ask", key, ("XRANGE", key, start, "+", "COUNT", limit))
        return [_letter(queue, entry, fields) for entry, fields in found]

    async def letter(self, letter_id: str) -> Letter | None:
        """One dead letter."""
        place = _place(letter_id)
        if place is None:
            return None
        queue, entry = place
        key = self._keys_of(queue).letters
        [found] = await self._link.call("ask", key, ("XRANGE", key, entry, entry))
        return _letter(queue, *found[0]) if found else None

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and drop the letter: in one step if it goes back to its queue, else in this order."""
        place = _place(letter_id)
        here = place is not None and place[0] == job.queue
        [published] = await self._publish(job.queue, [job], letter=place[1] if here and place is not None else "")
        if not here and not isinstance(published, Refused | Uncertain):
            await self.drop(letter_id)
        return published

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter."""
        place = _place(letter_id)
        if place is None:
            return False
        key = self._keys_of(place[0]).letters
        [dropped] = await self._link.call("ask", key, ("XDEL", key, place[1]))
        return bool(dropped)


def _place(letter_id: str | None) -> tuple[str, str] | None:
    """Queue and entry of a letter; None for what cannot be one of ours."""
    queue, colon, entry = (letter_id or "").rpartition(":")
    return (queue, entry) if colon and ENTRY.fullmatch(entry) else None


def _letter(queue: str, entry: bytes, fields: Sequence[Any]) -> Letter:
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    return Letter(
        id=f"{queue}:{entry.decode()}",
        queue=queue,
        envelope=found.get(b"e", b" ".join(fields)),
        trail=found.get(b"t", b""),
        reason=found.get(b"r", b"").decode(errors="replace"),
        when=int(entry.partition(b"-")[0]) / 1000,
    )
