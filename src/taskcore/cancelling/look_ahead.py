"""Looking ahead: the records of received jobs are read in batches before slots get them, and no slot waits for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import anyio
import anyio.abc

from taskcore.errors import TaskcoreError
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import Execution
from taskcore.worker.inbox import Inbox

__all__ = ["LookAhead"]

log = logger("taskcore.worker")

LOOK_UP_BATCH = 1_000  #: jobs looked up at once


class LooksUpJobs(Protocol):
    """Reads what there is about some jobs."""

    @property
    def looks_up(self) -> bool:
        """Whether there may be anything."""
        ...

    async def look_up(self, jobs: Sequence[Execution]) -> None:
        """Read it, and note which jobs may start."""
        ...


class LookAhead:
    """Holds received jobs in the inbox until they are looked up; those that came meanwhile are the next batch."""

    def __init__(self, inbox: Inbox, looks: LooksUpJobs) -> None:
        self._inbox = inbox
        self._looks = looks
        self._arrived = anyio.Event()

    def put(self, jobs: Sequence[Execution]) -> None:
        """Put received jobs into the inbox; slots get them at once if there is nothing to look up."""
        if self._looks.looks_up or self._inbox.held:
            self._inbox.hold(jobs)
            self._arrived.set()
        else:
            self._inbox.put(jobs)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Look up what is held, until cancelled."""
        task_status.started()
        while True:
            self._arrived = anyio.Event()
            if not self._inbox.held:
                await self._arrived.wait()
            jobs = self._inbox.held[:LOOK_UP_BATCH]
            try:
                await self._looks.look_up(jobs)
            except TaskcoreError as error:  # each of them is asked about at its start, and that reports an outage
                log.debug("%d jobs could not be looked up together: %s", len(jobs), error)
            self._inbox.release(jobs)
