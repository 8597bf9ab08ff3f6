"""WaitingJobs: lets go of jobs that wait here while their leases end, because nothing could extend them in time.

Another worker gets such a job. To start it here all the same would be a run that nothing comes of, and perhaps one
behind the job's end.
"""

from __future__ import annotations

import anyio
import anyio.abc

from taskcore.toolkit.logging import logger
from taskcore.worker.execution import RECEIVED
from taskcore.worker.leases import LeaseKeeper

__all__ = ["WaitingJobs"]

log = logger("taskcore.worker")

LOOKS_PER_LEASE = 8  #: in a lease; a job is let go when less than the time between two of them is left


class WaitingJobs:
    """Looks after the leases of jobs that wait for a slot, or in one for an answer; a service of a worker."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        task_status.started()
        keeper, pause = self._keeper, self._keeper.lease / LOOKS_PER_LEASE
        while True:
            await keeper.until_work()
            await anyio.sleep(pause)
            soon = anyio.current_time() + pause
            waiting = [job for job in tuple(keeper.executions) if job.state is RECEIVED]
            if over := [job for job in waiting if not keeper.holds(job, soon)]:
                log.warning("%d jobs that waited here are let go: their leases end, and were not extended", len(over))
                for job in over:
                    keeper.lost(job)
