"""Slots: coroutines that take jobs from the inbox and perform them, one at a time; one timer has their time limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel

from taskcore.contract.codec import first_line
from taskcore.errors import BrokerUnavailable, StoreRefused, UnreadableRecord
from taskcore.lifecycle import Buried, Interrupted, Outcome
from taskcore.observe import Events
from taskcore.toolkit.decimals import without_decimals
from taskcore.toolkit.isolation import is_cancelled_from_outside
from taskcore.toolkit.logging import logger
from taskcore.worker.admission import finish_unrun
from taskcore.worker.build import WorkerParts
from taskcore.worker.execution import LOST, STARTED, STARTED_ACKED, Execution, Slot
from taskcore.worker.inbox import Inbox

__all__ = ["Deadlines", "Slots"]

log = logger("taskcore.worker")

JOBS_IN_A_ROW = 100  #: jobs that never wait, after which the event loop gets a turn: the broker works meanwhile


class Slots:
    """All slots of a worker, and what happens when a job ends in one.

    :param forget: called with jobs that are no longer in hand.
    :ivar quiet: set when the inbox is closed and every slot has ended.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        inbox: Inbox,
        parts: WorkerParts,
        events: Events,
        forget: Callable[[Sequence[Execution]], None],
    ) -> None:
        self.all = slots
        self.quiet = anyio.Event()
        self._open = len(slots)
        self._inbox = inbox
        self._performer, self._store = parts.performer, parts.store
        self._settlement, self._put = parts.decider.settlement, parts.settler.put
        self._events = events
        self._forget = forget

    @property
    def running(self) -> list[Slot]:
        """The slots in which a function runs."""
        return [slot for slot in self.all if slot.job is not None and slot.job.state in (STARTED, STARTED_ACKED)]

    def start(self, group: anyio.abc.TaskGroup) -> None:
        """Start every slot; they end when the inbox is closed.

        They have no decimal context: a job copies its slot's context, and would share it with every other job.
        """
        without_decimals().run(self._start, group)

    def _start(self, group: anyio.abc.TaskGroup) -> None:
        for slot in self.all:
            group.start_soon(self._run, slot)

    async def _run(self, slot: Slot) -> None:
        while not self._inbox.is_closed:
            try:
                slot.scope_is_used_up = False
                with anyio.CancelScope() as slot.scope:
                    await self._work(slot)
            except anyio.get_cancelled_exc_class():
                if is_cancelled_from_outside():
                    raise
                self._report_cancelled(slot)
            if slot.job is not None:
                self._end_interrupted(slot, slot.job)
        slot.isolation.close()
        self._open -= 1  # counted: to look at every slot would take each of many slots longer
        if not self._open:
            self.quiet.set()

    async def _work(self, slot: Slot) -> None:
        """Perform job after job, until the inbox is closed or this slot's scope is used up."""
        inbox, perform, end, in_a_row = self._inbox, self._performer.perform, self.end, 0
        while True:
            job = inbox.take()
            if job is None:
                if not await inbox.wait():
                    return
                continue
            slot.job = job
            try:
                outcome = await perform(job, slot)
            except Exception as error:  # noqa: BLE001 - no job ends the worker (C25)
                outcome = await self._perform_in_spite_of(error, job, slot)
            slot.job = slot.why = None
            end(job, outcome)
            if slot.scope_is_used_up:
                return
            in_a_row += 1
            if in_a_row >= JOBS_IN_A_ROW:
                await anyio.lowlevel.checkpoint()
                in_a_row = 0

    async def _perform_in_spite_of(self, error: Exception, job: Execution, slot: Slot) -> Outcome | None:
        """Find the outcome of a job whose performance failed outside of its own code."""
        if isinstance(error, BrokerUnavailable):
            # The store cannot say whether the job may start: it waits in its slot, under its lease.
            try:
                return await self._store.outlast(error, partial(self._performer.perform, job, slot))
            except Exception as again:  # noqa: BLE001 - the same
                error = again
        if isinstance(error, UnreadableRecord):
            return Buried(first_line(error))  # its start marker stays, too: it may be what cannot be read
        if isinstance(error, StoreRefused):
            return finish_unrun(job, Buried(first_line(error)))
        log.error("performing job %s failed; it is a dead letter", job.id, exc_info=error)
        return finish_unrun(job, Buried(f"it could not be performed: {type(error).__name__}: {first_line(error)}"))

    def _report_cancelled(self, slot: Slot) -> None:
        """Report a slot whose task some code has cancelled by itself; the slot goes on."""
        labels = slot.job.labels if slot.job is not None else {}
        self._events.emit("slot.cancelled", **labels)
        log.error(
            "code in this process cancelled a task of the worker, which goes on; job in hand: %s",
            labels.get("job_id", "none"),
        )

    # ── ends ──

    def end(self, job: Execution, outcome: Outcome | None) -> None:
        """Hand the job's settlement to the settler; an outcome of None is a lease that was lost."""
        if job.pool is not None:
            job.pool.active -= 1
            job.pool.ended += 1
        if outcome is None or job.state is LOST:
            self._events.emit("job.lost", **job.labels)
            self._forget([job])
            return
        self._put(self._settlement(job, outcome))

    def give_back_unstarted(self) -> None:
        """End the jobs that came to no slot before the end: the broker hands them out again, without blame."""
        for job in self._inbox.leftovers():
            self.end(job, Interrupted())

    def _end_interrupted(self, slot: Slot, job: Execution) -> None:
        """End the job that was interrupted in this slot; why decides what that means."""
        why, slot.why, slot.job, slot.deadline = slot.why, None, None, None
        self.end(job, self._performer.failures.interrupted(job, why or "shutdown"))


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
