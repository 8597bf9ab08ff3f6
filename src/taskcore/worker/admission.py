"""Admission: whether a job may start that was handed out before, or that has a key, and whether it starts alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeAlias, cast

import msgspec

from taskcore.backend import Features
from taskcore.lifecycle import Buried, CancelledBefore, Deferred, Outcome, Poisoned, Rules, Unregistered, is_poison
from taskcore.records import Records
from taskcore.records.keys import Busy, Completed, KeyRecord
from taskcore.records.names import key_name, outcome_name, outlived_name, start_name, workflow_name
from taskcore.results import other_task_of, outcome_of_stored
from taskcore.store import Version
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import LEASE_ENDED
from taskcore.worker.quarantine import Quarantine

__all__ = ["Admission", "KnowsFirstStarts", "RunExecution", "finish_unrun", "starts_of"]

RunExecution: TypeAlias = Callable[[Execution, Task[..., Any], Slot], Coroutine[Any, Any, Outcome | None]]


class KnowsFirstStarts(Protocol):
    """Knows of most jobs that were never handed out that they may start; see the room ``cancelling``."""

    def newest(self) -> Awaitable[Version]:
        """Find the newest request to cancel."""
        ...

    async def is_clear(self, job: Execution, task: Task[..., Any]) -> bool:
        """Tell whether the job surely has not ended and is not cancelled."""
        ...

    def around(self, run: RunExecution, overdue: Callable[[Execution], Outcome | None]) -> RunExecution:
        """Put a last look for a cancellation in front of a run, and for a deadline that is over then."""
        ...


class Admission:
    """Asks the records of a store whether a job may start, and writes that it does.

    :ivar quarantine: keeps other jobs from starting while a suspected one is alone.
    :ivar always_inspects: also a job that was never handed out before may have ended, or be cancelled.
    :param first_starts: knows of most of these jobs that they may start; None where all of them may.
    :param lease: seconds for which a key is held.
    :param clock: seconds since the epoch.
    :param worker: its name, for the records of starts.
    :param behind: for how many seconds the keys of this worker wait for their renewal; what they hold is not over.
    """

    def __init__(
        self,
        records: Records | None,
        features: Features,
        first_starts: KnowsFirstStarts | None,
        *,
        lease: float,
        clock: Callable[[], float],
        worker: str,
        behind: Callable[[], float],
    ) -> None:
        self._records = records
        self._lease = lease
        self._clock = clock
        self._worker = worker
        self._behind = behind
        self._counts_redeliveries = features.redeliveries != "absent"
        self._may_overlap = features.dedup == "absent"
        self.quarantine = Quarantine()
        self._first_starts = first_starts
        self.always_inspects = first_starts is not None
        self.workflows: Callable[[], Any] | None = None  #: opens the part of the worker that performs workflows

    async def inspect(self, job: Execution, task: Task[..., Any]) -> Outcome | None:
        """Look whether the job has ended already, is cancelled, or seems to kill its process; None to go on."""
        rules = task.options.rules
        first = not (job.delivery.redeliveries or job.delivery.trail)  # looked at only because it may be cancelled
        is_clear = first and self._first_starts is not None and await self._first_starts.is_clear(job, task)
        if is_clear and rules.crashes > 1:
            return None
        if self._records is not None and not is_clear:
            if self._first_starts is not None:
                job.clear_at = await self._first_starts.newest()
            stored, plan = await self._records.read_many((outcome_name(job.id), workflow_name(job.id)))
            if stored is not None and other_task_of(stored.value, job.envelope.task) is None:
                return outcome_of_stored(stored.value)
            if plan is not None and self.workflows is not None:
                return cast("Outcome", self.workflows().go_on(job))
            if await self._records.cancels.requested(job.id):
                return CancelledBefore()
        if job.marker is None and not (first and rules.crashes > 1):
            await self._count_starts(job)
        starts = starts_of(job, rules)
        if not is_poison(starts, rules):
            return None
        marker = outlived_name(job.id, job.trail.copies)
        outlived = (await self._records.markers.find(marker))[0].count if self._records is not None else 0
        return Buried(LEASE_ENDED) if outlived else Poisoned(job.trail.crashes)

    async def _count_starts(self, job: Execution) -> None:
        """Count starts without an outcome. All but a job's very first are marked; its redelivery counts for that one.

        Without a store the broker's own count stands in, where it has one; it counts prefetched jobs too.
        """
        trail, redeliveries = job.trail, job.delivery.redeliveries
        before = trail.crashes - job.marked
        if self._records is None:
            job.marked = redeliveries if self._counts_redeliveries else 0
            job.trail = msgspec.structs.replace(trail, crashes=before + job.marked)
            return
        marker, now = start_name(job.id, trail.copies), self._clock()
        job.found, job.expected = await self._records.markers.find(marker)
        job.marked, first_lost = job.found.count, redeliveries > 0 and not job.delivery.trail
        by, job.starts = job.found.with_next(self._worker, now, first_lost=first_lost)
        first_lost = trail.first_lost or first_lost
        job.trail = msgspec.structs.replace(trail.with_crashes(by), crashes=before + job.marked, first_lost=first_lost)
        job.marker = marker

    async def mark_start(self, job: Execution) -> bool:
        """Count this start as a crash until it has ended; not before it starts, because waiting kills no process.

        :returns: False if the lease is lost: this worker was frozen, and another one has begun the job since.
        """
        if self._records is None or job.marker is None:
            return True
        marked = await self._records.markers.mark(job.marker, job.starts, job.expected)
        failpoint("examine.marked")
        if not marked:
            job.marker = None  # it belongs to the other worker
        return marked

    async def acquire_key(self, job: Execution, task: Task[..., Any], key: str, least_fence: int) -> Outcome | None:
        """Acquire the job's key, or find the outcome that the key has; None to go on."""
        if self._records is None:
            return Unregistered("its key needs a store, and this worker has none", self._clock())
        behind = self._behind()
        acquired = await self._records.keys.acquire(
            key_name(task.name, key),
            KeyRecord(key=key, job=job.id, args=task.contract.fingerprint(job.arguments), queue=job.delivery.queue),
            lease=self._lease + behind,
            now=self._clock() - behind,
            keep=task.options.key_window,
            least_fence=least_fence,
            may_overlap=self._may_overlap and not job.delivery.redeliveries,
        )
        if isinstance(acquired, Completed):
            first = outcome_of_stored(acquired.outcome)
            if isinstance(first, Buried) and acquired.job != job.id:
                return Buried(first.reason)  # another job's error is not this job's
            return first
        if isinstance(acquired, Busy):
            return Deferred(acquired.after, "another job holds its key")
        job.key = acquired
        failpoint("hold.taken")
        return None

    async def cancel_requested(self, job_id: str) -> bool:
        """Tell whether a caller asked to cancel the job."""
        return self._records is not None and await self._records.cancels.requested(job_id)


def starts_of(job: Execution, rules: Rules) -> int:
    """Count starts without an outcome. With one crash allowed even the first is marked; unmarked, it never began."""
    return job.trail.crashes + (job.trail.first_lost and rules.crashes > 1)


def finish_unrun(job: Execution, outcome: Outcome | None) -> Outcome | None:
    """End a job without another start; the marker of an earlier one, if there is one, goes with it (C23)."""
    if job.delivery.redeliveries or job.delivery.trail:
        job.marker = start_name(job.id, job.trail.copies)
    return outcome
