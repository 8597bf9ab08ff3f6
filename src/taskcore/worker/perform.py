"""Performing: one job to one outcome, in these steps.

    open      bytes → envelope → task → trail; is its deadline over?
    examine   only if it was handed out before: has it ended already, is it cancelled, does it kill its process?
    unpack    payload → arguments, by the contract
    hold      only with a key: take it, or learn its outcome
    run       in the loop, a thread or a process, under its time limit
    pack      value → result

Each step answers None to go on, or the outcome that ends it here. Nothing a user's function, error or result does can
leave this file as an exception, except the cancellation of the slot itself (C25).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio

from taskcore.backend import Features
from taskcore.envelope import ErrorRecord, decode_envelope, decode_trail
from taskcore.errors import BrokerUnavailable, InvalidArguments, LeaseLost, MalformedEnvelope, UnencodableResult
from taskcore.lifecycle import (
    ACK,
    AlreadyDone,
    Buried,
    CancelledBefore,
    DeadlinePassed,
    Deferred,
    Malformed,
    Outcome,
    Poisoned,
    Raised,
    Returned,
    Rules,
    TimedOut,
    Unencodable,
    Unregistered,
    is_last_start,
    is_poison,
)
from taskcore.observe import Events
from taskcore.records.keys import BUSY_RETRY, Busy, Completed, IdempotencyKeys, KeyRecord, fingerprint, key_name
from taskcore.results import Outcomes, decode_outcome
from taskcore.store import Store, Write
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.worker.context import Context, HeldKey, running
from taskcore.worker.error_records import describe
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import Deadlines
from taskcore.worker.quarantine import Quarantine
from taskcore.worker.runners import Executors
from taskcore.worker.runners.frames import Answer, JobRaised
from taskcore.worker.runners.outcomes import outcome_of
from taskcore.worker.settle import MARKER_KEPT

__all__ = ["Performer"]

log = logger("taskcore.worker")


class Performer:
    """Performs jobs for a worker; knows nothing of queues and slots beyond the one it is given."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        store: Store | None,
        events: Events,
        *,
        executors: Executors,
        deadlines: Deadlines,
        features: Features,
        lease: float,
        clock: Callable[[], float],
        name: str,
    ) -> None:
        self._tasks = tasks
        self._store = store
        self._results = Outcomes(store) if store is not None else None
        self._keys = IdempotencyKeys(store) if store is not None else None
        self._events = events
        self._executors = executors
        self._deadlines = deadlines
        self._counts_redeliveries = features.redeliveries != "absent"
        self._may_be_twins = features.dedup == "absent"
        self._always_look = features.remove == "absent" and store is not None
        self._lease = lease
        self._clock = clock
        self._name = name
        self._quarantine = Quarantine()
        self._cancellation: type[BaseException] | None = None

    async def perform(self, job: Execution, slot: Slot) -> Outcome | None:
        """The outcome of a job; None if its lease turned out to be lost.

        :raises BrokerUnavailable: the store cannot say whether the job may start; perform it again later.
        """
        early = self._decode(job)
        task = job.task
        if early is not None or task is None:
            return early if task is None else _finish_unrun(job, early)
        delivery, options = job.delivery, task.options
        if delivery.redeliveries or delivery.trail or self._always_look or options.rules.crashes == 1:
            early = await self._inspect(job, options.rules)
            if early is not None:
                return _finish_unrun(job, early)
        early = self._unpack(job, task)
        if early is None and job.envelope.key is not None:
            early = await self._take_key(job, task, job.envelope.key)
        if early is not None:
            return early
        if options.runs_in != "loop":
            async with self._executors.rooms[options.runs_in]:
                return await self._start(job, task, slot)
        if job.alone or self._quarantine.busy:
            return await self._start(job, task, slot)
        return await self._run(job, task, slot)  # nearly always: not one coroutine more than it takes

    # ── open ──

    def _decode(self, job: Execution) -> Outcome | None:
        try:
            envelope = job.envelope = decode_envelope(job.delivery.envelope)
            if job.delivery.trail:
                job.trail = decode_trail(job.delivery.trail)
                job.crashes = job.trail.crashes
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

    # ── examine: what was handed out before may have ended, been cancelled, or kill its process ──

    async def _inspect(self, job: Execution, rules: Rules) -> Outcome | None:
        if self._results is not None:
            ending = await self._results.find(job.id)
            if ending is not None:
                return _from_stored(ending)
            if await self._results.cancel_requested(job.id):
                return CancelledBefore()
        first = not (job.delivery.redeliveries or job.delivery.trail)  # looked up only because it may be cancelled
        if job.marker is None and not (first and rules.crashes > 1):
            await self._count_starts(job)
        # With a single crash allowed the very first start is marked, too: without a mark it never started.
        starts = job.crashes + (job.first_lost and rules.crashes > 1)
        if is_poison(starts, rules):
            return Poisoned(job.crashes)
        job.alone = is_last_start(starts, rules)
        return None

    async def _count_starts(self, job: Execution) -> None:
        """Starts without an outcome. All but a job's very first are marked; so a redelivery of that one counts as one.

        Without a store the broker's own count stands in, where it has one; it counts prefetched jobs too.
        """
        if self._store is None:
            job.crashes = job.trail.crashes + (job.delivery.redeliveries if self._counts_redeliveries else 0)
            return
        record = await self._store.get(_marker(job))
        marked = int(record.value) if record is not None else 0
        job.crashes = job.trail.crashes + marked
        job.first_lost = job.trail.first_lost or (job.delivery.redeliveries > 0 and not job.delivery.trail)
        job.marker = _marker(job)

    # ── unpack and hold ──

    def _unpack(self, job: Execution, task: Task[..., Any]) -> Outcome | None:
        try:
            job.arguments = task.contract.unpack(job.envelope.args, job.envelope.version)
        except InvalidArguments as error:
            return Malformed("; ".join((error.what, *error.facts)))
        return None

    async def _take_key(self, job: Execution, task: Task[..., Any], key: str) -> Outcome | None:
        if self._keys is None:
            return Unregistered("its key needs a store, and this worker has none", self._clock())
        args = fingerprint(bytes(job.envelope.args))
        claim = KeyRecord(key=key, job=job.id, args=args, queue=job.delivery.queue)
        taken = await self._keys.acquire(
            key_name(task.name, key),
            claim,
            hold=self._lease,
            now=self._clock(),
            keep=task.options.key_window,
            least_fence=_fence(job),
            twin=self._may_be_twins and not job.delivery.redeliveries,
        )
        if isinstance(taken, Completed):
            first = _from_stored(taken.outcome)
            if isinstance(first, Buried) and taken.job != job.id:
                return Buried(first.reason)  # another job's error is not ours
            return first
        if isinstance(taken, Busy):
            return Deferred(taken.after)
        job.key = taken
        failpoint("hold.taken")
        return None

    # ── run and pack ──

    async def _mark(self, job: Execution, marker: str) -> None:
        """Count this start as a crash until it has ended; not before it really starts, because waiting kills nobody."""
        if self._store is not None:
            before = job.crashes - job.trail.crashes
            write = Write(key=marker, value=str(before + 1).encode(), keep=MARKER_KEPT, reserve=True)
            await self._store.put_many([write])
            failpoint("examine.marked")

    async def _start(self, job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:
        """Wait until it may start, which is not always at once: somebody may have to be alone."""
        if job.alone:
            async with self._quarantine.run_alone():
                return await self._run(job, task, slot)
        await self._quarantine.wait()
        return await self._run(job, task, slot)

    async def _run(self, job: Execution, task: Task[..., Any], slot: Slot) -> Outcome | None:
        options, contract = task.options, task.contract
        self._quarantine.running += 1
        try:
            if options.delivery == "at_most_once":
                if not await self._ack_early(job):
                    return None
            elif job.marker is not None:
                await self._mark(job, job.marker)
            holding = self._begin(job, task, slot)
            if options.runs_in == "process":
                return self._answered(job, await self._executors.in_process(task, job, _fence(job), holding))
            if options.runs_in == "thread":
                value = await self._executors.in_thread(task, job.arguments)
            else:
                value = contract.invoke(contract.function, job.arguments)
                if task.is_async:
                    value = await value
        except BaseException as error:
            if not job.started or self._is_interruption(error, slot):
                raise
            return self._raised(job, error)
        finally:
            slot.deadline = None
            self._quarantine.ended()
        failpoint("run.returned")
        return self._pack(job, task, value)

    def _begin(self, job: Execution, task: Task[..., Any], slot: Slot) -> HeldKey | None:
        """From here on it has started: what it can ask for is there, and its time runs."""
        hold = job.key
        holding = HeldKey(hold.name, hold.claim, hold.window) if hold is not None else None
        running.set(
            Context(
                job.envelope,
                job.trail,
                job.delivery.queue,
                job.crashes,
                _fence(job),
                self._asked_to_cancel,
                task,
                holding,
            )
        )
        job.started = True
        if self._events.listeners:
            self._events.tell("job.started", job.labels)
        if task.options.timeout is not None:
            self._deadlines.watch(slot, anyio.current_time() + task.options.timeout)
        return holding

    def _pack(self, job: Execution, task: Task[..., Any], value: Any) -> Outcome:
        if task.options.keep_result is None and job.key is None:
            return NOTHING_KEPT
        try:
            return Returned(task.contract.pack_result(value))
        except UnencodableResult as error:
            log.warning("job %s: %s", job.id, error)
            return Unencodable(self._describe(job, error))

    def _raised(self, job: Execution, error: BaseException) -> Outcome:
        if isinstance(error, LeaseLost) and job.key is not None:
            log.warning("job %s: %s", job.id, error.what)
            return Deferred(BUSY_RETRY)  # its transaction was undone, because its key is somebody else's: no failure
        return Raised(error, self._describe(job, error))

    def _answered(self, job: Execution, answer: Answer) -> Outcome:
        """What a process answered, as an outcome."""
        attempt, keyed = job.trail.attempts + 1, job.key is not None
        outcome = outcome_of(answer, when=self._clock(), worker=self._name, attempt=attempt, keyed=keyed)
        if isinstance(outcome, Deferred | Unencodable) and isinstance(answer, JobRaised):
            log.warning("job %s: %s", job.id, answer.why or answer.message)
        return outcome

    def timed_out(self, job: Execution) -> TimedOut:
        """The outcome of a job that was interrupted because its time was over."""
        limit = job.task.options.timeout if job.task is not None else None
        if job.task is not None and job.task.options.runs_in == "thread":
            self._events.emit("thread.abandoned", **job.labels)
        return TimedOut(self._describe(job, TimeoutError(f"took longer than its timeout of {limit} s")))

    def _describe(self, job: Execution, error: BaseException) -> ErrorRecord:
        return describe(error, when=self._clock(), worker=self._name, attempt=job.trail.attempts + 1)

    def _is_interruption(self, error: BaseException, slot: Slot) -> bool:
        """Whether this is the worker's own cancellation, and not one that the function invented."""
        if isinstance(error, GeneratorExit):
            return not _in_a_task()  # a loop that is gone closes what it left; in a running one somebody raised it
        if self._cancellation is None:
            self._cancellation = anyio.get_cancelled_exc_class()
        return isinstance(error, self._cancellation) and (
            slot.scope.cancel_called or anyio.current_effective_deadline() == float("-inf")
        )

    async def _ack_early(self, job: Execution) -> bool:
        """At most once: the broker forgets the job before it starts (C9); False if it is not ours any more."""
        try:
            job.acked_early = not await job.source.settle([(job.delivery, ACK)])
        except BrokerUnavailable as error:
            log.warning("job %s may run at most once and could not be taken over: %s", job.id, error.what)
        failpoint("once.forgotten")
        return job.acked_early

    async def _asked_to_cancel(self, job_id: str) -> bool:
        return self._results is not None and await self._results.cancel_requested(job_id)


NOTHING_KEPT = Returned(b"")
FENCE_BITS = 20  #: redeliveries of one copy that a fence has room for


def _finish_unrun(job: Execution, outcome: Outcome | None) -> Outcome | None:
    """It ends without another start; the marker of an earlier one, if there is one, goes with it (C23)."""
    if job.delivery.redeliveries or job.delivery.trail:
        job.marker = _marker(job)
    return outcome


def _in_a_task() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _from_stored(ending: bytes) -> Outcome:
    """A job that has ended before: repeat the verdict that its ending calls for."""
    found = decode_outcome(ending)
    match found.state:
        case "succeeded":
            return AlreadyDone(ending)
        case "dead":
            return Buried(found.reason, found.record)
        case "cancelled":
            return CancelledBefore()
        case "expired":
            return DeadlinePassed()


def _fence(job: Execution) -> int:
    """Grows with each holder: of the key, or else of the job (copies first, then redeliveries of this copy)."""
    if job.key is not None:
        return job.key.claim.fence
    return (job.trail.copies << FENCE_BITS) + job.delivery.redeliveries + 1


def _marker(job: Execution) -> str:
    """Where the starts of this copy of the job are counted."""
    return f"start/{job.id}/{job.trail.copies}"
