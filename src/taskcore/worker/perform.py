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

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import anyio

from taskcore.components import Components
from taskcore.envelope import NOTHING_YET, NewerFormat, decode_trail
from taskcore.errors import BrokerUnavailable, InvalidArguments, MalformedEnvelope, UnencodableResult
from taskcore.lifecycle import DeadlinePassed, Malformed, Outcome, Returned, Unregistered, is_last_start
from taskcore.records import Records
from taskcore.store import largest_value
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker.admission import Admission, finish_unrun, starts_of
from taskcore.worker.context import Context, HeldKey, running
from taskcore.worker.execution import RECEIVED, STARTED, Execution, Slot
from taskcore.worker.failures import Failures
from taskcore.worker.options import WorkerOptions
from taskcore.worker.outages import Outage
from taskcore.worker.quarantine import Quarantine
from taskcore.worker.runners import Executors
from taskcore.worker.settle import Settler
from taskcore.worker.timeouts import Deadlines

__all__ = ["Performer"]


class Performer:
    """Performs jobs for a worker; knows no queue, and no slot but the one it is given."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        components: Components,
        records: Records | None,
        options: WorkerOptions,
        *,
        settler: Settler,
        slots: Iterable[Slot],
        outage: Outage,
    ) -> None:
        clock, features = components.clock, components.backend.features
        self._tasks = tasks
        self._result_limit = min(options.result_limit, largest_value(components.store) or options.result_limit)
        self._events = components.events
        self._clock = clock
        self._admission = Admission(records, features, lease=options.lease, clock=clock)
        self._settler = settler
        self._outage = outage
        self._quarantine = Quarantine()
        self._cancellation: type[BaseException] | None = None
        self.executors = Executors(threads=options.threads, processes=options.processes)
        self.deadlines = Deadlines(slots)
        self.failures = Failures(components.events, clock=clock, worker=options.name)
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
            async with self.executors.rooms[options.runs_in]:
                return await self._start(job, task, slot, alone=alone)
        if alone or self._quarantine.over is not None:
            return await self._start(job, task, slot, alone=alone)
        return await self.run_with(job, task, slot)  # nearly always: not one coroutine more than it takes

    async def perform_later(self, job: Execution, slot: Slot, error: BrokerUnavailable) -> Outcome | None:
        """Perform the job as soon as the store can say whether it may start; it waits in its slot, under its lease."""
        while True:
            await self._outage.failed(error)
            try:
                outcome = await self.perform(job, slot)
            except BrokerUnavailable as again:
                error = again
            else:
                self._outage.recovered()
                return outcome

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
            return Malformed("; ".join((error.what, *error.public_facts)))
        return None

    # ── run ──

    async def _start(self, job: Execution, task: Task[..., Any], slot: Slot, *, alone: bool) -> Outcome | None:
        """Wait until it may start: for a quarantine to end, or for one of its own."""
        if alone:
            async with self._quarantine.run_alone():
                return await self.run_with(job, task, slot)
        await self._quarantine.wait()
        return await self.run_with(job, task, slot)

    async def _run(self, job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:
        options, contract, quarantine = task.options, task.contract, self._quarantine
        quarantine.running += 1
        try:
            if options.delivery == "at_most_once":
                if not await self._settler.ack_early(job):
                    return None
            elif job.marker is not None:
                await self._admission.mark_start(job)
            key = self._begin(job, task, slot)
            if options.runs_in == "process":
                return await self._in_process(job, task, key)
            if options.runs_in == "thread":
                value = await self.executors.in_thread(task, job.arguments)
            else:
                value = contract.invoke(contract.function, job.arguments)
                if task.is_async:
                    value = await value
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

    async def _in_process(self, job: Execution, task: Task[..., Any], key: HeldKey | None) -> Outcome:
        """Run the function in a process, which packs its result itself."""
        outcome = self.failures.answered(job, await self.executors.in_process(task, job, _fence(job), key))
        if isinstance(outcome, Returned) and len(outcome.result) > self._result_limit:
            return self._too_large(job, outcome.result)
        return outcome

    def _pack(self, job: Execution, task: Task[..., Any], value: Any) -> Outcome:
        if task.options.keep_result is None and job.key is None:
            return NOTHING_KEPT
        try:
            result = task.contract.pack_result(value)
        except UnencodableResult as error:
            return self.failures.unencodable(job, error)
        return Returned(result) if len(result) <= self._result_limit else self._too_large(job, result)

    def _too_large(self, job: Execution, result: bytes) -> Outcome:
        return self.failures.too_large(job, len(result), self._result_limit)

    def _is_interruption(self, error: BaseException, slot: Slot) -> bool:
        """Tell the worker's own cancellation from one that the function raised by itself."""
        if isinstance(error, GeneratorExit):
            return not _in_a_task()  # a loop that is gone closes what it left; in a running one the function raised it
        if self._cancellation is None:
            self._cancellation = anyio.get_cancelled_exc_class()
        return isinstance(error, self._cancellation) and (
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
