"""First starts: whether a job may start that was never handed out before, without reading a record for each.

Where a broker can take back a waiting job and notices an id that is sent twice, such a job may start. Elsewhere its
caller may have cancelled it, or a job with its id may have ended. Most jobs may start all the same, and that is known:

    at its receipt      the records of all jobs of a batch are read at once, if there may be any (``look_up``)
    at its start        no request to cancel is newer than that look (``is_clear``, and again right before the run)

A job of which this is not known is asked about by itself, as one that was handed out before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from taskcore.cancelling.look_ahead import LookAhead
from taskcore.cancelling.newest_request import NewestRequest
from taskcore.contract.codec import first_line
from taskcore.errors import UnreadableRecord
from taskcore.lifecycle import Buried, CancelledBefore, Outcome
from taskcore.records import Records
from taskcore.records.cancels import NO_REQUESTS
from taskcore.records.names import cancel_name, outcome_name
from taskcore.store import Version
from taskcore.task import Task
from taskcore.worker.admission import RunExecution
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.inbox import Inbox

__all__ = ["FirstStarts"]

IDS_REMEMBERED = 5_000  #: at least, and at most twice as many; more than wait for a slot


class FirstStarts:
    """Knows of most jobs that they may start.

    :param tasks: by name.
    """

    def __init__(self, records: Records, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._cancels = records.cancels
        self._read: Callable[[Sequence[str]], Awaitable[Sequence[object | None]]] = records.read_many
        self._tasks = tasks
        self._keeps = any(task.options.keep_result is not None for task in tasks.values())
        self._met = (set[str](), set[str]())  # ids that were looked up lately: the newer ones, the older ones
        self.request = NewestRequest(records.cancels)

    # ── at receipt ──

    def look_ahead(self, inbox: Inbox) -> LookAhead:
        """Make the service that looks up the jobs of an inbox before slots get them."""
        return LookAhead(inbox, self)

    @property
    def looks_up(self) -> bool:
        """Whether there may be records of jobs that were just received: of their ends, or requests to cancel them."""
        return self._keeps or self.request.last_read != NO_REQUESTS

    async def look_up(self, jobs: Sequence[Execution]) -> None:
        """Read what there is about these jobs, and note which of them may start.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        newest = await self.request.newest()
        names: list[str] = []
        asked: list[tuple[Execution, int]] = []
        for job in jobs:
            if (own := self._names(job, newest)) is not None:
                names += own
                asked.append((job, len(own)))
        found = iter(await self._read(names))
        for job, count in asked:
            if [next(found) for _ in range(count)].count(None) == count:
                job.clear_at = newest

    def _names(self, job: Execution, newest: Version) -> Sequence[str] | None:
        """Name the records that there may be about a job; None for a job that is asked about by itself."""
        delivery = job.delivery
        if delivery.redeliveries or delivery.trail:
            return None
        try:
            envelope = job.decode(delivery.envelope)
        except Exception:  # noqa: BLE001 - performing the job reports it
            return None
        task = self._tasks.get(envelope.task)
        if task is None or self._is_met_again(envelope.id):
            return None
        names = [outcome_name(envelope.id)] if task.options.keep_result is not None else []
        return names if newest == NO_REQUESTS else [*names, cancel_name(envelope.id)]

    def _is_met_again(self, job_id: str) -> bool:
        """Tell whether a job of this id was looked up lately: the first of them may end before this one starts."""
        newer, older = self._met
        again = job_id in newer or job_id in older
        newer.add(job_id)
        if len(newer) >= IDS_REMEMBERED:
            self._met = set(), newer
        return again

    # ── at its start ──

    def newest(self) -> Awaitable[Version]:
        """Find the newest request to cancel; what is read after it may be valid as long as it stays the newest."""
        return self.request.newest()

    async def is_clear(self, job: Execution, task: Task[..., Any]) -> bool:
        """Tell whether the job surely has not ended and is not cancelled; False: perhaps, and its records say more.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        newest = self.request.current()
        if newest is None:
            newest = await self.request.newest()
        if job.clear_at is None and newest == NO_REQUESTS and task.options.keep_result is None:
            job.clear_at = NO_REQUESTS
        return job.clear_at == newest

    def around(self, run: RunExecution, overdue: Callable[[Execution], Outcome | None]) -> RunExecution:
        """Put a last look for a cancellation in front of a run: the job may have waited for its key, or a thread.

        :param overdue: finds whether the job's deadline is over.
        """
        current = self.request.current

        def run_with(job: Execution, task: Task[..., Any], slot: Slot) -> Coroutine[Any, Any, Outcome | None]:
            newest = current()
            if newest is not None and job.clear_at == newest:  # nearly always: without a coroutine of its own
                return run(job, task, slot)
            return run_unless_over(job, task, slot)

        async def run_unless_over(job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:
            over = await self._find_cancelled(job) or overdue(job)
            return await run(job, task, slot) if over is None else over

        return run_with

    async def _find_cancelled(self, job: Execution) -> Outcome | None:
        """Look for a request to cancel the job that is newer than what is known of it."""
        try:
            if job.clear_at != await self.request.newest() and await self._cancels.requested(job.id):
                return CancelledBefore()
        except UnreadableRecord as error:
            return Buried(first_line(error))
        return None
