"""Sagas in a worker: what is done when a workflow with compensations fails, is cancelled, or passes its deadline.

    stop           `undoing` and why, written once: no step starts any more                     saga.stopped
    compensate     a job that waits until no step can be running, writes the list once, and     saga.listed
                   publishes the first compensation that is missing; each one that ends brings it again
    undo           a job for each step that is undone, one after the other
    outcome        of the workflow, when all of the list is done, or one has failed for good    workflow.closed

A step with a compensation has its own id as its key, and each of its ends is committed under the fence of that key
first. So a worker that finds the stop knows whether the step was begun before, and one that comes late commits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from taskcore.envelope import CallRetry, Envelope
from taskcore.lifecycle import Buried, CancelledBefore, Deferred, Outcome, Returned
from taskcore.records.keys import Busy, Completed, IdempotencyKeys, KeyRecord, Lost
from taskcore.records.names import key_name, outcome_name
from taskcore.results import CANCELLED, EXPIRED, StoredOutcome, decode_outcome, encode_outcome, outcome_of_stored
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker.execution import Execution
from taskcore.workflows.advance import UNDOING
from taskcore.workflows.decide import StepKey
from taskcore.workflows.envelope import StepEnvelope, ordinary
from taskcore.workflows.names import pivot_name, step_id, stop_name, undo_id, undo_name
from taskcore.workflows.plan import PartOf, Plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader
from taskcore.workflows.saga_decide import may_run, undo_order

__all__ = ["STOPPED", "Sagas", "claim_pivot", "stop_saga", "undone"]

BEGUN, STOPPED = b"begun", b"stopped"
UNKNOWN = "interrupted, outcome unknown"  #: the reason of a step that began, did not end, and does not start again
WAIT_FIRST, WAIT_LONGEST = 1.0, 60.0  #: seconds: how long compensation waits for steps that can be running
HOLD = 60.0  #: seconds for which a key is held that is committed at once
NOTHING = Returned(b"")


def undo_retry(own: CallRetry | None) -> CallRetry:
    """Choose how often a compensation is tried: 20 times, with waits of up to an hour, unless it says otherwise."""
    given = CallRetry() if own is None else own
    return msgspec.structs.replace(given, attempts=given.attempts or 20, cap=given.cap or 3_600.0)


async def claim_pivot(store: Store, workflow: str, plan: Plan, value: bytes, now: float) -> bool:
    """Decide whether the pivot begins or the saga stops before it; True if that is what was decided."""
    answer = await store.put(pivot_name(workflow), value, expect=ABSENT, keep=plan.life(now))
    return not isinstance(answer, Conflict) or answer.current is None or answer.current.value == value


async def stop_saga(store: Store, workflow: str, plan: Plan, outcome: bytes, now: float) -> bytes:
    """Let no further step start; return the stop that stands: that of a saga that has ended well does not undo it."""
    value = UNDOING + outcome
    write = Write(key=stop_name(workflow), value=value, expect=ABSENT, keep=plan.life(now), reserve=True)
    [answer] = await store.put_many([write])
    failpoint("saga.stopped")
    return answer.current.value if isinstance(answer, Conflict) and answer.current is not None else value


class Sagas:
    """Stops sagas, and undoes what they did.

    :param twins: the broker may hand out two copies of a job at once.
    """

    def __init__(
        self,
        store: Store,
        reader: RecordReader,
        sender: StepSender,
        keys: IdempotencyKeys,
        clock: Callable[[], float],
        *,
        twins: bool,
    ) -> None:
        self._store = store
        self._reader = reader
        self._sender = sender
        self._keys = keys
        self._clock = clock
        self._twins = twins

    # ── stopping ──

    async def stop(self, workflow: str, plan: Plan, outcome: bytes) -> bytes:
        """Let no further step start; return the stop that stands."""
        return await stop_saga(self._store, workflow, plan, outcome, self._clock())

    async def begin_pivot(self, workflow: str, plan: Plan) -> Outcome | None:
        """Let the pivot start, unless the saga is stopped before it; None to go on."""
        if await claim_pivot(self._store, workflow, plan, BEGUN, self._clock()):
            return None
        await self.stop(workflow, plan, CANCELLED)
        return await self._send([self._sender.compensation(workflow, plan, 0)]) or CancelledBefore()

    async def end_unrun(self, job: Execution, hand: Any, *, late: bool) -> Outcome:
        """End a step that has a compensation and does not start, under its key; it may have begun before."""
        step, job_id = hand.plan.steps[hand.of.step], job.envelope.id
        acquired = await self._keys.acquire(
            key_name(step.task, job_id),
            KeyRecord(key=job_id, job=job_id, args="", queue=job.delivery.queue),
            lease=HOLD,
            now=self._clock(),
            keep=hand.plan.life(self._clock()),
            may_overlap=self._twins and not job.delivery.redeliveries,
        )
        hand.advances = late
        if isinstance(acquired, Busy):
            return Deferred(acquired.after, "another worker has the step")
        if isinstance(acquired, Completed):
            return self._committed(hand, acquired.outcome)
        outcome = EXPIRED if late else CANCELLED
        if acquired.claim.fence > 1:
            outcome = encode_outcome(StoredOutcome("dead", reason=UNKNOWN))
        [answer] = await self._keys.commit([(acquired, outcome)])
        if isinstance(answer, Completed):
            return self._committed(hand, answer.outcome)
        if isinstance(answer, Lost):
            return Deferred(1.0, "another worker has the step")
        return outcome_of_stored(outcome)

    @staticmethod
    def _committed(hand: Any, outcome: bytes) -> Outcome:
        hand.advances = True
        return outcome_of_stored(outcome)

    # ── the jobs of a saga beside its steps ──

    async def deadline(self, of: PartOf, plan: Plan) -> Outcome:
        """Stop a saga whose deadline has passed, unless it is behind its pivot."""
        if await self._store.get(outcome_name(of.workflow)) is not None:
            return NOTHING
        if not await claim_pivot(self._store, of.workflow, plan, STOPPED, self._clock()):
            return NOTHING
        await self.stop(of.workflow, plan, EXPIRED)
        return await self._send([self._sender.compensation(of.workflow, plan, 0)]) or NOTHING

    async def compensate(self, job: Execution, of: PartOf, plan: Plan) -> Outcome:
        """Do what comes next: wait, publish a compensation, or end the workflow."""
        workflow, turn = of.workflow, of.index
        steps = [outcome_name(step_id(workflow, StepKey(number))) for number in range(len(plan.steps))]
        names = [outcome_name(workflow), stop_name(workflow), undo_name(workflow)]
        outcome, stop, listed, *found = await self._reader.values([*names, *steps])
        if outcome is not None and turn == 0:
            return NOTHING
        if stop is None:  # a caller cancels it
            stop = await self.stop(workflow, plan, CANCELLED)
        if not stop.startswith(UNDOING):
            return NOTHING
        why = decode_outcome(stop[len(UNDOING) :])
        ended = {number: None if data is None else decode_outcome(data) for number, data in enumerate(found)}
        running = [plan.steps[number].name for number in may_run(plan, ended)]
        if running:
            wait = min(WAIT_FIRST * 2 ** min(job.trail.copies, 10), WAIT_LONGEST)
            return Deferred(wait, f"{', '.join(running[:5])} may still run")
        pivot = None if plan.pivot is None else ended[plan.pivot]
        if pivot is not None and pivot.state == "succeeded":
            return await self._close(workflow, plan, why, "it failed behind its pivot; nothing is undone")
        order = (
            await self._list(workflow, plan, ended) if listed is None else msgspec.json.decode(listed, type=list[int])
        )
        return await self._next(workflow, plan, why, order, turn)

    async def _list(self, workflow: str, plan: Plan, ended: Mapping[int, StoredOutcome | None]) -> list[int]:
        order = undo_order(plan, ended)
        keep = plan.life(self._clock())
        answer = await self._store.put(undo_name(workflow), msgspec.json.encode(order), expect=ABSENT, keep=keep)
        failpoint("saga.listed")
        if isinstance(answer, Conflict) and answer.current is not None:
            return msgspec.json.decode(answer.current.value, type=list[int])
        return order

    async def _next(self, workflow: str, plan: Plan, why: StoredOutcome, order: list[int], turn: int) -> Outcome:
        """Publish the first compensation of the list that is missing, or end the workflow."""
        ends = await undone(self._reader, workflow, order, turn)
        failed: list[str] = []
        for number in order:
            one, name = ends[number], plan.steps[number].name
            if one is None:
                return await self._send([self._sender.undoing(workflow, plan, number, turn)]) or NOTHING
            if one.state != "succeeded":
                failed.append(f"the compensation of {name} failed: {one.reason or one.state}")
                if not plan.undoes_on:
                    break
        done = [plan.steps[number].name for number in order if (end := ends[number]) and end.state == "succeeded"]
        left = [plan.steps[number].name for number in order if plan.steps[number].name not in done]
        parts = [*failed]
        if failed:
            parts.append(f"not undone: {', '.join(left)}")
        if done:
            parts.append(f"undone: {', '.join(done)}")
        return await self._close(workflow, plan, why, "; ".join(parts), undone=not failed)

    async def _close(
        self, workflow: str, plan: Plan, why: StoredOutcome, what: str, *, undone: bool = False
    ) -> Outcome:
        """Write the outcome of the workflow: why it failed, and what was undone."""
        stored = why
        if why.state == "dead" or not undone:
            reason = why.reason or {"cancelled": "cancelled", "expired": "its deadline passed"}.get(
                why.state, why.state
            )
            reason = f"{reason}; {what}" if what else reason
            stored = msgspec.structs.replace(why, state="dead", reason=reason)
        write = Write(
            key=outcome_name(workflow), value=encode_outcome(stored), expect=ABSENT, keep=plan.keep, reserve=True
        )
        await self._store.put_many([write])
        failpoint("workflow.closed")
        return NOTHING

    async def undo(self, of: PartOf, plan: Plan, envelope: StepEnvelope) -> Envelope | Outcome:
        """Make the ordinary job that undoes a step; or say why it cannot run."""
        undo = plan.steps[of.step].undo
        if undo is None:
            return Buried(f"{plan.steps[of.step].name} has no compensation")
        args = msgspec.json.decode(undo.args, type=dict[str, msgspec.Raw])
        numbers = sorted({number for value in undo.takes.values() for number in value.of})
        names = [outcome_name(step_id(of.workflow, StepKey(number))) for number in numbers]
        found = dict(zip(numbers, await self._reader.values(names) if names else (), strict=True))
        for parameter, value in undo.takes.items():
            for number in value.of:
                data = found[number]
                stored = None if data is None else decode_outcome(data)
                if stored is not None and stored.state == "succeeded":
                    args[parameter] = msgspec.Raw(bytes(stored.result) or b"null")
                    break
                if plan.steps[number].has_default:
                    args[parameter] = plan.steps[number].default
                    break
            else:
                return Buried(f"{plan.steps[value.of[0]].name} has no result for {parameter}")
        plain = ordinary(envelope, task=undo.task, version=undo.version, args=msgspec.json.encode(args))
        return msgspec.structs.replace(
            plain,
            timeout=undo.timeout,
            soft_timeout=undo.soft_timeout,
            retry=undo_retry(undo.retry),
            key=undo_id(of.workflow, of.step),
        )

    async def _send(self, messages: list[Any]) -> Outcome | None:
        refused = await self._sender.publish(messages)
        failpoint("saga.continued")
        return Deferred(5.0, f"the broker refuses its jobs: {next(iter(refused.values()))}") if refused else None


async def undone(reader: RecordReader, workflow: str, order: list[int], turn: int) -> dict[int, StoredOutcome | None]:
    """Find how the compensations of a saga ended: well in any turn, or else in this one."""
    turns = range(turn + 1)
    names = [outcome_name(undo_id(workflow, number, one)) for number in order for one in turns]
    found = iter(await reader.values(names) if names else ())
    ends: dict[int, StoredOutcome | None] = {}
    for number in order:
        each = [None if data is None else decode_outcome(data) for data in (next(found) for _ in turns)]
        well = [one for one in each if one is not None and one.state == "succeeded"]
        ends[number] = well[0] if well else each[-1]
    return ends
