"""What became of a saga's compensations, and beginning them anew."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from taskcore.errors import EnqueueRefused
from taskcore.records.names import outcome_name
from taskcore.results import decode_outcome
from taskcore.store import ABSENT, Conflict, Store
from taskcore.toolkit.values import PublicValue
from taskcore.workflows.advance import UNDOING
from taskcore.workflows.decide import StepKey
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.names import rounds_name, step_id, stop_name, undo_name
from taskcore.workflows.plan import Plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader
from taskcore.workflows.saga import UNKNOWN, undone

__all__ = ["Compensation", "CompensationState", "begin_anew", "read_compensation"]

#: none: nothing of it is undone. running: steps may still run, or are undone. done: all is undone. failed: see steps.
CompensationState: TypeAlias = Literal["none", "running", "done", "failed"]


class Compensation(PublicValue, frozen=True, kw_only=True):
    """What became of the compensations of a saga.

    :param undone: the steps that are undone, in the order in which they were.
    :param failed: those whose compensation failed, and why.
    :param waiting: those that are undone next, or that wait behind one that failed.
    :param unknown: steps that began and did not end: they may have had their effect.
    """

    state: CompensationState
    undone: tuple[str, ...] = ()
    failed: dict[str, str] = msgspec.field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


async def read_compensation(reader: RecordReader, workflow: str, plan: Plan) -> Compensation:
    """Read what became of the compensations of a workflow."""
    steps = [outcome_name(step_id(workflow, StepKey(number))) for number in range(len(plan.steps))]
    names = [stop_name(workflow), undo_name(workflow), rounds_name(workflow), outcome_name(workflow)]
    stop, listed, rounds, outcome, *found = await reader.values([*names, *steps])
    if stop is None or not stop.startswith(UNDOING):
        return Compensation(state="none")
    unknown = tuple(
        plan.steps[number].name
        for number, data in enumerate(found)
        if data is not None and decode_outcome(data).reason == UNKNOWN
    )
    if listed is None:
        return Compensation(state="running" if outcome is None else "done", unknown=unknown)
    order = msgspec.json.decode(listed, type=list[int])
    ends = await undone(reader, workflow, order, int(rounds or 0))
    names_of = {number: plan.steps[number].name for number in order}
    well = tuple(names_of[number] for number in order if (end := ends[number]) and end.state == "succeeded")
    failed = {names_of[number]: end.reason for number in order if (end := ends[number]) and end.state != "succeeded"}
    waiting = tuple(names_of[number] for number in order if ends[number] is None)
    goes_on = waiting and (not failed or plan.undoes_on)
    state: CompensationState = "running" if goes_on else "failed" if failed else "done"
    return Compensation(state=state, undone=well, failed=failed, waiting=waiting, unknown=unknown)


async def begin_anew(store: Store, sender: StepSender, workflow: str, plan: Plan, now: float) -> None:
    """Begin compensation anew, at the one that failed.

    :raises InvalidWorkflow: it has not failed (TC311).
    :raises EnqueueRefused: surely not sent (TC203).
    """
    seen = await read_compensation(RecordReader(store), workflow, plan)
    if seen.state != "failed":
        raise InvalidWorkflow(
            f"no compensation of workflow {workflow} has failed: {seen.state}",
            fix="await run.compensation() tells more",
        )
    record = await store.get(rounds_name(workflow))
    turn = 1 + (0 if record is None else int(record.value))
    expect = ABSENT if record is None else record.version
    answer = await store.put(rounds_name(workflow), str(turn).encode(), expect=expect, keep=plan.life(now))
    if isinstance(answer, Conflict):  # another caller does it at this moment
        return
    refused = await sender.publish([sender.compensation(workflow, plan, turn)])
    if refused:
        raise EnqueueRefused(
            f"the compensation of workflow {workflow} was not sent: {next(iter(refused.values()))}",
            fix="try again later",
        )
