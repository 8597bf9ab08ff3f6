"""Jobs of tasks that a worker does not know are parked; the worker says so in its log, and to callers."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import anyio
import anyio.abc
import msgspec

from taskcore.components import Components
from taskcore.lifecycle import Unregistered
from taskcore.parking.counts import ParkedCounts
from taskcore.records.names import parked_name
from taskcore.records.parked import PARKED_KEPT, ParkedRecord
from taskcore.store import Write
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import Execution
from taskcore.worker.options import WorkerOptions

__all__ = ["Parking"]

log = logger("taskcore.worker")

LOG_EVERY = 60.0  #: seconds between two warnings about jobs of one task
NAMES_SHOWN = 10
TASKS_REMEMBERED = 1_000  #: of which the last warning is known; their names come from elsewhere


class Parking:
    """Tells of parked jobs: a warning once for each task and minute, and how many there are.

    :param known: the names of the worker's tasks.
    """

    def __init__(self, known: Collection[str], components: Components, options: WorkerOptions) -> None:
        self._known = known
        self._park_for, self._worker = options.park_for, options.name
        self._logged_at: dict[str, float] = {}
        self._counts: ParkedCounts | None = None
        if components.store is not None:
            self._counts = ParkedCounts(components.store, worker=options.name, clock=components.clock)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Tell the store how many jobs are parked, until cancelled."""
        task_status.started()
        if self._counts is not None:
            await self._counts.run()

    def tell(self, job: Execution, outcome: Unregistered, after: float) -> Write | None:
        """Warn of a job that is parked, unless its task was named a moment ago; return what tells its callers.

        :param after: seconds until it is handed out again.
        """
        if self._counts is not None:
            self._counts.add(job.delivery.queue, after)
        task, now = job.labels["task"], anyio.current_time()
        since = outcome.now if job.trail.parked_since is None else job.trail.parked_since
        if now - self._logged_at.get(task, -LOG_EVERY) < LOG_EVERY:
            return None
        if len(self._logged_at) >= TASKS_REMEMBERED:
            self._logged_at.clear()
        self._logged_at[task] = now
        log.warning(
            "%s: job %r of queue %s is parked until a worker that knows it takes it, at most until %s%s",
            outcome.why, job.id, job.delivery.queue, _date(since + self._park_for), self._advice(task),
            extra=job.extra,
        )  # fmt: skip
        record = ParkedRecord(self._worker, outcome.why, since, since + self._park_for)
        return Write(key=parked_name(task), value=msgspec.json.encode(record), keep=PARKED_KEPT)

    def _advice(self, task: str) -> str:
        from difflib import get_close_matches  # noqa: PLC0415 - for tasks that are unknown

        names = sorted(self._known)
        shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" * (len(names) > NAMES_SHOWN))
        function = task.rpartition(".")[2]
        near = [name for name in names if name.rpartition(".")[2] == function and name != task]
        near = near or [name for name in get_close_matches(task, names, n=1) if name != task]
        return f"; this worker has: {shown or 'no tasks'}" + (f'; did you mean "{near[0]}"?' if near else "")


def _date(when: float) -> str:
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "the end of time"
