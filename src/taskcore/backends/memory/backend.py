"""The in-memory backend: the reference for all others, and the broker of programs that have none.

Real encoding, real leases with expiry, fencing, delays, dead letters; only durability ends with the process.

``memory_ledger.py`` holds the whole truth; the classes here only wait. Time is the event loop's clock, so under a
virtual clock days pass in milliseconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.lowlevel

from taskcore.backend import Delivery, Features, Letter, Outgoing, Place, Published, QueueStats, Refused
from taskcore.backends.memory.ledger import DEDUP_WINDOW, LEASED, READY, SCHEDULED, Ledger, number
from taskcore.errors import InvalidURL
from taskcore.lifecycle import Verdict
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck

__all__ = ["MemoryBackend"]

LIMIT = 1_000_000  #: jobs and dead letters that a queue holds unless the URL says otherwise

FEATURES = Features(
    broker="memory",
    durability="jobs live in this process and end with it",
    survives_worker=True,
    survives_broker=False,
    delay="native",
    delay_error=0.0,
    dedup="native",
    dedup_window=DEDUP_WINDOW,
    fencing="native",
    redeliveries="native",
    remove="native",
    locate="native",
    dead_letters="native",
    atomic_retry=True,
)


#: By design, so no defect. But it is what ``strict`` is for: memory:// is also what holds if nobody names a broker.
ENDS_WITH_THE_PROCESS = DiagnosticCheck(
    name="durability",
    level="ok",
    text="jobs live in this process and end with it, also those that were confirmed",
    fix="name a broker: url, or TASKCORE_URL; in tests and on one machine this may be what you want",
    clauses=("C1",),
)


class MemoryBackend:
    """Queues in this process: ``memory://`` or ``memory://?limit=N`` (jobs a queue holds before it refuses).

    :raises InvalidURL: a host, a path or an unknown option (TC103).
    """

    def __init__(self, url: str = "memory://") -> None:
        self._ledger = Ledger(limit=_read_limit(url))

    @property
    def features(self) -> Features:
        """What the in-memory broker can do."""
        return FEATURES

    @property
    def admin(self) -> MemoryAdmin:
        """Counts, purging, removing, dead letters."""
        return MemoryAdmin(self._ledger)

    async def __aenter__(self) -> Self:
        """Nothing to connect to."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The jobs stay as long as this object."""

    async def diagnose(self) -> Diagnosis:
        """What is to be known of a broker that is a part of this program."""
        limit = self._ledger.limit
        bound = DiagnosticCheck(
            name="size", level="ok", text=f"a queue holds {limit:,} jobs and dead letters, then it refuses more"
        )
        return Diagnosis(
            server="memory, in this process", durability=FEATURES.durability, checks=(ENDS_WITH_THE_PROCESS, bound)
        )

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs until the process ends."""
        now = anyio.current_time()
        return [self._ledger.publish(job, now) for job in batch]

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[MemorySource]:
        """A source on these queues, earlier queues first."""
        return _consuming(MemorySource(self._ledger, tuple(queues), lease))

    def end_lease(self, job_id: str) -> bool:
        """End a job's lease now, as if its holder had been silent for too long; False if nobody holds it. For tests."""
        return self._ledger.expire(job_id, anyio.current_time())


@asynccontextmanager
async def _consuming(source: MemorySource) -> AsyncIterator[MemorySource]:
    yield source


class MemorySource:
    """One consumer's hold on some queues."""

    def __init__(self, ledger: Ledger, queues: tuple[str, ...], lease: float) -> None:
        self._ledger = ledger
        self._queues = queues
        self._lease = lease

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """At least one delivery; waits for a publish, a due time or the end of somebody's lease."""
        await anyio.lowlevel.checkpoint()
        while True:
            batch = self._ledger.lease(self._queues, limit, self._lease, anyio.current_time())
            if batch:
                return batch
            await self._ledger.change()

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; returns those whose lease was lost."""
        now = anyio.current_time()
        self._ledger.advance(now)
        return [delivery for delivery, verdict in batch if not self._ledger.settle(delivery, verdict, now)]

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Start the leases anew; returns those that were lost before."""
        now = anyio.current_time()
        self._ledger.advance(now)
        return [delivery for delivery in batch if not self._ledger.extend(delivery, now + self._lease)]


class MemoryAdmin:
    """Counts, purging, removing, dead letters."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def queues(self) -> Sequence[str]:
        """The queues that exist."""
        return sorted(self._ledger.queues)

    async def stats(self, queue: str) -> QueueStats:
        """How full the queue is."""
        now = anyio.current_time()
        self._ledger.advance(now)
        shelf = self._ledger.queues.get(queue)
        if shelf is None:
            return QueueStats(ready=0, leased=0, scheduled=0, dead=0)
        oldest = next((now - job.since for job in shelf.ready if job.place is READY), None)
        counts = shelf.counts
        return QueueStats(
            ready=counts[READY],
            leased=counts[LEASED],
            scheduled=counts[SCHEDULED],
            dead=len(shelf.letters),
            oldest=oldest,
        )

    async def purge(self, queue: str) -> int:
        """Forget all ready and scheduled jobs of the queue; returns how many."""
        return self._ledger.purge(queue, anyio.current_time())

    async def delete(self, queue: str) -> None:
        """Forget the queue and everything in it."""
        self._ledger.delete(queue, anyio.current_time())

    async def remove(self, queue: str, job_id: str) -> bool:
        """Forget one ready or scheduled job; True if it was there."""
        return self._ledger.remove(queue, job_id, anyio.current_time())

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Dead letters, oldest first, a page at a time."""
        shelf = self._ledger.queues.get(queue)
        behind = number(after) if after else 0
        letters = (letter for letter in (shelf.letters.values() if shelf else ()) if number(letter.id) > behind)
        return list(islice(letters, limit))

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Where the job is now."""
        return self._ledger.locate(queue, job_id, anyio.current_time())

    async def letter(self, letter_id: str) -> Letter | None:
        """One dead letter."""
        return self._ledger.letter(letter_id)

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and drop the letter, in one step."""
        published = self._ledger.publish(job, anyio.current_time(), replaces=1)
        if not isinstance(published, Refused):
            self._ledger.drop(letter_id)
        return published

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter."""
        return self._ledger.drop(letter_id)


def _read_limit(url: str) -> int:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    text = options.pop("limit", str(LIMIT))
    problems = [f"unknown option {name!r}; memory:// knows: limit" for name in options]
    if parts.netloc or parts.path.strip("/") or parts.fragment:
        problems.append("memory:// takes no host and no path: every App has a memory of its own")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        problems.append(f"limit: expected a whole number above 0, got {text!r}")
    if problems:
        raise InvalidURL(f"cannot use the URL {url!r}", facts=problems, fix="memory://  or  memory://?limit=10000")
    return int(text)
