"""The in-memory backend: the reference for all others, and the broker of programs that have none.

Real encoding, real leases with expiry, fencing, delays, dead letters; only durability ends with the process.

``ledger.py`` holds all state; the classes here only wait. Time is the event loop's clock, so under a virtual clock days
pass in milliseconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Literal, Self

import anyio
import anyio.lowlevel

from taskcore.backend import Delivery, Features, Letter, LetterWalk, Outgoing, Place, Published, QueueStats, Refused
from taskcore.backends.letter_walks import PlainWalk
from taskcore.backends.memory.ledger import DEDUP_WINDOW, Ledger, letter_number
from taskcore.lifecycle import Verdict
from taskcore.toolkit.capabilities import WaitingJob
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, passed
from taskcore.toolkit.urls import read_options, refuse_url, split_url, whole

__all__ = ["MemoryBackend"]

EXAMPLE = "memory://  or  memory://?limit=10000"
QUEUE_LIMIT = 1_000_000  #: jobs and dead letters that a queue holds unless the URL says otherwise

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
    peek="native",
)


#: No defect, but what ``strict`` is for: an app without a URL uses memory:// as well.
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

    silence: float | None = None  #: see :class:`taskcore.keeping.seam.LendsExtenders`

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
        """Do nothing: there is no server."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Keep the jobs as long as this object."""

    async def diagnose(self) -> Diagnosis:
        """Report what a broker inside this program cannot promise."""
        limit = self._ledger.limit
        size = passed("size", f"a queue holds {limit:,} jobs and dead letters, then it refuses more")
        return Diagnosis(
            server="memory, in this process", durability=FEATURES.durability, checks=(ENDS_WITH_THE_PROCESS, size)
        )

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs until the process ends."""
        now = anyio.current_time()
        return [self._ledger.publish(job, now) for job in batch]

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[MemorySource]:
        """Return a source on these queues, earlier queues first."""
        return _consuming(MemorySource(self._ledger, tuple(queues), lease))

    def extender(self, *, lease: float) -> AbstractAsyncContextManager[MemoryExtender]:  # noqa: ARG002 - as the seam
        """Return an extender; it works in this process only."""
        return _extending()

    def end_lease(self, job_id: str) -> bool:
        """End a job's lease now, as if it had run out; False if the job is not leased. For tests."""
        return self._ledger.expire(job_id, anyio.current_time())


class MemoryExtender:
    """Extends nothing: ``MemorySource.extended`` does, because the leases are in this process."""

    async def extend(self, tickets: Sequence[bytes]) -> Sequence[bytes]:  # noqa: ARG002 - they are all empty
        """Lose nothing."""
        return ()


@asynccontextmanager
async def _extending() -> AsyncIterator[MemoryExtender]:
    yield MemoryExtender()


@asynccontextmanager
async def _consuming(source: MemorySource) -> AsyncIterator[MemorySource]:
    yield source


class MemorySource:
    """One consumer of some queues."""

    def __init__(self, ledger: Ledger, queues: tuple[str, ...], lease: float) -> None:
        self._ledger = ledger
        self._queues = queues
        self._lease = lease

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Return at least one delivery; wait for a publish, a due time or the end of a lease."""
        await anyio.lowlevel.checkpoint()
        while True:
            batch = self._ledger.lease(self._queues, limit, self._lease, anyio.current_time())
            if batch:
                return batch
            await self._ledger.change()

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; return the deliveries whose lease was lost."""
        now = anyio.current_time()
        self._ledger.advance(now)
        return [delivery for delivery, verdict in batch if not self._ledger.settle(delivery, verdict, now)]

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew the leases; return the deliveries whose lease was lost before."""
        now = anyio.current_time()
        self._ledger.advance(now)
        return [delivery for delivery in batch if not self._ledger.extend(delivery, now + self._lease)]

    # ── leases that another thread extends ──

    def ticket(self, delivery: Delivery) -> bytes | None:
        """Return nothing that an extender has to know, unless the lease has ended."""
        return b"" if delivery.receipt.valid else None

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Put off the ends of these leases; that of a settled one is read no more."""
        for delivery in batch:
            delivery.receipt.expires = at + self._lease

    def stood_still(self, seconds: float) -> None:
        """Do nothing: nothing is on its way."""


class MemoryAdmin:
    """Counts, purging, removing, dead letters."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def queues(self) -> Sequence[str]:
        """Return the queues that exist."""
        return sorted(self._ledger.queues)

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Return how full each queue is."""
        now = anyio.current_time()
        self._ledger.advance(now)
        return [self._ledger.stats(queue, now) for queue in queues]

    async def peek(self, queue: str, place: Literal["ready", "scheduled"], *, limit: int) -> Sequence[WaitingJob]:
        """Return the jobs that come next."""
        now = anyio.current_time()
        self._ledger.advance(now)
        return self._ledger.peek(queue, place, limit, now)

    async def purge(self, queue: str) -> int:
        """Delete all ready and scheduled jobs of the queue; return how many."""
        return self._ledger.purge(queue, anyio.current_time())

    async def delete(self, queue: str) -> None:
        """Delete the queue and everything in it."""
        self._ledger.delete(queue, anyio.current_time())

    async def remove(self, queue: str, job_id: str) -> bool:
        """Delete one ready or scheduled job; return whether it was there."""
        return self._ledger.remove(queue, job_id, anyio.current_time())

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return dead letters, oldest first, a page at a time."""
        found = self._ledger.queues.get(queue)
        behind = letter_number(after) if after else 0
        letters = (one for one in (found.letters.values() if found else ()) if letter_number(one.id) > behind)
        return list(islice(letters, limit))

    @asynccontextmanager
    async def walk(self, queue: str) -> AsyncIterator[LetterWalk]:
        """Begin a pass over dead letters."""
        yield MemoryWalk(self, self._ledger, queue)

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Return where the job is now."""
        return self._ledger.locate(queue, job_id, anyio.current_time())

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        return self._ledger.letter(letter_id)

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and delete the letter, in one step."""
        published = self._ledger.publish(job, anyio.current_time(), replaces=1)
        if not isinstance(published, Refused):
            self._ledger.drop(letter_id)
        return published

    async def drop(self, letter_id: str) -> bool:
        """Delete a dead letter; return whether it was there."""
        return self._ledger.drop(letter_id)


class MemoryWalk(PlainWalk):
    """A pass over the dead letters that a queue has now."""

    def __init__(self, admin: MemoryAdmin, ledger: Ledger, queue: str) -> None:
        super().__init__(admin)
        self._ledger = ledger
        found = ledger.queues.get(queue)
        self._ids = iter(list(found.letters) if found is not None else ())

    async def page(self, limit: int) -> Sequence[Letter]:
        """Return the next letters that are still there."""
        await anyio.lowlevel.checkpoint()
        still = (letter for letter in map(self._ledger.letter, self._ids) if letter is not None)
        return list(islice(still, limit))


def _read_limit(url: str) -> int:
    parts = split_url(url, example=EXAMPLE)
    problems: list[str] = []
    options = read_options(parts.query, {"limit": whole(1)}, problems)
    if parts.netloc or parts.path.strip("/") or parts.fragment:
        problems.append("memory:// takes no host and no path: every App has a memory of its own")
    if problems:
        refuse_url(url, problems, example=EXAMPLE)
    return int(options.get("limit", QUEUE_LIMIT))
