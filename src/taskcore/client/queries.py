"""Asking about a job: how it ended, where it is, and whether it can still be kept from starting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import anyio
import msgspec

from taskcore.backend import QueueStats
from taskcore.components import Components
from taskcore.errors import BrokerUnavailable, ResultNotKept, StoreRequired
from taskcore.records import Records
from taskcore.records.keys import decode_key_record
from taskcore.records.names import key_name
from taskcore.records.parked import count_parked
from taskcore.results import (
    ANY_TASK,
    CANCELLED,
    STATUS_OF_PLACE,
    JobOutcome,
    JobStatus,
    decode_outcome,
    status_of_stored,
    typed_outcome,
    wrong_task,
)
from taskcore.task import Job
from taskcore.toolkit.detached import Detached
from taskcore.toolkit.failpoints import failpoint

__all__ = ["JobQueries", "named"]

R = TypeVar("R")

STORE_AGAIN_AFTER = 0.1  #: seconds before the outcome of a job that is removed already is stored again


class JobQueries:
    """Answers questions about jobs."""

    def __init__(self, components: Components, *, timeout: float) -> None:
        self.backend = components.backend
        self.admin = components.backend.admin
        self.store = components.store
        self._records = Records.over(components.store) if components.store is not None else None
        self._events = components.events
        self.clock = components.clock
        self.timeout = timeout
        self._detached = Detached()

    async def outcome(self, job: Job[R], timeout: float | None) -> JobOutcome[R]:
        """Wait for the end of a job; the store pushes it."""
        if self._records is None:
            raise StoreRequired(f"cannot wait for the result of job {job.id}: this app has no store")
        if job.task.options.keep_result is None:
            raise ResultNotKept(
                f"results of {job.task.name} are not kept, so job {job.id} has none to wait for",
                fix="@app.task(keep_result=3600.0) keeps them for an hour",
            )
        if job.key is not None:
            first = await self._outcome_of_key(job)
            if first is not None:
                return typed_outcome(first, job.task.contract)
        import_module(WAITS).warn_inside(job)
        outcome = None
        if timeout is None or timeout > 0:
            outcome = await self._records.outcomes.wait(job.id, timeout)
        if outcome is None:
            # A read without the time limit: what is known is an answer, also where a reply of the store takes longer.
            outcome = await self._records.outcomes.find(job.id)
        if outcome is None:
            raise await import_module(WAITS).explain(self, job, timeout or 0.0)
        _refuse_other_task(job, outcome)
        return typed_outcome(outcome, job.task.contract)

    async def status(self, job: Job[Any]) -> JobStatus:
        """Return where the job is now."""
        if self._records is not None:
            outcome = await self._records.outcomes.find(job.id)
            if outcome is not None:
                _refuse_other_task(job, outcome)
                return status_of_stored(outcome)
        for queue in await self._queues_of(job):
            place = await self.admin.locate(queue, job.id)
            if place is not None:
                return STATUS_OF_PLACE[place]
        status: JobStatus = await import_module(WAITS).status_elsewhere(self.store, job.id)
        return status

    async def cancel(self, job: Job[Any]) -> bool:
        """Keep the job from starting: request, remove, store the outcome; a crash in between loses no job."""
        records = self._records
        if records is None:
            raise StoreRequired(f"cannot cancel {named(job)}: this app has no store")
        outcome = await records.outcomes.find(job.id)
        if outcome is not None:
            _refuse_other_task(job, outcome)
            return False
        asked_before = await records.cancels.requested(job.id)
        await records.cancels.request(job.id)
        failpoint("cancel.marked")
        if self.backend.features.remove == "absent":  # its workers keep it from starting
            await records.cancels.announce()
        return await self._detached.get(partial(self._remove, job, records, asked_before=asked_before))

    async def _remove(self, job: Job[Any], records: Records, *, asked_before: bool) -> bool:
        """Remove the job and store its outcome; a caller that is cancelled in between does not part the two."""
        removed = False
        for queue in await self._queues_of(job):
            removed = removed or await self.admin.remove(queue, job.id)
        if not removed and not (asked_before and await self._is_nowhere(job)):
            return False
        failpoint("cancel.removed")
        stands, until = b"", anyio.current_time() + self.timeout
        while not stands:
            try:
                stands = await records.outcomes.store(job.id, CANCELLED, job.task.options.keep_result or self.timeout)
            except BrokerUnavailable:
                if anyio.current_time() > until:
                    raise
                await anyio.sleep(STORE_AGAIN_AFTER)
        if decode_outcome(stands).state != "cancelled":
            return False
        self._events.emit("job.cancelled", job_id=job.id, task=job.task.name, queue=job.queue)
        return True

    async def wait_closed(self) -> None:
        """Wait for removals whose callers were cancelled."""
        await self._detached.wait_closed()

    async def stats(self, queue: str) -> QueueStats:
        """Count the jobs of a queue, and those that wait for a worker that knows their task, if the store can tell."""
        [stats] = await self.admin.stats([queue])
        if self.store is None:
            return stats
        try:
            parked = await count_parked(self.store, queue, self.clock())
        except BrokerUnavailable:  # the store; what the broker tells is worth having all the same
            return stats
        if stats.scheduled is not None:
            parked = min(parked, stats.scheduled)
        return msgspec.structs.replace(stats, parked=parked)

    async def _queues_of(self, job: Job[Any]) -> Sequence[str]:
        """List where the job may be: everywhere, if its handle was made from an id alone."""
        return (job.queue,) if job.queue else await self.admin.queues()

    async def _is_nowhere(self, job: Job[Any]) -> bool:
        """Tell whether an earlier canceller removed the job and died before it stored the outcome.

        A job that may run at most once is nowhere while it runs, and a handle made from an id alone may be of one.
        """
        options = job.task.options
        if options.keep_result is None or options.delivery == "at_most_once" or job.task.name == ANY_TASK:
            return False
        if self.backend.features.locate == "absent":
            return False
        return await self.status(job) == "unknown"

    async def _outcome_of_key(self, job: Job[Any]) -> bytes | None:
        """Return the outcome that the job's key remembers, perhaps longer than the job's own record lasts."""
        record = await self.store.get(key_name(job.task.name, str(job.key))) if self.store is not None else None
        if record is None:
            return None
        claim = decode_key_record(record.value)
        return bytes(claim.outcome) if claim.state == "done" and claim.job == job.id else None


WAITS = "taskcore.waits"  #: the feature that explains waits


def named(job: Job[Any]) -> str:
    """Name a job, and its task if that is known."""
    return f"job {job.id}" if job.task.name == ANY_TASK else f"job {job.id} of {job.task.name}"


def _refuse_other_task(job: Job[Any], outcome: bytes) -> None:
    """Refuse to answer a handle with the outcome of another task's job.

    :raises WrongTask: it is one (TC409).
    """
    error = wrong_task(job.id, job.task.name, outcome)
    if error is not None:
        raise error
