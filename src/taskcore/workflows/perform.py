"""Performing the jobs of workflows: the look, then the ordinary way of a job; or the publishing of other jobs.

A program that has this room takes envelopes of format 2; one that has not parks them, as it parks unknown tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from taskcore.envelope import decode_trail
from taskcore.errors import MalformedEnvelope, UnreadableRecord
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
from taskcore.records.names import outcome_name
from taskcore.results import StoredOutcome, decode_outcome, encode_outcome, outcome_of_stored
from taskcore.store import ABSENT, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.workflows.advance import AFTER_DEADLINE
from taskcore.workflows.decide import NotYet, Skip, arguments_of
from taskcore.workflows.envelope import PartOf, StepEnvelope, decode_step, ordinary
from taskcore.workflows.expand import NoList, expand, write_width
from taskcore.workflows.look import Looked, look
from taskcore.workflows.marks import FAILED, SKIPPED, SUCCEEDED, Mark
from taskcore.workflows.plan import Plan, StepPlan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.reading import SKIPPED_MAP, ListTooLarge, Reader

__all__ = ["StepInHand", "StepPerformer"]

NOT_YET_FIRST, NOT_YET_LONGEST = 1.0, 60.0  #: seconds: how long a step waits for an outcome that is on its way
REFUSED_AGAIN = 5.0  #: seconds until a job comes again whose next steps the broker refuses
NOTHING = Returned(b"")


class StepInHand(msgspec.Struct, eq=False):
    """What a worker knows of a job of a workflow.

    :param how: how it counts, if that does not follow from its outcome; None: its end sets nothing going.
    :param advances: its end sets something going.
    """

    of: PartOf
    plan: Plan
    how: Mark | None = None
    advances: bool = False


class StepPerformer:
    """Performs jobs of workflows.

    :param perform: performs the ordinary job that a step is once its arguments are known.
    :param life: seconds for which the records of a workflow are kept.
    """

    def __init__(
        self,
        perform: Callable[[Any, Any], Any],
        store: Store,
        reader: Reader,
        sender: StepSender,
        clock: Callable[[], float],
    ) -> None:
        self._perform = perform
        self._store = store
        self._reader = reader
        self._sender = sender
        self._clock = clock

    async def perform(self, job: Any, slot: Any) -> Outcome | None:
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
        except UnreadableRecord as error:
            return await self._without_plan(envelope, error.what)
        if plan is None:
            return await self._without_plan(envelope, "the plan of the workflow is gone from the store")
        hand = job.beyond = StepInHand(envelope.of, plan)
        try:
            looked = await look(self._reader, plan, envelope.of, envelope.id)
        except ListTooLarge as error:
            hand.advances = True
            return Buried(f"arguments: {error}")
        return await self._go_on(job, slot, envelope, hand, looked)

    async def _without_plan(self, envelope: StepEnvelope, why: str) -> Outcome:
        """End a workflow that nothing can be known of; its callers learn why."""
        if envelope.deadline is not None and self._clock() >= envelope.deadline:
            return DeadlinePassed()
        outcome = encode_outcome(StoredOutcome("dead", reason=why))
        write = Write(key=outcome_name(envelope.of.workflow), value=outcome, expect=ABSENT, keep=AFTER_DEADLINE)
        await self._store.put_many([write])
        return Buried(why)

    async def _go_on(
        self, job: Any, slot: Any, envelope: StepEnvelope, hand: StepInHand, looked: Looked
    ) -> Outcome | None:
        if looked.own is not None:
            hand.advances = True
            state = decode_outcome(looked.own).state
            hand.how = SKIPPED if state == "cancelled" and isinstance(looked.verdict, Skip) else None
            return outcome_of_stored(looked.own)
        if looked.stopped:
            return CancelledBefore()
        if envelope.of.part == "begin":
            return await self._begin(hand)
        if isinstance(looked.verdict, NotYet):
            waited = NOT_YET_FIRST * 2 ** min(job.trail.copies, 10)
            name = hand.plan.steps[looked.verdict.step].name
            return Deferred(min(waited, NOT_YET_LONGEST), f"the outcome of {name} is not stored yet")
        if isinstance(looked.verdict, Skip):
            if envelope.of.part == "expand":
                await write_width(self._store, envelope.of, SKIPPED_MAP, self._life(hand.plan))
            hand.how, hand.advances = SKIPPED, True
            return CancelledBefore()
        if envelope.of.part == "expand":
            return await self._expand(hand)
        step = hand.plan.steps[envelope.of.step]
        hand.advances = True
        return await self._run(job, slot, envelope, step, arguments_of(step, bytes(envelope.args), looked.verdict))

    async def _run(self, job: Any, slot: Any, envelope: StepEnvelope, step: StepPlan, args: bytes) -> Outcome | None:
        """Run the step as an ordinary job, whose bytes nobody sent."""
        plain = ordinary(envelope, task=step.task, version=step.version, args=args)
        if step.timeout is not None or step.retry is not None:
            plain = msgspec.structs.replace(plain, timeout=step.timeout, retry=step.retry)
        job.decode = lambda _: plain
        outcome: Outcome | None = await self._perform(job, slot)
        return outcome

    async def _begin(self, hand: StepInHand) -> Outcome:
        from taskcore.workflows.decide import StepKey  # noqa: PLC0415

        of, plan = hand.of, hand.plan
        messages = [self._sender.message(of.workflow, plan, StepKey(root)) for root in plan.roots]
        return await self._send(messages)

    async def _expand(self, hand: StepInHand) -> Outcome:
        """Publish a part of the children of a map; a map without any has ended."""
        try:
            expanded = await expand(self._reader, self._store, self._sender, hand.plan, hand.of, self._life(hand.plan))
        except NoList as error:
            hand.how, hand.advances = FAILED, True
            return Buried(str(error))
        if not expanded.width:
            hand.how, hand.advances = SUCCEEDED, True
            return NOTHING
        failpoint("workflow.expanding")
        return await self._send(expanded.messages)

    async def _send(self, messages: list[Any]) -> Outcome:
        refused = await self._sender.publish(messages)
        if refused:
            return Deferred(REFUSED_AGAIN, f"the broker refuses its steps: {next(iter(refused.values()))}")
        return NOTHING

    def _life(self, plan: Plan) -> float:
        return max(plan.deadline - self._clock(), 0.0) + AFTER_DEADLINE
