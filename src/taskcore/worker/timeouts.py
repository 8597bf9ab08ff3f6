"""Time limits: one timer for all running jobs."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import anyio.abc

from taskcore.worker.execution import Slot

__all__ = ["Deadlines"]


class Deadlines:
    """Sleeps until the earliest deadline, and interrupts the jobs that are over theirs."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = slots
        self._soonest = float("inf")
        self._sooner = anyio.Event()

    def watch(self, slot: Slot, deadline: float) -> None:
        """Interrupt what runs in this slot when the time comes, unless the slot's deadline is cleared before."""
        slot.deadline = deadline
        if deadline < self._soonest:
            self._soonest = deadline
            self._sooner.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Interrupt what is late, until cancelled."""
        task_status.started()
        while True:
            self._sooner = anyio.Event()
            self._soonest = min(
                (slot.deadline for slot in self._slots if slot.deadline is not None), default=float("inf")
            )
            with anyio.CancelScope(deadline=self._soonest):
                await self._sooner.wait()
            now = anyio.current_time()
            for slot in self._slots:
                if slot.deadline is not None and slot.deadline <= now:
                    slot.deadline = None
                    slot.interrupt("timeout")
