"""Performing: one job to one outcome, in these steps.

    decode    bytes → envelope → task → trail; is its deadline over?
    inspect   only if it was handed out before: has it ended already, is it cancelled, does it kill its process?
    unpack    payload → arguments, by the contract
    key       only with a key: acquire it, or learn its outcome
    run       in the loop, a thread or a process, under its time limit
    pack      value → result

Each step answers None to go on, or the outcome that ends the job here. An error of a user's function, or of its result,
becomes an outcome and leaves this module never as an exception (C25); the cancellation of the slot does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import Any

import anyio

from taskcore.components import Components
from taskcore.envelope import NOTHING_YET, NewerFormat, decode_trail
from taskcore.errors import InvalidArguments, MalformedEnvelope, UnencodableResult
from taskcore.lifecycle import DeadlinePassed, Malformed, Outcome, Returned, Unregistered, is_last_start
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker.admission import Admission, finish_unrun, starts_of
from taskcore.worker.context import Context, HeldKey, running
from taskcore.worker.execution import RECEIVED, STARTED, Execution, Slot
from taskcore.worker.failures import Failures
from taskcore.worker.runners import FINISHED, Runners, finish
from taskcore.worker.timeouts import Deadlines

__all__ = ["Performer"]


class Performer:
    """Performs jobs for a worker; knows no queue, and no slot but the one it is given.

    :param ack_early: acknowledges a job that may run at most once; False if its lease is lost.
    :param result_limit: bytes that a result may have.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        components: Components,
        admission: Admission,
        *,
        runners: Runners,
        failures: Failures,
        deadlines: Deadlines,
        ack_early: Callable[[Execution], Awaitable[bool]],
        result_limit: int,
    ) -> None:
        self._tasks = tasks
        self._events = components.events
        self._clock = components.clock
        self._admission = admission
        self._quarantine = admission.quarantine
        self._ack_early = ack_early
        self._result_limit = result_limit
        self._cancellation: type[BaseException] | None = None
        self.runners = runners
        self.failures = failures
        self.deadlines = deadlines
        #: Goes around each run; the builder puts middleware there.
        self.run_with: Callable[[Execution, Task[..., Any], Slot], Awaitable[Outcome | None]] = self._run

    async def perform(self, job: Execution, slot: Slot) -> Outcome | None:
        """Perform a job to its outcome; None if its lease turns out to be lost.

        :raises BrokerUnavailable: the store cannot say whether the job may start; perform it again later.
        """
        early = self._decode(job)
        task = job.task
        if early is not None or task is None:
            return early if task is None else finish_unrun(job, early)
        delivery, options = job.delivery, task.options
        alone = False
        if delivery.redeliveries or delivery.trail or self._admission.always_inspects or options.rules.crashes == 1:
            early = await self._admission.inspect(job, options.rules)
            if early is not None:
                return finish_unrun(job, early)
            alone = is_last_start(starts_of(job, options.rules), options.rules)
        early = self._unpack(job, task)
        if early is None and job.envelope.key is not None:
            early = await self._admission.acquire_key(job, task, job.envelope.key, _fence(job))
        if early is not None:
            return early
        if options.runs_in != "loop":
            async with self.runners.rooms[options.runs_in]:
                return await self._start(job, task, slot, alone=alone)
        if alone or self._quarantine.over is not None:
            return await self._start(job, task, slot, alone=alone)
        return await self.run_with(job, task, slot)  # nearly always: not one coroutine more than it takes

    # ── decode ──

    def _decode(self, job: Execution) -> Outcome | None:
        try:
            envelope = job.envelope = job.decode(job.delivery.envelope)
            if job.delivery.trail and job.trail is NOTHING_YET:
                job.trail = decode_trail(job.delivery.trail)
        except NewerFormat as error:
            return Unregistered(error.what, self._clock())
        except MalformedEnvelope as error:
            return Malformed(error.what)
        task = self._tasks.get(envelope.task)
        if task is None:
            return Unregistered(f"no task {envelope.task!r} here", self._clock())
        if envelope.version > task.contract.version:
            here = task.contract.version
            return Unregistered(f"{envelope.task} version {envelope.version}, here is version {here}", self._clock())
        job.task = task
        if envelope.deadline is not None and self._clock() >= envelope.deadline:
            return DeadlinePassed()
        return None

    def _unpack(self, job: Execution, task: Task[..., Any]) -> Outcome | None:
        try:
            job.arguments = task.contract.unpack(job.envelope.args, job.envelope.version)
        except InvalidArguments as error:
            return Malformed("; ".join((error.what, *error.facts)))
        return None

    # ── run ──

    async def _start(self, job: Execution, task: Task[..., Any], slot: Slot, *, alone: bool) -> Outcome | None:
        """Wait until it may start: for a quarantine to end, or for one of its own."""
        if alone:
            async with self._quarantine.run_alone():
                return await self.run_with(job, task, slot)
        await self._quarantine.wait()
        return await self.run_with(job, task, slot)

    async def _run(self, job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:  # noqa: C901 - a list
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
                if type(value) is CoroutineType:
                    value = await value
            if type(value) not in FINISHED:
                value = await finish(value)
        except BaseException as error:
            if job.state is RECEIVED or self._is_interruption(error, slot):
                raise
            return self.failures.raised(job, error)
        finally:
            slot.deadline = None
            quarantine.running -= 1
            if quarantine.over is not None:
                quarantine.notice_end()
        failpoint("run.returned")
        return self._pack(job, task, value)

    def _begin(self, job: Execution, task: Task[..., Any], slot: Slot) -> HeldKey | None:
        """Start: what the function can ask for is there, and its time runs."""
        held = job.key
        key = HeldKey(held.name, held.claim, held.window) if held is not None else None
        trail, cancel_requested = job.trail, self._admission.cancel_requested
        running.set(
            Context(job.envelope, trail, job.delivery.queue, trail.crashes, _fence(job), cancel_requested, task, key)
        )
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
        outcome = await self.runners.runner_of(task).run(job, task, _fence(job), key)
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

    def _is_interruption(self, error: BaseException, slot: Slot) -> bool:
        """Tell the worker's own cancellation from one that the function raised by itself."""
        kind = type(error)  # not isinstance: it asks the error itself, which may say anything
        if issubclass(kind, GeneratorExit):
            return not _in_a_task()  # a loop that is gone closes what it left; in a running one the function raised it
        if self._cancellation is None:
            self._cancellation = anyio.get_cancelled_exc_class()
        return issubclass(kind, self._cancellation) and (
            slot.scope.cancel_called or anyio.current_effective_deadline() == float("-inf")
        )


NOTHING_KEPT = Returned(b"")
FENCE_BITS = 20  #: redeliveries of one copy that a fence has room for


def _in_a_task() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _fence(job: Execution) -> int:
    """Compute a number that grows with each holder: of the key, or else of the job (copies, then redeliveries)."""
    if job.key is not None:
        return job.key.claim.fence
    return (job.trail.copies << FENCE_BITS) + job.delivery.redeliveries + 1
