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

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any

from taskcore.components import Components
from taskcore.envelope import NOTHING_YET, NewerFormat, decode_trail
from taskcore.errors import InvalidArguments, MalformedEnvelope
from taskcore.lifecycle import DeadlinePassed, Malformed, Outcome, Unregistered, is_last_start
from taskcore.options import RunsIn
from taskcore.task import Task
from taskcore.toolkit.isolation import UNFINISHED, WorkCancelled
from taskcore.worker.admission import Admission, finish_unrun, starts_of
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.invoke import Invoker, fence_of

__all__ = ["Performer"]


class Performer:
    """Performs jobs for a worker; knows no queue, and no slot but the one it is given."""

    def __init__(
        self, tasks: Mapping[str, Task[..., Any]], components: Components, admission: Admission, invoker: Invoker
    ) -> None:
        self._tasks = tasks
        self._clock = components.clock
        self._admission = admission
        self._quarantine = admission.quarantine
        self.invoker = invoker
        #: Goes around each run; the builder puts middleware there.
        self.run_with: Callable[[Execution, Task[..., Any], Slot], Coroutine[Any, Any, Outcome | None]] = invoker.run

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
            early = await self._admission.acquire_key(job, task, job.envelope.key, fence_of(job))
        if early is not None:
            return early
        if options.runs_in == "loop" and not alone and self._quarantine.over is None:  # nearly always
            may_run = None
        else:
            may_run = await self._wait_to_run(options.runs_in, alone=alone)
        try:
            started = slot.isolation.start(self.run_with(job, task, slot))
            outcome: Outcome | None = started if started is not UNFINISHED else await slot.isolation.finish()
        except WorkCancelled:
            outcome = self.invoker.cancelled(job, slot)
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

    async def _wait_to_run(self, runs_in: RunsIn, *, alone: bool) -> AsyncExitStack:
        """Wait for a thread or a process, and for a quarantine to end, or for one of its own; left after the run."""
        async with AsyncExitStack() as entered:
            if runs_in != "loop":
                await entered.enter_async_context(self.invoker.runners.rooms[runs_in])
            if alone:
                await entered.enter_async_context(self._quarantine.run_alone())
            else:
                await self._quarantine.wait()
            return entered.pop_all()
