"""Invoking: one job's function from its start to its outcome, inside of the job's own task.

start    only with a suspicion or at most once: mark the start, or let the broker forget the job first
call     in the loop, or by a runner in a thread or a process, under its time limit
pack     value → result; what the function raises becomes an outcome (C25), and an interruption one, too (C21)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio

from taskcore.components import Components
from taskcore.errors import UnencodableResult
from taskcore.lifecycle import Interrupted, Outcome, Returned
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker.admission import Admission
from taskcore.worker.context import Context, HeldKey, running
from taskcore.worker.execution import RECEIVED, STARTED, Execution, Slot, Why
from taskcore.worker.failures import Failures
from taskcore.worker.leftovers import close_generators
from taskcore.worker.runners import Runners
from taskcore.worker.timeouts import Deadlines

__all__ = ["Invoker", "fence_of"]


class Invoker:
    """Runs the functions of jobs.

    :param worker: its name, for the records of errors.
    :param ack_early: acknowledges a job that may run at most once; False if its lease is lost.
    :param result_limit: bytes that a result may have.
    """

    def __init__(
        self,
        components: Components,
        admission: Admission,
        runners: Runners,
        *,
        slots: Iterable[Slot],
        worker: str,
        ack_early: Callable[[Execution], Awaitable[bool]],
        result_limit: int,
    ) -> None:
        self._events = components.events
        self._clock = components.clock
        self._admission = admission
        self._quarantine = admission.quarantine
        self._ack_early = ack_early
        self._result_limit = result_limit
        self.runners = runners
        self.failures = Failures(components.events, clock=components.clock, worker=worker)
        self.deadlines = Deadlines(slots)

    async def run(self, job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:
        """Run the job's function to an outcome; None if the job's lease is lost.

        :raises BrokerUnavailable: the start cannot be marked; nothing has run.
        """
        options, contract, quarantine = task.options, task.contract, self._quarantine
        quarantine.running += 1
        try:
            if options.delivery == "at_most_once":
                if not await self._ack_early(job):
                    return None
            elif job.marker is not None:
                await self._admission.mark_start(job)
            key = self._begin(job, task, slot)
            if options.runs_in == "process":
                return await self._elsewhere(job, task, key)
            if options.runs_in == "thread":
                value = await self.runners.in_thread(task, job.arguments)
            else:
                value = contract.invoke(contract.function, job.arguments)
                if task.is_async:
                    value = await value
            if slot.dropped:
                await close_generators(slot, job.id)
        except BaseException as error:  # noqa: BLE001 - raised again if it does not belong to the job
            return self._outcome_of(error, job, slot)
        finally:
            slot.deadline = slot.context = None
            quarantine.running -= 1
            if quarantine.over is not None:
                quarantine.notice_end()
        failpoint("run.returned")
        outcome = slot.outcome = self._pack(job, task, value)
        return outcome

    def _begin(self, job: Execution, task: Task[..., Any], slot: Slot) -> HeldKey | None:
        """Start: what the function can ask for is there, and its time runs."""
        held = job.key
        key = HeldKey(held.name, held.claim, held.window) if held is not None else None
        trail, cancel_requested = job.trail, self._admission.cancel_requested
        slot.outcome = None
        slot.context = context = Context(
            job.envelope, trail, job.delivery.queue, trail.crashes, fence_of(job), cancel_requested, task, key, slot
        )
        running.set(context)
        if job.state is RECEIVED:
            job.state = STARTED
        if self._events.listeners:
            job.started_at = anyio.current_time()
            waited = None if job.trail.copies else max(self._clock() - job.envelope.enqueued_at, 0.0)
            self._events.tell("job.started", {**job.labels, "waited": waited})
        if task.options.timeout is not None:
            self.deadlines.watch(slot, anyio.current_time() + task.options.timeout)
        return key

    # ── pack ──

    async def _elsewhere(self, job: Execution, task: Task[..., Any], key: HeldKey | None) -> Outcome:
        """Run the function by a runner, which packs its result itself."""
        outcome = await self.runners.runner_of(task).run(job, task, fence_of(job), key)
        if isinstance(outcome, Returned) and len(outcome.result) > self._result_limit:
            return self.failures.too_large(job, outcome.result, self._result_limit)
        return outcome

    def _pack(self, job: Execution, task: Task[..., Any], value: Any) -> Outcome:
        if task.options.keep_result is None and job.key is None:
            return NOTHING_KEPT
        try:
            result = task.contract.pack_result(value)
        except UnencodableResult as error:
            return self.failures.unencodable(job, error)
        if len(result) > self._result_limit:
            return self.failures.too_large(job, result, self._result_limit)
        return Returned(result)

    # ── not by returning ──

    def cancelled(self, job: Execution, slot: Slot) -> Outcome | None:
        """Make the outcome of a job whose task was cancelled: by the worker, or by what the job did to itself."""
        if slot.why is not None:
            return self.interrupted(job, slot.why)
        return slot.outcome or self.failures.raised(job, anyio.get_cancelled_exc_class()())

    def _outcome_of(self, error: BaseException, job: Execution, slot: Slot) -> Outcome | None:
        """Make the outcome of a job that raised; raise what does not belong to the job."""
        if slot.why is not None:  # whatever the function's clean-up raised (C21)
            return self.interrupted(job, slot.why)
        if job.state is RECEIVED or _ends_the_slot(error, slot):
            raise error
        return self.failures.raised(job, error)

    def interrupted(self, job: Execution, why: Why) -> Outcome | None:
        """Make the outcome of a job that the worker interrupted, whatever its clean-up came to."""
        if why == "timeout":
            return self.failures.timed_out(job)
        return None if why == "lost" else Interrupted()


NOTHING_KEPT = Returned(b"")
FENCE_BITS = 20  #: redeliveries of one copy that a fence has room for


def _ends_the_slot(error: BaseException, slot: Slot) -> bool:
    """Tell what concerns the slot from what the function raised by itself."""
    if isinstance(error, GeneratorExit):
        return not _in_a_task()  # a loop that is gone closes what it left; in a running one the function raised it
    return slot.isolation.belongs_to_caller(error)


def _in_a_task() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def fence_of(job: Execution) -> int:
    """Compute a number that grows with each holder: of the key, or else of the job (copies, then redeliveries)."""
    if job.key is not None:
        return job.key.claim.fence
    return (job.trail.copies << FENCE_BITS) + job.delivery.redeliveries + 1
