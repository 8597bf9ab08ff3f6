"""The look before a step starts: at its own outcome, at its workflow, and at the steps before it.

Every start looks, the first delivery too: a worker that lost its lease may publish a step a second time, and that copy
was never handed out before.
"""

from __future__ import annotations

from typing import NamedTuple

from taskcore.records.names import outcome_name
from taskcore.results import decode_outcome
from taskcore.workflows.decide import (
    EndedStep,
    SkipStep,
    StartStep,
    StepKey,
    StepVerdict,
    WaitForStep,
    element_of,
    judge_start,
)
from taskcore.workflows.envelope import PartOf
from taskcore.workflows.marks import SKIPPED, SUCCEEDED
from taskcore.workflows.names import plan_name, step_id, stop_name
from taskcore.workflows.plan import Plan
from taskcore.workflows.record_reader import SKIPPED_MAP, RecordReader, ended_step

__all__ = ["Looked", "look"]

PRESENT = EndedStep(SUCCEEDED)


class Looked(NamedTuple):
    """What a look finds.

    :param own: the outcome that the job has already.
    :param stopped: no step of the workflow starts any more.
    :param above: it is a workflow above that was stopped, and this one has not ended.
    :param goes_on: the job goes on as a workflow already.
    :param verdict: whether it starts.
    """

    own: bytes | None
    stopped: bool
    verdict: StepVerdict
    above: bool = False
    goes_on: bool = False


async def look(reader: RecordReader, plan: Plan, of: PartOf, job_id: str) -> Looked:
    """Look before the start of a step, of a child, or of the job that publishes the children of a map.

    :raises ListTooLarge: a list that it takes is too large for one argument.
    :raises BrokerUnavailable: the store cannot be reached.
    """
    step = plan.steps[of.step]
    paired = of.part == "child" and plan.is_paired(of.step)
    source = None if step.over is None else step.over.step
    has = {source} - step.values_from() if of.part == "child" else set()  # a child has its element already
    plain = [number for number in plan.waits[of.step] if plan.steps[number].over is None and number not in has]
    names = [outcome_name(job_id), *(stop_name(one) for one in (of.workflow, *plan.above))]
    stops = len(names) - 1
    if paired and source is not None:
        names.append(outcome_name(step_id(of.workflow, StepKey(source, of.index))))
    names += [outcome_name(step_id(of.workflow, StepKey(n))) for n in plain]
    names += [plan_name(job_id), *([outcome_name(of.workflow)] if plan.goes_on else [])]
    own, *found = await reader.values(names)
    over = found.pop() if plan.goes_on else None  # of the job that goes on as this workflow
    goes_on = found.pop() is not None
    stopped = any(found[:stops]) or over is not None
    child = None
    if paired:
        data = found[stops]
        child = None if data is None else ended_step(decode_outcome(data))
    ends = found[stops + paired :]
    ended: dict[int, EndedStep | None] = dict.fromkeys(plan.waits[of.step], PRESENT)
    for number, data in zip(plain, ends, strict=True):
        ended[number] = None if data is None else ended_step(decode_outcome(data))
    if own is None and not stopped and not paired:
        await _load_lists(reader, plan, of, ended)
    verdict = judge_start(plan, of.step, ended)
    if paired and source is not None:
        verdict = _judge_paired(plan, of.step, source, child)
    above = stopped and plan.goes_on and over is None and found[0] is None
    return Looked(own, stopped, verdict, above, goes_on)


async def _load_lists(reader: RecordReader, plan: Plan, of: PartOf, ended: dict[int, EndedStep | None]) -> None:
    """Load the lists of results of the maps that a step takes."""
    for value in plan.steps[of.step].takes.values():
        for number in value.of:
            if plan.steps[number].over is not None:
                width = await reader.width(of.workflow, plan, number)
                if width is None:
                    ended[number] = None
                else:
                    ended[number] = await reader.children(of.workflow, plan, number, width, outcomes=value.outcomes)
    over = plan.steps[of.step].over
    if over is not None and over.step is not None and plan.steps[over.step].over is not None:
        width = await reader.width(of.workflow, plan, over.step)
        ended[over.step] = None if width is None else EndedStep(SKIPPED if width == SKIPPED_MAP else SUCCEEDED)


def _judge_paired(plan: Plan, number: int, source: int, child: EndedStep | None) -> StepVerdict:
    if child is None:
        return WaitForStep(source)
    element = element_of(plan.steps[source], child)
    over = plan.steps[number].over
    if element is None or over is None:
        return SkipStep(f"the child of {plan.steps[source].name} before it has no result")
    return StartStep({over.parameter: element})
