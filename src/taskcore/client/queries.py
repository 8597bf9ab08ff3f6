"""Asking about a job: how it ended, where it is, and whether it can still be kept from starting."""

from __future__ import annotations

from typing import Any, TypeVar

import anyio

from taskcore.backend import Backend
from taskcore.client import store_required
from taskcore.errors import ResultNotKept, ResultTimeout
from taskcore.observe import Events
from taskcore.records.cancels import Cancels
from taskcore.records.keys import decode_key_record
from taskcore.records.names import key_name
from taskcore.records.outcomes import Outcomes
from taskcore.results import (
    CANCELLED,
    JobOutcome,
    JobStatus,
    decode_outcome,
    status_of_place,
    status_of_stored,
    typed_outcome,
)
from taskcore.store import Store
from taskcore.task import Job
from taskcore.toolkit.failpoints import failpoint

__all__ = ["JobQueries"]

R = TypeVar("R")


class JobQueries:
    """Answers questions about jobs."""

    def __init__(self, backend: Backend, store: Store | None, events: Events, *, timeout: float) -> None:
        self._backend = backend
        self._admin = backend.admin
        self._store = store
        self._results = Outcomes(store) if store is not None else None
        self._cancels = Cancels(store) if store is not None else None
        self._events = events
        self._timeout = timeout

    async def outcome(self, job: Job[R], timeout: float | None) -> JobOutcome[R]:
        """Wait for the ending of a job, pushed by the store."""
        if self._results is None:
            raise store_required(f"somebody waits for the result of {job.task.name}")
        if job.task.options.keep_result is None:
            raise ResultNotKept(
                f"results of {job.task.name} are not kept, so nobody can wait for job {job.id}",
                fix="@app.task(keep_result=3600.0) keeps them for an hour",
            )
        if job.key is not None:
            first = await self._outcome_of_key(job)
            if first is not None:
                return typed_outcome(first, job.task.contract)
        ending = await self._results.wait(job.id, timeout)
        if ending is None:
            raise await self._timed_out(job, timeout)
        return typed_outcome(ending, job.task.contract)

    async def status(self, job: Job[Any]) -> JobStatus:
        """Where the job is now."""
        if self._results is not None:
            ending = await self._results.find(job.id)
            if ending is not None:
                return status_of_stored(ending)
        return status_of_place(await self._admin.locate(job.queue, job.id))

    async def cancel(self, job: Job[Any]) -> bool:
        """Keep the job from starting: tombstone, then remove, then the ending; a crash in between loses no job."""
        if self._results is None or self._cancels is None:
            raise store_required(f"job {job.id} of {job.task.name} cannot be cancelled")
        if await self._results.find(job.id) is not None:
            return False
        asked_before = await self._cancels.requested(job.id)
        await self._cancels.request(job.id)
        failpoint("cancel.marked")
        removed = await self._admin.remove(job.queue, job.id)
        if not removed and not (asked_before and await self._is_nowhere(job)):
            return False
        failpoint("cancel.removed")
        stands = await self._results.store(job.id, CANCELLED, job.task.options.keep_result or self._timeout)
        if decode_outcome(stands).state != "cancelled":
            return False
        self._events.emit("job.cancelled", job_id=job.id, task=job.task.name, queue=job.queue)
        return True

    async def _is_nowhere(self, job: Job[Any]) -> bool:
        """Whether somebody removed it and died before the ending was stored: it is gone, and never ended by itself."""
        if job.task.options.keep_result is None or self._backend.features.locate == "absent":
            return False
        return await self._admin.locate(job.queue, job.id) is None

    async def _outcome_of_key(self, job: Job[Any]) -> bytes | None:
        """A key remembers its outcome longer than the job's own record may last."""
        record = await self._store.get(key_name(job.task.name, str(job.key))) if self._store is not None else None
        if record is None:
            return None
        claim = decode_key_record(record.value)
        return bytes(claim.outcome) if claim.state == "done" and claim.job == job.id else None

    async def _timed_out(self, job: Job[Any], timeout: float | None) -> ResultTimeout:
        """Every wait says what it waited for."""
        facts: list[str] = []
        with anyio.move_on_after(self._timeout):
            state = await self.status(job)
            stats = await self._admin.stats(job.queue)
            facts = [
                f"the job is: {state}",
                f'queue "{job.queue}": {stats.ready} ready, {stats.leased} running, {stats.scheduled} scheduled',
            ]
            if state == "queued" and not stats.leased:
                facts.append("nothing of this queue is running: is there a worker for it?")
        error = ResultTimeout(
            f"no result for job {job.id} of {job.task.name} after {timeout} s",
            facts=facts,
            fix="wait longer, or start a worker on that queue",
        )
        error.job_id = job.id
        return error
