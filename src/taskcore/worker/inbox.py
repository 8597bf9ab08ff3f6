"""The inbox: jobs that wait for a slot, and slots that wait for a job."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import anyio

from taskcore.worker.execution import Execution

__all__ = ["Inbox"]


class Inbox:
    """Gives received jobs to slots in the order in which they came.

    One idle slot is woken at a time; it wakes the next if there is more. A slot that never has to wait works
    undisturbed.

    :param changed: called when jobs run out or a slot becomes idle, so that more may be received.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._jobs: deque[Execution] = deque()
        self._left: list[Execution] = []
        self._idle: list[anyio.Event] = []
        self._waking = False
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def idle(self) -> int:
        """How many slots wait for a job."""
        return len(self._idle)

    def put(self, jobs: Iterable[Execution]) -> None:
        """Add received jobs."""
        if self.is_closed:
            self._left.extend(jobs)
            return
        self._jobs.extend(jobs)
        self._wake_one()

    def take(self) -> Execution | None:
        """Take the next job; None if there is none, or if no more may start."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        if not self._jobs:
            self._changed()
        elif not self._waking:
            self._wake_one()
        return job

    async def wait(self) -> bool:
        """Wait, as an idle slot, until there may be a job; False if the inbox is closed."""
        if not self.is_closed:
            wake = anyio.Event()
            self._idle.append(wake)
            self._changed()
            try:
                await wake.wait()
            finally:
                if wake in self._idle:  # cancelled: no job is on its way to this slot
                    self._idle.remove(wake)
                else:
                    self._waking = False
        return not self.is_closed

    def remove(self, job: Execution) -> bool:
        """Take out one job that waits; False if it does not wait here."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def close(self) -> None:
        """Give no more jobs to slots, and wake the idle ones; the jobs that wait are left over."""
        self.is_closed = True
        self._left.extend(self._jobs)
        self._jobs.clear()
        while self._idle:
            self._idle.pop().set()

    def leftovers(self) -> list[Execution]:
        """Hand over the jobs that came to no slot before the inbox was closed; each of them once."""
        left, self._left = self._left, []
        return left

    def _wake_one(self) -> None:
        if not self._waking and self._idle and self._jobs:
            self._waking = True
            self._idle.pop().set()
