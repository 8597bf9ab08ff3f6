"""Keeping: leases stay ours while we work, and nothing runs longer than it may."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import anyio

from taskcore.backend import Source
from taskcore.errors import BrokerUnavailable
from taskcore.observe import Events
from taskcore.records.keys import IdempotencyKeys
from taskcore.store import Conflict, Store
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.outages import Outage

__all__ = ["Deadlines", "LeaseKeeper"]

log = logger("taskcore.worker")


class LeaseKeeper:
    """Extends the leases of everything in hand, in one batch, three times per lease.

    A job whose lease turns out to be lost is interrupted: hands off (C7).

    :param in_hand: every job from its receiving to its settling.
    :param lost: called with a job whose lease was lost.
    :param clock: seconds since the epoch.
    :param outage: told when the broker cannot be reached, and when it can again.
    """

    def __init__(
        self,
        in_hand: Collection[Execution],
        store: Store | None,
        events: Events,
        *,
        lease: float,
        lost: Callable[[Execution], None],
        clock: Callable[[], float],
        outage: Outage,
    ) -> None:
        self._in_hand = in_hand
        self._store = store
        self._events = events
        self._lease = lease
        self._lost = lost
        self._clock = clock
        self._extended: dict[Source, float] = {}  # when we last asked for all leases of a source, and were heard
        self._outage = outage
        self._idle = anyio.Event()
        self.keys = anyio.Lock()

    def lease_over(self, job: Execution, now: float) -> bool:
        """Whether a lease has ended by our own clock, so that somebody else may have the job."""
        if now < job.received + self._lease:  # nearly always
            return False
        return now >= self._extended.get(job.source, 0.0) + self._lease

    def begin(self) -> None:
        """There is something in hand."""
        self._idle.set()

    async def run(self) -> None:
        """Extend until cancelled."""
        pause = self._lease / 3
        while True:
            if not self._in_hand:  # an idle worker sleeps: days may pass until somebody sends a job
                self._outage.recovered()
                self._idle = anyio.Event()
                await self._idle.wait()
            asleep = anyio.current_time()
            await anyio.sleep(pause)
            self._notice_block(anyio.current_time() - asleep - pause)
            try:
                asked = await self._extend()
                await self._renew_keys()
            except BrokerUnavailable as error:
                await self._outage.failed(error)
            else:
                if asked:
                    self._outage.recovered()

    async def _extend(self) -> bool:
        """Extend what is in hand; False if nothing is, so that the broker was not asked."""
        by_source: dict[Source, list[Execution]] = {}
        for job in self._in_hand:
            if not job.lost and not job.acked_early:
                by_source.setdefault(job.source, []).append(job)
        for source, jobs in by_source.items():
            asked = anyio.current_time()
            gone = {id(delivery) for delivery in await source.extend([job.delivery for job in jobs])}
            self._extended[source] = asked
            for job in jobs:
                if id(job.delivery) in gone:  # also if it has ended and waits to be settled
                    self._lost(job)
        return bool(by_source)

    async def _renew_keys(self) -> None:
        """The keys of running jobs stay held as long as their leases do."""
        store = self._store
        if store is None or not any(job.key is not None for job in self._in_hand):
            return
        async with self.keys:
            holding = [job for job in self._in_hand if job.key is not None and not job.finished]
            until = self._clock() + self._lease
            writes = [IdempotencyKeys.renew(job.key, until) for job in holding if job.key is not None]
            for job, answer in zip(holding, await store.put_many(writes), strict=True):
                if job.key is not None and not isinstance(answer, Conflict):
                    job.key.version = answer

    def _notice_block(self, late: float) -> None:
        """A task that computes in the event loop starves everything, this keeper first."""
        if late > self._lease / 3:
            log.warning(
                "the event loop was blocked for %.1f s; leases last %g s. Run what computes in a thread or a process: "
                '@app.task(runs_in="process")',
                late,
                self._lease,
            )
            self._events.emit("loop.blocked", seconds=late)


class Deadlines:
    """One sweeper for all time limits: it sleeps until the earliest one, and interrupts whoever overran."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = slots
        self._soonest = float("inf")
        self._news = anyio.Event()

    def watch(self, slot: Slot, deadline: float) -> None:
        """Interrupt what runs in this slot when the time comes, unless the slot's deadline is cleared before."""
        slot.deadline = deadline
        if deadline < self._soonest:
            self._soonest = deadline
            self._news.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self._news = anyio.Event()
            self._soonest = min(
                (slot.deadline for slot in self._slots if slot.deadline is not None), default=float("inf")
            )
            with anyio.CancelScope(deadline=self._soonest):
                await self._news.wait()
            now = anyio.current_time()
            for slot in self._slots:
                if slot.deadline is not None and slot.deadline <= now:
                    slot.deadline = None
                    slot.interrupt("timeout")
