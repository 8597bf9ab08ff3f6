"""Performing: one job to one outcome, in these steps.

    decode    bytes → envelope → task → trail; is its deadline over?
    inspect   only if it was handed out before, or the broker cannot take back a job that waits: has it ended already,
              is it cancelled, does it kill its process?
    unpack    payload → arguments, by the contract
    key       only with a key: acquire it, or learn its outcome
    run       in the loop, a thread or a process, under its time limit
    pack      value → result

Each step answers None to go on, or the outcome that ends the job here. An error of a user's function, or of its result,
becomes an outcome and leaves this module never as an exception (C25); the cancellation of the slot does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from importlib import import_module
from types import CoroutineType
from typing import Any, cast

import anyio

from taskcore.components import Components
from taskcore.envelope import NOTHING_YET, NewerFormat, decode_trail, is_name, running
from taskcore.errors import InvalidArguments, MalformedEnvelope, UnencodableResult
from taskcore.lifecycle import DeadlinePassed, Interrupted, Malformed, Outcome, Returned, Unregistered, is_last_start
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.isolation import UNFINISHED, WorkCancelled
from taskcore.worker.admission import Admission, finish_unrun, starts_of
from taskcore.worker.context import Context, HeldKey
from taskcore.worker.execution import RECEIVED, STARTED, Execution, Slot
from taskcore.worker.failures import Failures
from taskcore.worker.runners import FINISHED, Runners, finish

__all__ = ["Performer"]


class Performer:
    """Performs jobs for a worker; knows no queue, and no slot but the one it is given.

    :param watch: interrupts what runs in a slot at a time of the event loop's clock.
    :param ack_early: acknowledges a job that may run at most once; False if its lease is lost.
    :param result_limit: bytes that a result may have.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        components: Components,
        admission: Admission,
        runners: Runners,
        *,
        failures: Failures,
        watch: Callable[[Slot, float], None],
        ack_early: Callable[[Execution], Awaitable[bool]],
        result_limit: int,
    ) -> None:
        self.tasks = tasks
        self._events = components.events
        self._clock = components.clock
        self.admission = admission
        self._always_inspects = admission.always_inspects
        self._cancel_requested = admission.cancel_requested
        self._quarantine = admission.quarantine
        self._watch = watch
        self._ack_early = ack_early
        self.result_limit = result_limit
        self.runners = runners
        self.failures = failures
        #: Goes around each run; the builder puts middleware there.
        self.run_with: Callable[[Execution, Task[..., Any], Slot], Coroutine[Any, Any, Outcome | None]] = self._run

    async def perform(self, job: Execution, slot: Slot) -> Outcome | None:  # noqa: C901 - a list of steps
        """Perform a job to its outcome; None if its lease turns out to be lost.

        :raises BrokerUnavailable: the store cannot say whether the job may start; perform it again later.
        """
        early = self._decode(job)
        task = job.task
        if early is not None or task is None:
            return await self._end_early(job, slot, early)
        delivery, options = job.delivery, task.options
        alone = False
        if delivery.redeliveries or delivery.trail or self._always_inspects or options.rules.crashes == 1:
            early = await self.admission.inspect(job, task) or self.overdue(job)
            if early is not None:
                return finish_unrun(job, early)
            alone = is_last_start(starts_of(job, options.rules), options.rules)
        envelope = job.envelope
        try:
            job.arguments = task.contract.unpack(envelope.args, envelope.version)
        except InvalidArguments as error:
            why = "; ".join((error.what, *error.public_facts))
            return Unregistered(why, self._clock()) if error.only_unknown else Malformed(why)
        if envelope.key is not None:
            early = await self.admission.acquire_key(job, task, envelope.key, _fence(job)) or self.overdue(job)
            if early is not None:
                return early
        if options.runs_in == "loop" and not alone and self._quarantine.over is None:  # nearly always
            may_run = None
        else:
            may_run = await self._wait_to_run(task, alone=alone)
            if early := self.overdue(job):
                await may_run.aclose()
                return finish_unrun(job, early)
        try:
            started = slot.isolation.start(self.run_with(job, task, slot))
            outcome: Outcome | None = started if started is not UNFINISHED else await slot.isolation.finish()
        except WorkCancelled:
            outcome = self.failures.cancelled(job, slot)
        finally:
            if may_run is not None:
                await may_run.aclose()
        return outcome

    # ── decode ──

    def _decode(self, job: Execution) -> Outcome | None:
        try:
            envelope = job.envelope = job.decode(job.delivery.envelope)
            if job.delivery.trail and job.trail is NOTHING_YET:
                job.trail = decode_trail(job.delivery.trail)
        except NewerFormat as error:
            job.beyond = error
            return Unregistered(error.what, self._clock())
        except MalformedEnvelope as error:
            return Malformed(error.what)
        task = self.tasks.get(envelope.task)
        if task is None:
            if not is_name(envelope.task):
                return Malformed(f"{envelope.task[:NAME_SHOWN]!r} cannot be the name of a task")
            return Unregistered(f"no task {envelope.task!r} here", self._clock())
        if envelope.version > task.contract.version:
            here = task.contract.version
            return Unregistered(f"{envelope.task} version {envelope.version}, here is version {here}", self._clock())
        soft = envelope.soft_timeout
        job.task = task if soft is None else import_module(SOFT_TIMEOUTS).limited_call(task, soft)
        return None if envelope.deadline is None else self.overdue(job)

    def overdue(self, job: Execution) -> Outcome | None:
        """Find whether the job's deadline is over; asked again after each wait: for the store, a thread, an answer."""
        deadline = job.envelope.deadline
        return DeadlinePassed() if deadline is not None and self._clock() >= deadline else None

    async def _end_early(self, job: Execution, slot: Slot, early: Outcome | None) -> Outcome | None:
        if isinstance(job.beyond, NewerFormat) and self.admission.workflows is not None:
            return cast("Outcome | None", await self.admission.workflows().perform(job, slot))
        return early if job.task is None else finish_unrun(job, early)

    # ── run ──

    async def _wait_to_run(self, task: Task[..., Any], *, alone: bool) -> AsyncExitStack:
        """Wait for a thread or a process, and for a quarantine to end, or for one of its own; left after the run."""
        async with AsyncExitStack() as entered:
            if task.options.runs_in != "loop":
                await entered.enter_async_context(self.runners.rooms[task.options.runs_in])
            if alone:
                await entered.enter_async_context(self._quarantine.run_alone())
            else:
                await self._quarantine.wait()
            return entered.pop_all()

    async def _run(self, job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:  # noqa: C901, PLR0912 - a list
        """Run the job's function to an outcome; None if the job's lease is lost.

        :raises BrokerUnavailable: the start cannot be marked; nothing has run.
        """
        options, contract, quarantine = task.options, task.contract, self._quarantine
        quarantine.running += 1
        try:
            if options.delivery == "at_most_once":
                if not await self._ack_early(job):
                    return None
                if early := self.overdue(job):
                    return early
            elif job.marker is not None:
                if not await self.admission.mark_start(job):
                    return Interrupted()
                if early := self.overdue(job):
                    return early
            fence, key = self._begin(job, task, slot)
            if options.runs_in == "process":
                return await self._elsewhere(job, task, fence, key)
            if options.runs_in == "thread":
                value = await self.runners.in_thread(task, job.arguments)
            else:
                value = contract.invoke(contract.function, job.arguments)
                if type(value) is CoroutineType:
                    value = await value
            if type(value) not in FINISHED:
                value = await finish(value)
            if slot.dropped:
                await slot.close_dropped()
        except BaseException as error:  # noqa: BLE001 - raised again if it does not belong to the job
            slot.outcome = self.failures.outcome_of(error, job, slot)
            if slot.dropped:
                await slot.close_dropped()
            return slot.outcome
        finally:
            slot.deadline = slot.context = None
            quarantine.running -= 1
            if quarantine.over is not None:
                quarantine.at_end()
        failpoint("run.returned")
        if options.keep_result is None and job.key is None:
            outcome: Outcome = NOTHING_KEPT
        else:
            outcome = self._pack(job, task, value)
        slot.outcome = outcome
        return outcome

    def _begin(self, job: Execution, task: Task[..., Any], slot: Slot) -> tuple[int, HeldKey | None]:
        """Start: what the function can ask for is there, and its time runs. Return the job's fence and its key."""
        trail, delivery, key = job.trail, job.delivery, None
        fence = (trail.copies << FENCE_BITS) + delivery.redeliveries + 1
        if job.key is not None:
            key, fence = HeldKey(job.key.name, job.key.claim, job.key.window), job.key.claim.fence
        slot.outcome = None
        slot.context = Context(
            job.envelope, trail, delivery.queue, trail.crashes, fence, self._cancel_requested, task, key, slot
        )
        running.set(slot.context)
        if job.state is RECEIVED:
            job.state = STARTED
        if self._events.listeners:
            job.started_at = anyio.current_time()
            waited = None if job.trail.copies else max(self._clock() - job.envelope.enqueued_at, 0.0)
            self._events.tell("job.started", {**job.labels, "waited": waited})
        timeout = task.options.timeout if job.envelope.timeout is None else job.envelope.timeout
        if timeout is not None:
            self._watch(slot, anyio.current_time() + timeout)
        return fence, key

    # ── pack ──

    async def _elsewhere(self, job: Execution, task: Task[..., Any], fence: int, key: HeldKey | None) -> Outcome:
        """Run the function by a runner, which packs its result itself."""
        outcome = await self.runners.runner_of(task).run(job, task, fence, key)
        if isinstance(outcome, Returned) and len(outcome.result) > self.result_limit:
            return self.failures.too_large(job, outcome.result, self.result_limit)
        return outcome

    def _pack(self, job: Execution, task: Task[..., Any], value: Any) -> Outcome:
        try:
            result = task.contract.pack_result(value)
        except UnencodableResult as error:
            return NOTHING_KEPT if value is job.beyond else self.failures.unencodable(job, error)
        if len(result) > self.result_limit:
            return self.failures.too_large(job, result, self.result_limit)
        return Returned(result)


NOTHING_KEPT = Returned(b"")
SOFT_TIMEOUTS = "taskcore.soft_timeouts"  #: the feature that raises in functions that take too long
NAME_SHOWN = 80  #: characters of what cannot be a name
FENCE_BITS = 20  #: redeliveries of one copy that a fence has room for


def _fence(job: Execution) -> int:
    """Compute a number that grows with each holder of the job: with its copies, then with its redeliveries."""
    return (job.trail.copies << FENCE_BITS) + job.delivery.redeliveries + 1
