"""Leases: they stay with this worker for as long as it works on their jobs.

While the event loop turns, the keeper here extends them. While it stands still, a thread does, if the feature room is
there and the broker can be told from outside of the loop: docs/adr/0017-leases-outside-the-loop.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import anyio
import anyio.abc

from taskcore.backend import Source
from taskcore.errors import BrokerUnavailable
from taskcore.records import Records
from taskcore.records.keys import Acquired
from taskcore.records.names import outlived_name
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import LOST, RECEIVED, STARTED, STARTED_ACKED, Execution
from taskcore.worker.outages import Outage

__all__ = ["LEASE_ENDED", "LeaseKeeper"]

log = logger("taskcore.worker")

LEASE_ENDED = "its lease ended while it ran"  #: the ending of a start that is not recorded


class LeaseKeeper:
    """Extends the leases of everything in hand, in one batch, three times per lease.

    A job whose lease turns out to be lost is interrupted (C7). The room ``keeping`` renews keys, and lets go of jobs
    that wait here while their leases end.

    :param executions: every job from its receipt to its settling.
    :param records: None if there is no store.
    :param lost: called with a job whose lease is lost.
    :param clock: seconds since the epoch.
    :param outage: notes when the broker cannot be reached, and when it can again.
    """

    def __init__(
        self,
        executions: Collection[Execution],
        records: Records | None,
        *,
        lease: float,
        lost: Callable[[Execution], None],
        clock: Callable[[], float],
        outage: Outage,
    ) -> None:
        self.executions = executions
        self.records = records
        self.lease = lease
        self.lost = lost
        self.clock = clock
        self.extended: dict[Source, float] = {}  #: when all leases of a source were last extended with success
        self.renewed = 0.0  #: when all keys were
        self._due = math.inf  # when they are to be extended again
        self.keys_due = math.inf  #: when keys are to be renewed again
        self._outage = outage
        self._work = anyio.Event()
        self.outlived: list[str] = []  #: where starts are counted that were lost, and not written yet
        self.block: tuple[float, str] = (-math.inf, "")  #: when the event loop was blocked last, and how long and where
        #: Called with two times: when the keeper wanted to wake up, and when it did.
        self.woken: Callable[[float, float], None] = lambda due, now: None  # noqa: ARG005
        self.note: Callable[[Sequence[Execution]], None] | None = None  #: called with jobs that are received
        #: Called before a lease counts as over: something else may keep it.
        self.catch_up: Callable[[], None] = lambda: None

    def holds(self, job: Execution, now: float) -> bool:
        """Tell whether no other worker can have the job: its lease goes on by this worker's clock, or needs none."""
        if job.acked_early:
            return True
        if now >= self._end_of(job):
            self.catch_up()
        return job.state is not LOST and now < self._end_of(job)

    def _end_of(self, job: Execution) -> float:
        return max(job.received, self.extended.get(job.source, 0.0)) + self.lease

    def behind(self) -> float:
        """Return for how many seconds leases and keys should have been extended already: the loop stood still."""
        return max(anyio.current_time() - min(self._due, self.keys_due), 0.0)

    def begin(self, jobs: Sequence[Execution]) -> None:
        """Note that there are jobs to keep."""
        self._work.set()
        if self.note is not None:
            self.note(jobs)

    async def until_work(self) -> None:
        """Wait until there are jobs to keep."""
        while not self.executions:
            if self._work.is_set():
                self._work = anyio.Event()
            await self._work.wait()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Extend until cancelled."""
        task_status.started()
        pause = self.lease / 3
        while True:
            if not self.executions:  # an idle worker sleeps: days may pass until a job comes
                self._outage.recovered()
                self._due = math.inf
                await self.until_work()
            self._due = anyio.current_time() + pause
            await anyio.sleep(pause)
            self.woken(self._due, anyio.current_time())
            try:
                if await self._extend():
                    self._outage.recovered()
            except BrokerUnavailable as error:
                await self._outage.failed(error)
            except Exception:
                log.exception("some leases could not be extended; trying again")

    async def _extend(self) -> bool:
        """Extend what is in hand; False if nothing is, so that the broker was not asked."""
        by_source: dict[Source, list[Execution]] = {}
        for job in self.executions:
            if job.state < STARTED_ACKED:
                by_source.setdefault(job.source, []).append(job)
        for source, jobs in by_source.items():
            asked = anyio.current_time()
            gone = {id(delivery) for delivery in await source.extend([job.delivery for job in jobs])}
            self.extended[source] = asked
            for job in jobs:
                if id(job.delivery) in gone:  # also if it has ended and waits to be settled
                    self._lose(job)
        return bool(by_source)

    def held_keys(self) -> list[Acquired]:
        """Collect the keys of the jobs that run."""
        running = (RECEIVED, STARTED, STARTED_ACKED)
        return [job.key for job in tuple(self.executions) if job.key is not None and job.state in running]

    # ── what is lost ──

    def _lose(self, job: Execution) -> None:
        if job.state is STARTED:
            log.warning("job %s: %s; it is interrupted, and another worker has it", job.id, self.note_lost(job))
        self.lost(job)

    def note_lost(self, job: Execution) -> str:
        """Note for the next starts of a job that this one has not killed its process; return why it was lost."""
        if self.records is not None:
            self.outlived.append(outlived_name(job.id, job.trail.copies))
        ended, text = self.block
        return LEASE_ENDED + (f" ({text})" if text and ended >= job.received else "")
