"""Every queue, job and lease of the in-memory backend, in synchronous code; only ``change`` waits.

A job is in exactly one place:

    publish ─▶ ready ◀─────┬──────────┐           delay, Retry(after) ─▶ scheduled ─(due)─▶ ready
                 │ lease   │ Release  │ lease ran out, redeliveries + 1
                 ▼         │          │
               leased ─────┴──────────┘           Ack ─▶ gone        Bury ─▶ dead letters

The caller passes the time, in seconds of the event loop's clock.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import count, islice
from typing import Final, assert_never

import anyio
import msgspec

from taskcore.backend import DUPLICATE, STORED, Delivery, Letter, Outgoing, Place, Published, QueueStats, Refused
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.toolkit.capabilities import WaitingJob

__all__ = ["DEDUP_WINDOW", "LEASED", "READY", "SCHEDULED", "Ledger", "letter_number"]

DEDUP_WINDOW = 60.0  #: seconds for which the id of an ended job is remembered …
DEDUP_IDS = 100_000  #: … unless more than this many have ended since
MAX_STALE_TIMERS = 10_000  #: timers of jobs that are gone, before they are removed

READY: Final = 0
SCHEDULED: Final = 1
LEASED: Final = 2
GONE: Final = 3

PLACE_NAMES: Final[tuple[Place, ...]] = ("ready", "scheduled", "leased")


class StoredJob(msgspec.Struct, gc=False, eq=False):
    """A job and its place.

    ``fence`` grows with each lease; ``since`` is when it joined the queue, ``expires`` when its delay is over.
    """

    id: str
    queue: MemoryQueue
    envelope: bytes
    trail: bytes
    redeliveries: int = 0
    fence: int = 0
    place: int = GONE
    since: float = 0.0
    expires: float = 0.0


class Receipt(msgspec.Struct, gc=False, eq=False):
    """A lease: valid as long as the job is leased under this fence. Another thread may put off its end."""

    job: StoredJob
    fence: int
    expires: float

    @property
    def valid(self) -> bool:
        return self.job.fence == self.fence and self.job.place is LEASED


class MemoryQueue:
    """One queue. A job removed from the middle stays in ``ready``, marked by its place, until it is met."""

    __slots__ = ("counts", "letters", "name", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[StoredJob] = deque()
        self.letters: dict[str, Letter] = {}
        self.counts = [0, 0, 0, 0]

    @property
    def size(self) -> int:
        return self.counts[READY] + self.counts[SCHEDULED] + self.counts[LEASED] + len(self.letters)


class Ledger:
    """Every queue, every job, every lease."""

    def __init__(self, *, limit: int) -> None:
        self.queues: dict[str, MemoryQueue] = {}
        self.limit = limit
        self._jobs: dict[str, StoredJob] = {}  # by id, all that are not gone
        self._ended: OrderedDict[str, float] = OrderedDict()  # id → when, oldest first
        self._due: list[tuple[float, int, StoredJob]] = []  # heap of scheduled jobs
        self._leases: list[tuple[float, int, list[Receipt]]] = []  # heap of batches
        self._receipts = 0  # how many receipts are in it, settled ones included
        self._order = count()
        self._letters = count(1)
        self._waiting: set[anyio.Event] = set()

    def publish(self, item: Outgoing, now: float, *, replaces: int = 0) -> Published:
        """Store one job; ``replaces`` is the number of letters that leave in the same step."""
        queue = self.queues.get(item.queue)
        if queue is None:
            queue = self.queues[item.queue] = MemoryQueue(item.queue)
        if item.id in self._jobs or self._ended_lately(item.id, now):
            return DUPLICATE
        if queue.size - replaces >= self.limit:
            return Refused(f'queue "{item.queue}" is full: it holds {queue.size:,} jobs and dead letters, its limit')
        job = self._jobs[item.id] = StoredJob(item.id, queue, item.envelope, item.trail)
        if item.delay > 0:
            self._schedule(job, now + item.delay)
        else:
            self._make_ready(job, now)
        return STORED

    def lease(self, queues: Iterable[str], limit: int, lease: float, now: float) -> list[Delivery]:
        """Lease up to ``limit`` ready jobs, earlier queues first."""
        self.advance(now)
        expires = now + lease
        taken: list[Delivery] = []
        receipts: list[Receipt] = []
        for queue in [self.queues[name] for name in queues if name in self.queues]:
            before, ready = len(taken), queue.ready
            while ready and len(taken) < limit:
                job = ready.popleft()
                if job.place is not READY:
                    continue
                job.fence = fence = job.fence + 1
                job.place = LEASED
                receipt = Receipt(job, fence, expires)
                receipts.append(receipt)
                taken.append(Delivery(queue.name, job.envelope, job.trail, job.redeliveries, receipt))
            queue.counts[READY] -= len(taken) - before
            queue.counts[LEASED] += len(taken) - before
        if receipts:
            heapq.heappush(self._leases, (expires, next(self._order), receipts))
            self._receipts += len(receipts)
            if self._receipts > 2 * len(self._jobs) + MAX_STALE_TIMERS:
                self._forget_settled()
        return taken

    def settle(self, delivery: Delivery, verdict: Verdict, now: float) -> bool:
        """Carry out a verdict; False, and nothing changed, if the lease was lost."""
        receipt: Receipt = delivery.receipt
        job = receipt.job
        if job.fence != receipt.fence or job.place is not LEASED:
            return False
        match verdict:
            case Ack():
                self._end(job, now)
            case Reschedule(after=after, trail=trail):
                job.trail = trail
                job.redeliveries = 0
                if after > 0:
                    self._schedule(job, now + after)
                else:
                    self._make_ready(job, now)
            case Release():
                self._make_ready(job, now, first=True)
            case Bury(reason=reason, trail=trail):
                self._bury(job, reason, trail)
                self._end(job, now)
            case _:
                assert_never(verdict)
        return True

    def extend(self, delivery: Delivery, expires: float) -> bool:
        """Extend a lease; False if it was lost."""
        receipt: Receipt = delivery.receipt
        if not receipt.valid:
            return False
        receipt.expires = expires
        return True

    def expire(self, job_id: str, now: float) -> bool:
        """End a lease before its time; False if the job is not leased."""
        job = self._jobs.get(job_id)
        if job is None or job.place is not LEASED:
            return False
        job.redeliveries += 1
        self._make_ready(job, now, first=True)
        return True

    def advance(self, now: float) -> None:
        """Make due jobs ready, and jobs whose lease has expired."""
        while self._due and self._due[0][0] <= now:
            job = heapq.heappop(self._due)[2]
            if job.place is SCHEDULED and job.expires <= now:
                self._make_ready(job, now)
        while self._leases and self._leases[0][0] <= now:
            receipts = heapq.heappop(self._leases)[2]
            self._receipts -= len(receipts)
            extended: list[Receipt] = []
            for receipt in receipts:
                if not receipt.valid:
                    continue
                if receipt.expires > now:
                    extended.append(receipt)
                else:
                    receipt.job.redeliveries += 1
                    self._make_ready(receipt.job, now, first=True)
            if extended:
                soonest = min(receipt.expires for receipt in extended)
                heapq.heappush(self._leases, (soonest, next(self._order), extended))
                self._receipts += len(extended)

    async def change(self) -> None:
        """Wait until a job becomes ready or scheduled, or until the next time at which ``advance`` has work."""
        changed = anyio.Event()
        self._waiting.add(changed)
        timers = [heap[0][0] for heap in (self._due, self._leases) if heap]
        try:
            with anyio.CancelScope(deadline=min(timers, default=float("inf"))):
                await changed.wait()
        finally:
            self._waiting.discard(changed)

    def remove(self, queue: str, job_id: str, now: float) -> bool:
        """Delete one ready or scheduled job; False if it is not there."""
        self.advance(now)
        job = self._jobs.get(job_id)
        if job is None or job.queue.name != queue or job.place not in (READY, SCHEDULED):
            return False
        self._end(job, now)
        return True

    def locate(self, queue: str, job_id: str, now: float) -> Place | None:
        """Return where the job is; None if it has ended or was never here."""
        self.advance(now)
        job = self._jobs.get(job_id)
        return PLACE_NAMES[job.place] if job is not None and job.queue.name == queue else None

    def purge(self, queue: str, now: float) -> int:
        """Delete all ready and scheduled jobs of a queue; return how many."""
        self.advance(now)
        waiting = [job for job in self._jobs.values() if job.queue.name == queue and job.place in (READY, SCHEDULED)]
        for job in waiting:
            self._end(job, now)
        return len(waiting)

    def delete(self, queue: str, now: float) -> None:
        """Delete a queue and everything in it, leases included."""
        for job in [job for job in self._jobs.values() if job.queue.name == queue]:
            self._end(job, now)
        self.queues.pop(queue, None)

    def stats(self, queue: str, now: float) -> QueueStats:
        """Return how full a queue is."""
        found = self.queues.get(queue)
        if found is None:
            return QueueStats(ready=0, leased=0, scheduled=0, dead=0)
        oldest = next((now - job.since for job in found.ready if job.place is READY), None)
        ready, scheduled, leased, _ = found.counts
        return QueueStats(ready=ready, leased=leased, scheduled=scheduled, dead=len(found.letters), oldest=oldest)

    def peek(self, queue: str, place: str, limit: int, now: float) -> list[WaitingJob]:
        """Return the next jobs of a queue that are ready, or scheduled."""
        found = self.queues.get(queue)
        if found is None:
            return []
        if place == "ready":
            ready = islice((job for job in found.ready if job.place is READY), limit)
            return [WaitingJob(envelope=job.envelope, trail=job.trail) for job in ready]
        timers = (one for one in self._due if one[2].queue is found and one[2].place is SCHEDULED)
        soonest = heapq.nsmallest(limit, (one for one in timers if one[2].expires == one[0]))
        return [WaitingJob(envelope=job.envelope, trail=job.trail, due=due - now) for due, _, job in soonest]

    def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter of any queue."""
        return next((queue.letters[letter_id] for queue in self.queues.values() if letter_id in queue.letters), None)

    def drop(self, letter_id: str) -> bool:
        """Delete a dead letter; False if there is none."""
        return any(queue.letters.pop(letter_id, None) is not None for queue in self.queues.values())

    def _make_ready(self, job: StoredJob, now: float, *, first: bool = False) -> None:
        self._move(job, READY)
        if first:
            job.queue.ready.appendleft(job)
        else:
            job.queue.ready.append(job)
            job.since = now
        for changed in self._waiting:
            changed.set()

    def _bury(self, job: StoredJob, reason: str, trail: bytes) -> None:
        letter_id = f"{next(self._letters)}.{job.id}"
        job.queue.letters[letter_id] = Letter(
            id=letter_id, queue=job.queue.name, envelope=job.envelope, trail=trail, reason=reason, when=time.time()
        )

    def _schedule(self, job: StoredJob, due: float) -> None:
        self._move(job, SCHEDULED)
        job.expires = due
        heapq.heappush(self._due, (due, next(self._order), job))
        if len(self._due) > 2 * len(self._jobs) + MAX_STALE_TIMERS:  # timers of cancelled jobs
            self._due = [timer for timer in self._due if timer[2].place is SCHEDULED and timer[2].expires == timer[0]]
            heapq.heapify(self._due)
        for changed in self._waiting:  # a waiting source has a new time to wait for
            changed.set()

    def _end(self, job: StoredJob, now: float) -> None:
        queue, place = job.queue, job.place
        job.place = GONE
        queue.counts[place] -= 1
        if place is READY and len(queue.ready) > 2 * queue.counts[READY] + MAX_STALE_TIMERS:  # removed from the middle
            queue.ready = deque(one for one in queue.ready if one.place is READY)
        del self._jobs[job.id]
        self._ended[job.id] = now
        if len(self._ended) > DEDUP_IDS:
            self._ended.popitem(last=False)

    def _forget_settled(self) -> None:
        """Remove the timers of settled jobs, which would keep them in memory until their lease had ended."""
        leases = [(expires, order, [one for one in receipts if one.valid]) for expires, order, receipts in self._leases]
        self._leases = [lease for lease in leases if lease[2]]
        heapq.heapify(self._leases)
        self._receipts = sum(len(receipts) for _, _, receipts in self._leases)

    def _move(self, job: StoredJob, place: int) -> None:
        counts = job.queue.counts
        counts[job.place] -= 1
        counts[place] += 1
        job.place = place

    def _ended_lately(self, job_id: str, now: float) -> bool:
        ended = self._ended.get(job_id)
        return ended is not None and now - ended < DEDUP_WINDOW


def letter_number(letter_id: str) -> int:
    """Return a letter's number, in order of burial: a page can begin behind a letter that is gone."""
    number = letter_id.partition(".")[0]
    return int(number) if number.isdigit() else 0
