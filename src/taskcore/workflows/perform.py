"""Performing the jobs of workflows: the look, then the ordinary way of a job; or the publishing of other jobs.

A program that has this room takes envelopes of format 2; one that has not parks them, as it parks unknown tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from taskcore.backend import Outgoing
from taskcore.envelope import Envelope, decode_trail
from taskcore.errors import InvalidArguments, MalformedEnvelope, UnreadableRecord
from taskcore.lifecycle import (
    Buried,
    CancelledBefore,
    DeadlinePassed,
    Deferred,
    Malformed,
    Outcome,
    Returned,
    Unregistered,
)
from taskcore.records.keys import decode_key_record
from taskcore.records.names import key_name, outcome_name
from taskcore.results import CANCELLED, StoredOutcome, encode_outcome, outcome_of_stored
from taskcore.store import ABSENT, Store, Write
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.units import shorten_repr
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.perform import Performer
from taskcore.workflows.before_start import Looked, look
from taskcore.workflows.decide import SkipStep, StartStep, StepKey, WaitForStep, arguments_of
from taskcore.workflows.envelope import PartOf, StepEnvelope, decode_step, ordinary
from taskcore.workflows.expand import NoList, expand, write_width
from taskcore.workflows.marks import FAILED, SKIPPED, SUCCEEDED, Mark
from taskcore.workflows.plan import AFTER_DEADLINE, NewerPlan, Plan, StepPlan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import SKIPPED_MAP, ListTooLarge, RecordReader
from taskcore.workflows.rest import Rest
from taskcore.workflows.saga import Sagas

__all__ = ["StepInHand", "StepPerformer"]

NOT_YET_FIRST, NOT_YET_LONGEST = 1.0, 60.0  #: seconds: how long a step waits for an outcome that is on its way
REFUSED_AGAIN = 5.0  #: seconds until a job comes again whose next steps the broker refuses
NOTHING = Returned(b"")

LooksAfter: TypeAlias = Callable[[str, Plan], Awaitable[dict[str, str]]]


class StepInHand(msgspec.Struct, eq=False):
    """What a worker knows of a job of a workflow.

    :param how: how an expansion counts; a step counts as its outcome says.
    :param advances: its end sets something going.
    :param skipped: why the step does not run.
    :param refused: the store refused once what follows from its end.
    :param rest: what it leaves to other jobs.
    """

    of: PartOf
    plan: Plan
    how: Mark | None = None
    advances: bool = False
    skipped: str = ""
    refused: bool = False
    rest: Rest | None = None


class StepPerformer:
    """Performs jobs of workflows.

    :param performer: performs the ordinary job that a step is once its arguments are known.
    :param twins: the broker may hand out two copies of a job at once, so that each step needs a key.
    :param look_after: gives up a batch, or closes it; returns why the broker refuses what follows.
    """

    def __init__(
        self,
        performer: Performer,
        store: Store,
        reader: RecordReader,
        sender: StepSender,
        clock: Callable[[], float],
        *,
        twins: bool,
        look_after: LooksAfter,
        sagas: Sagas,
    ) -> None:
        self._performer = performer
        self._store = store
        self._reader = reader
        self._sender = sender
        self._clock = clock
        self._twins = twins
        self._look_after = look_after
        self._sagas = sagas

    async def perform(self, job: Execution, slot: Slot) -> Outcome | None:
        """Perform a job whose envelope has a newer format than an ordinary one.

        :raises BrokerUnavailable: store or broker cannot be reached; perform it again later.
        """
        newer = job.beyond
        try:
            envelope = decode_step(newer.data)
            job.trail = decode_trail(job.delivery.trail)
        except MalformedEnvelope as error:
            return Malformed(error.what)
        if envelope is None:
            return Unregistered(newer.what, self._clock())
        job.envelope = ordinary(envelope, task=envelope.task, version=envelope.version, args=b"{}")
        try:
            plan = await self._reader.plan(envelope.of.workflow)
        except NewerPlan as error:
            return Unregistered(str(error), self._clock())
        except UnreadableRecord as error:
            return await self._without_plan(envelope, error.what)
        if plan is None or max(envelope.of.step, *plan.results) >= len(plan.steps):
            return await self._without_plan(envelope, "the plan of the workflow is gone from the store")
        hand = job.beyond = StepInHand(envelope.of, plan)
        try:
            looked = await look(self._reader, plan, envelope.of, envelope.id)
            return await self._go_on(job, slot, envelope, hand, looked)
        except (ListTooLarge, NoList) as error:
            hand.how, hand.advances = FAILED, True
            return Buried(str(error))

    async def _without_plan(self, envelope: StepEnvelope, why: str) -> Outcome:
        """End a workflow that nothing can be known of; its callers learn why."""
        if self._is_late(envelope):
            return DeadlinePassed()
        outcome = encode_outcome(StoredOutcome("dead", reason=why))
        write = Write(key=outcome_name(envelope.of.workflow), value=outcome, expect=ABSENT, keep=AFTER_DEADLINE)
        await self._store.put_many([write])
        return Buried(why)

    def _is_late(self, envelope: StepEnvelope) -> bool:
        return envelope.deadline is not None and self._clock() >= envelope.deadline

    async def _go_on(
        self, job: Execution, slot: Slot, envelope: StepEnvelope, hand: StepInHand, looked: Looked
    ) -> Outcome | None:
        if envelope.of.part in ("guard", "deadline", "compensate", "undo"):
            return await self._beside(job, slot, envelope, hand, looked)
        ended = await self._ended(job, envelope, hand, looked)
        if ended is not None:
            return ended
        if envelope.of.part == "begin":
            return await self._begin(hand)
        if isinstance(looked.verdict, WaitForStep):
            waited = NOT_YET_FIRST * 2 ** min(job.trail.copies, 10)
            name = hand.plan.steps[looked.verdict.step].name
            return Deferred(min(waited, NOT_YET_LONGEST), f"the outcome of {name} is not stored yet")
        if isinstance(looked.verdict, SkipStep):
            if envelope.of.part == "expand":
                await write_width(self._store, envelope.of, SKIPPED_MAP, self._life(hand.plan))
            hand.how, hand.advances, hand.skipped = SKIPPED, True, looked.verdict.why
            return CancelledBefore()
        if envelope.of.part == "expand":
            return await self._expand(hand)
        stopped = None
        if hand.plan.steps[envelope.of.step].pivot:
            stopped = await self._sagas.begin_pivot(envelope.of.workflow, hand.plan)
        if stopped is not None:
            return stopped
        hand.advances = True
        return await self._run(job, slot, envelope, hand, looked.verdict)

    async def _beside(
        self, job: Execution, slot: Slot, envelope: StepEnvelope, hand: StepInHand, looked: Looked
    ) -> Outcome | None:
        """Perform a job that looks after a batch, or that undoes a saga."""
        of, plan = envelope.of, hand.plan
        if of.part == "guard":
            return await self._guard(hand)
        if of.part == "deadline":
            return await self._sagas.deadline(of, plan)
        if of.part == "compensate":
            return await self._sagas.compensate(job, of, plan)
        hand.advances = True
        if looked.own is not None:
            return outcome_of_stored(looked.own)
        undo = await self._sagas.undo(of, plan, envelope)
        return await self._perform_plain(job, slot, undo) if isinstance(undo, Envelope) else undo

    async def _ended(self, job: Execution, envelope: StepEnvelope, hand: StepInHand, looked: Looked) -> Outcome | None:
        """Find why the job does not start: it has ended, it goes on as a workflow, or its workflow is over."""
        if looked.own is not None:
            hand.advances = True
            return outcome_of_stored(looked.own)
        if looked.goes_on:
            hand.rest = Rest(plan_stands=True)
            return NOTHING
        if looked.above:
            await self._end_with_those_above(hand)
        late = not looked.stopped and self._is_late(envelope)
        if (looked.stopped or late) and hand.plan.steps[hand.of.step].undo is not None:
            return await self._sagas.end_unrun(job, hand, late=late)
        if late:
            hand.how, hand.advances = FAILED, True
            return DeadlinePassed()
        return CancelledBefore() if looked.stopped else None

    async def _end_with_those_above(self, hand: StepInHand) -> None:
        """End the workflow as which a job goes on when one above it is over: its waiters learn it."""
        keep = self._life(hand.plan)
        write = Write(key=outcome_name(hand.of.workflow), value=CANCELLED, expect=ABSENT, keep=keep, reserve=True)
        await self._store.put_many([write])

    async def _run(
        self, job: Execution, slot: Slot, envelope: StepEnvelope, hand: StepInHand, start: StartStep
    ) -> Outcome | None:
        """Run the step as an ordinary job, whose bytes no sender made."""
        step = hand.plan.steps[envelope.of.step]
        plain = plain_job(envelope, step, start)
        if step.undo is not None:  # its key is its own, so that each of its ends is under a fence
            return await self._perform_plain(job, slot, msgspec.structs.replace(plain, key=plain.id))
        task = self._performer.tasks.get(plain.task)
        if task is not None and plain.key is None and task.spec.key is not None:
            try:
                plain = msgspec.structs.replace(plain, key=key_of_step(task, plain))
            except InvalidArguments as error:
                return Buried("; ".join((error.what, *error.public_facts)))
        if task is not None and plain.key is not None:
            conflict = await self._conflict(task, plain)
            if conflict is not None:
                return Buried(conflict)
        if plain.key is None and self._twins:
            plain = msgspec.structs.replace(plain, key=plain.id)
        return await self._perform_plain(job, slot, plain)

    async def _perform_plain(self, job: Execution, slot: Slot, plain: Envelope) -> Outcome | None:
        decode, job.decode = job.decode, lambda _: plain
        try:
            return await self._performer.perform(job, slot)
        except BaseException:
            job.decode = decode  # it may be performed again
            raise

    async def _conflict(self, task: Task[..., Any], plain: Envelope) -> str | None:
        """Find why a key cannot be this step's: it was used with other arguments."""
        [data] = await self._reader.values([key_name(task.name, str(plain.key))])
        if data is None:
            return None
        claim = decode_key_record(data)
        if claim.job == plain.id:
            return None
        try:
            arguments = task.contract.unpack(plain.args, plain.version)
        except InvalidArguments:  # the performance says so
            return None
        if claim.args == task.contract.fingerprint(arguments):
            return None
        return f"its key {shorten_repr(plain.key)} was used with other arguments, by job {claim.job}"

    async def _guard(self, hand: StepInHand) -> Outcome:
        """Give up a batch that is not closed by now; finish the closing of one whose sender may have died of it."""
        refused = await self._look_after(hand.of.workflow, hand.plan)
        if refused:
            return Deferred(REFUSED_AGAIN, f"the broker refuses what follows: {next(iter(refused.values()))}")
        return NOTHING

    async def _begin(self, hand: StepInHand) -> Outcome:
        of, plan = hand.of, hand.plan
        return await self._send([self._sender.message(of.workflow, plan, StepKey(root)) for root in plan.roots])

    async def _expand(self, hand: StepInHand) -> Outcome:
        """Publish a part of the children of a map; a map without any has ended."""
        expanded = await expand(self._reader, self._store, self._sender, hand.plan, hand.of, self._life(hand.plan))
        if not expanded.width:
            hand.how, hand.advances = SUCCEEDED, True
            return NOTHING
        failpoint("workflow.expanding")
        return await self._send(expanded.messages)

    async def _send(self, messages: Sequence[Outgoing]) -> Outcome:
        refused = await self._sender.publish(messages)
        failpoint("workflow.expanded")
        if refused:
            return Deferred(REFUSED_AGAIN, f"the broker refuses its steps: {next(iter(refused.values()))}")
        return NOTHING

    def _life(self, plan: Plan) -> float:
        return plan.life(self._clock())


def plain_job(envelope: StepEnvelope, step: StepPlan, start: StartStep) -> Envelope:
    """Make the envelope of the ordinary job that a step is; a job of a batch has its call in its own."""
    if step.over is not None and step.over.is_open:
        return ordinary(envelope, task=envelope.task, version=envelope.version, args=bytes(envelope.args))
    args = arguments_of(step, bytes(envelope.args), start)
    plain = ordinary(envelope, task=step.task, version=step.version, args=args)
    return msgspec.structs.replace(
        plain, timeout=step.timeout, soft_timeout=step.soft_timeout, retry=step.retry, key=step.key or plain.key
    )


def key_of_step(task: Task[..., Any], plain: Envelope) -> str | None:
    """Make the key of a step by its task's rule, once its arguments are known.

    :raises InvalidArguments: they do not fit the task, or its key function failed (TC302).
    """
    if task.spec.key is None or plain.version > task.contract.version:
        return None
    return task.key_of(task.contract.unpack(plain.args, plain.version), task.spec.key)
