"""Leases: they stay with this worker for as long as it works on their jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio
import anyio.abc

from taskcore.backend import Source
from taskcore.errors import BrokerUnavailable
from taskcore.observe import Events
from taskcore.records.keys import IdempotencyKeys
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import LOST, RECEIVED, STARTED, STARTED_ACKED, Execution
from taskcore.worker.outages import Outage

__all__ = ["LeaseKeeper"]

log = logger("taskcore.worker")


class LeaseKeeper:
    """Extends the leases of everything in hand, in one batch, three times per lease; renews the held keys with them.

    A job whose lease turns out to be lost is interrupted (C7).

    :param executions: every job from its receipt to its settling.
    :param keys: None if there is no store.
    :param lost: called with a job whose lease is lost.
    :param clock: seconds since the epoch.
    :param outage: notes when the broker cannot be reached, and when it can again.
    """

    def __init__(
        self,
        executions: Collection[Execution],
        keys: IdempotencyKeys | None,
        events: Events,
        *,
        lease: float,
        lost: Callable[[Execution], None],
        clock: Callable[[], float],
        outage: Outage,
    ) -> None:
        self._executions = executions
        self._keys = keys
        self._events = events
        self.lease = lease
        self._lost = lost
        self._clock = clock
        self._extended: dict[Source, float] = {}  # when all leases of a source were last extended with success
        self._outage = outage
        self._work = anyio.Event()

    def holds(self, job: Execution, now: float) -> bool:
        """Tell whether no other worker can have the job: its lease goes on by this worker's clock, or needs none."""
        if job.acked_early:
            return True
        until = max(job.received, self._extended.get(job.source, 0.0)) + self.lease
        return job.state is not LOST and now < until

    def begin(self) -> None:
        """Note that there is a job to keep."""
        self._work.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Extend until cancelled."""
        task_status.started()
        pause = self.lease / 3
        while True:
            if not self._executions:  # an idle worker sleeps: days may pass until a job comes
                self._outage.recovered()
                self._work = anyio.Event()
                await self._work.wait()
            asleep = anyio.current_time()
            await anyio.sleep(pause)
            self._notice_block(anyio.current_time() - asleep - pause)
            try:
                asked = await self._extend()
                await self._renew_keys()
            except BrokerUnavailable as error:
                await self._outage.failed(error)
            except Exception:
                log.exception("some leases or keys could not be extended; trying again")
            else:
                if asked:
                    self._outage.recovered()

    async def _extend(self) -> bool:
        """Extend what is in hand; False if nothing is, so that the broker was not asked."""
        by_source: dict[Source, list[Execution]] = {}
        for job in self._executions:
            if job.state < STARTED_ACKED:
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
        """Keep the keys of running jobs held for as long as their leases are."""
        if self._keys is not None:
            running = (RECEIVED, STARTED, STARTED_ACKED)
            held = [job.key for job in self._executions if job.key is not None and job.state in running]
            await self._keys.renew_many(held, self._clock() + self.lease)

    def _notice_block(self, late: float) -> None:
        """Warn of a task that computes in the event loop: it starves everything, this keeper first."""
        if late > self.lease / 3:
            log.warning(
                "the event loop was blocked for %.1f s; leases last %g s. Run what computes in a thread or a process: "
                '@app.task(runs_in="process")',
                late,
                self.lease,
            )
            self._events.emit("loop.blocked", seconds=late)
