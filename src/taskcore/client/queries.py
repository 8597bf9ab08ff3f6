"""Asking about a job: how it ended, where it is, and whether it can still be kept from starting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import anyio

from taskcore.components import Components
from taskcore.errors import ResultNotKept, ResultTimeout, StoreRequired
from taskcore.records.cancels import Cancels
from taskcore.records.keys import decode_key_record
from taskcore.records.names import key_name
from taskcore.records.outcomes import Outcomes
from taskcore.records.parked import find_parked
from taskcore.results import (
    CANCELLED,
    JobOutcome,
    JobStatus,
    decode_outcome,
    status_of_place,
    status_of_stored,
    typed_outcome,
)
from taskcore.task import Job
from taskcore.toolkit.failpoints import failpoint

__all__ = ["JobQueries"]

R = TypeVar("R")


class JobQueries:
    """Answers questions about jobs."""

    def __init__(self, components: Components, *, timeout: float) -> None:
        self._backend = components.backend
        self.admin = components.backend.admin
        self._store = store = components.store
        self._outcomes = Outcomes(store) if store is not None else None
        self._cancels = Cancels(store) if store is not None else None
        self._events = components.events
        self._timeout = timeout

    async def outcome(self, job: Job[R], timeout: float | None) -> JobOutcome[R]:
        """Wait for the end of a job; the store pushes it."""
        if self._outcomes is None:
            raise StoreRequired(f"cannot wait for the result of {job.task.name}: this app has no store")
        if job.task.options.keep_result is None:
            raise ResultNotKept(
                f"results of {job.task.name} are not kept, so job {job.id} has none to wait for",
                fix="@app.task(keep_result=3600.0) keeps them for an hour",
            )
        if job.key is not None:
            first = await self._outcome_of_key(job)
            if first is not None:
                return typed_outcome(first, job.task.contract)
        if timeout is None:  # a scope without a deadline would cost as much as the wait itself
            return typed_outcome(await self._outcomes.wait(job.id), job.task.contract)
        if timeout > 0:
            with anyio.move_on_after(timeout):
                return typed_outcome(await self._outcomes.wait(job.id), job.task.contract)
        # A read without this time limit: what is known is told, also where one answer of the store takes longer.
        known = await self._outcomes.find(job.id)
        if known is not None:
            return typed_outcome(known, job.task.contract)
        raise await self._timed_out(job, timeout)

    async def status(self, job: Job[Any]) -> JobStatus:
        """Return where the job is now."""
        if self._outcomes is not None:
            outcome = await self._outcomes.find(job.id)
            if outcome is not None:
                return status_of_stored(outcome)
        for queue in await self._queues_of(job):
            place = await self.admin.locate(queue, job.id)
            if place is not None:
                return status_of_place(place)
        return "unknown"

    async def cancel(self, job: Job[Any]) -> bool:
        """Keep the job from starting: request, remove, store the outcome; a crash in between loses no job."""
        if self._outcomes is None or self._cancels is None:
            raise StoreRequired(f"cannot cancel job {job.id} of {job.task.name}: this app has no store")
        if await self._outcomes.find(job.id) is not None:
            return False
        asked_before = await self._cancels.requested(job.id)
        await self._cancels.request(job.id)
        failpoint("cancel.marked")
        removed = False
        for queue in await self._queues_of(job):
            removed = removed or await self.admin.remove(queue, job.id)
        if not removed and not (asked_before and await self._is_nowhere(job)):
            return False
        failpoint("cancel.removed")
        stands = await self._outcomes.store(job.id, CANCELLED, job.task.options.keep_result or self._timeout)
        if decode_outcome(stands).state != "cancelled":
            return False
        self._events.emit("job.cancelled", job_id=job.id, task=job.task.name, queue=job.queue)
        return True

    async def drain(self, queues: Iterable[str], timeout: float | None) -> None:
        """Wait until each queue holds no job that is ready, running or scheduled.

        :param timeout: seconds to wait for each queue; None sets no limit.
        :raises TimeoutError: a queue was not empty by then; the text says what it holds.
        """
        pause = 0.005
        for queue in queues:
            began = anyio.current_time()
            while True:
                stats = await self.admin.stats(queue)
                if not stats.ready + stats.leased + stats.scheduled:
                    break
                if timeout is not None and anyio.current_time() - began >= timeout:
                    raise TimeoutError(
                        f'queue "{queue}" is not empty after {timeout:g} s: '
                        f"{stats.ready} ready, {stats.leased} running, {stats.scheduled} scheduled"
                    )
                await anyio.sleep(pause)
                pause = min(pause * 1.5, 0.1)

    async def _queues_of(self, job: Job[Any]) -> Sequence[str]:
        """List where the job may be: everywhere, if its handle was made from an id alone."""
        return (job.queue,) if job.queue else await self.admin.queues()

    async def _is_nowhere(self, job: Job[Any]) -> bool:
        """Tell whether an earlier canceller removed the job and died before it stored the outcome."""
        if job.task.options.keep_result is None or self._backend.features.locate == "absent":
            return False
        return await self.status(job) == "unknown"

    async def _outcome_of_key(self, job: Job[Any]) -> bytes | None:
        """Return the outcome that the job's key remembers, perhaps longer than the job's own record lasts."""
        record = await self._store.get(key_name(job.task.name, str(job.key))) if self._store is not None else None
        if record is None:
            return None
        claim = decode_key_record(record.value)
        return bytes(claim.outcome) if claim.state == "done" and claim.job == job.id else None

    async def _timed_out(self, job: Job[Any], timeout: float) -> ResultTimeout:
        """Make the error of a wait that took too long, with what is known about the job."""
        facts: list[str] = []
        what = f"no result for job {job.id} of {job.task.name} after {timeout:g} s"
        with anyio.move_on_after(self._timeout):
            state = await self.status(job)
            facts = [f"the job is: {state}"]
            if not job.queue:
                return ResultTimeout(what, facts=facts, fix="wait longer, or start a worker", job_id=job.id)
            stats = await self.admin.stats(job.queue)
            facts = [
                f"the job is: {state}",
                f'queue "{job.queue}": {stats.ready} ready, {stats.leased} running, {stats.scheduled} scheduled',
            ]
            if state == "queued" and not stats.leased:
                facts.append("no job of this queue is running: is a worker listening to it?")
            if state in {"scheduled", "unknown"} and self._store is not None:
                parked = await find_parked(self._store, job.task.name)
                if parked is not None:
                    facts.append(f"worker {parked.worker} has parked jobs of {job.task.name}: {parked.why}")
        return ResultTimeout(
            what,
            facts=facts,
            fix="wait longer, or start a worker on that queue"
            + (" that knows the task" if any("has parked" in fact for fact in facts) else ""),
            job_id=job.id,
        )
