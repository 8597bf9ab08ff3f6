"""Where a job stands: the workflows that it is a part of, and the jobs as which it goes on.

The first digits of the id of a workflow's job lead to the workflow, and the plan of a job that went on names those
above it. So parents and children are found from an id alone, also of a job that has not started, and of one that ended.
"""

from __future__ import annotations

from taskcore.records.names import outcome_name
from taskcore.results import decode_outcome
from taskcore.toolkit.values import PublicValue
from taskcore.workflows.decide import StepKey
from taskcore.workflows.marks import SKIPPED
from taskcore.workflows.names import owner_name_of, step_id, undo_id
from taskcore.workflows.plan import MAP_LIMIT, PartOf, Plan
from taskcore.workflows.record_reader import RecordReader, how_of
from taskcore.workflows.show import StepState, StepStatus, WorkflowState, WorkflowStatus, read_state

__all__ = ["ChildJob", "JobFamily", "ParentWorkflow", "read_family"]

ROUNDS = 10  #: how often a compensation may be begun anew, and its jobs are still known by their ids


class ParentWorkflow(PublicValue, frozen=True, kw_only=True):
    """A workflow that a job is a part of.

    :param id: of the workflow; of a job that goes on, it is the id of that job.
    :param step: the name of the step that the job, or the workflow between them, is; empty if it is none of its steps.
    :param index: of a child of a map.
    """

    id: str
    name: str
    status: WorkflowStatus
    step: str = ""
    index: int | None = None


class ChildJob(PublicValue, frozen=True, kw_only=True):
    """A job of a workflow.

    :param index: of a child of a map.
    """

    id: str
    step: str
    task: str
    status: StepStatus
    index: int | None = None


class JobFamily(PublicValue, frozen=True, kw_only=True):
    """The parents and the children of a job.

    :param parents: the outermost first.
    :param workflow: as which the job goes on, or that has this id; None if the job ends as any other.
    :param children: the jobs of that workflow, in the order of its steps; of a large one the first of them.
    """

    id: str
    parents: tuple[ParentWorkflow, ...] = ()
    workflow: WorkflowState | None = None
    children: tuple[ChildJob, ...] = ()


async def read_family(reader: RecordReader, job_id: str, limit: int) -> JobFamily:
    """Read the parents and the children of a job.

    :param limit: how many children at most.
    """
    plan = await reader.plan(job_id)
    parents = await _parents(reader, job_id, plan)
    if plan is None:
        return JobFamily(id=job_id, parents=parents)
    state = await read_state(reader, job_id, plan)
    children = await _children(reader, plan, state, limit)
    return JobFamily(id=job_id, parents=parents, workflow=state, children=children)


# ── parents ──


async def _parents(reader: RecordReader, job_id: str, plan: Plan | None) -> tuple[ParentWorkflow, ...]:
    """Read the workflows above a job, the outermost first."""
    above, part = await _place_of(reader, job_id, plan)
    ends = await reader.values([outcome_name(one) for one in above]) if above else []
    parents: list[ParentWorkflow] = []
    for one, data in zip(reversed(above), reversed(ends), strict=True):
        of = await reader.plan(one)
        if of is None:
            break
        status: WorkflowStatus = "running" if data is None else decode_outcome(data).state
        index = part.index if part is not None and part.part == "child" else None
        step = of.steps[part.step].name if part is not None and part.part in ("step", "child", "undo") else ""
        parents.append(ParentWorkflow(id=one, name=of.name, status=status, step=step, index=index))
        part = of.within
    return tuple(reversed(parents))


async def _place_of(reader: RecordReader, job_id: str, plan: Plan | None) -> tuple[tuple[str, ...], PartOf | None]:
    """Find the workflows above a job, the outermost first, and which part of the innermost it is."""
    if plan is not None and plan.within is not None:
        return plan.above, plan.within
    name = owner_name_of(job_id)
    [owner] = await reader.values([name]) if name is not None else [None]
    if owner is None:
        return (), None
    workflow = owner.decode()
    of = await reader.plan(workflow)
    part = None if of is None else await _part_of(reader, workflow, of, job_id)
    return ((), None) if of is None or part is None else ((*of.above, workflow), part)


async def _part_of(reader: RecordReader, workflow: str, plan: Plan, job_id: str) -> PartOf | None:
    """Find which part of a workflow a job is, by its id."""
    for number, step in enumerate(plan.steps):
        if step_id(workflow, StepKey(number)) == job_id:
            return PartOf(workflow=workflow, step=number)
        if step.undo is not None and job_id in {undo_id(workflow, number, turn) for turn in range(ROUNDS)}:
            return PartOf(workflow=workflow, part="undo", step=number)
        if step.over is None:
            continue
        for index in range(MAP_LIMIT if step.over.is_open else await _width(reader, workflow, plan, number)):
            if step_id(workflow, StepKey(number, index)) == job_id:
                return PartOf(workflow=workflow, part="child", step=number, index=index)
    return None


async def _width(reader: RecordReader, workflow: str, plan: Plan, number: int) -> int:
    """Find how many children a map has, or will have; 0 if that is not known yet."""
    width = await reader.width(workflow, plan, number)
    over = plan.steps[number].over
    while over is not None and plan.is_paired(number):
        number = over.step or 0
        over = plan.steps[number].over
    known = 0 if over is None else over.items or 0
    return known if width is None else max(width, 0)


# ── children ──


async def _children(reader: RecordReader, plan: Plan, state: WorkflowState, limit: int) -> tuple[ChildJob, ...]:
    """Read the first jobs of a workflow."""
    found: list[tuple[StepState, int | None, str]] = []
    for number, step in enumerate(state.steps):
        if not step.is_map:
            found.append((step, None, step.job_id))
            continue
        indices = range(min(await _width(reader, state.id, plan, number), limit - len(found)))
        found += [(step, index, step_id(state.id, StepKey(number, index))) for index in indices]
    del found[limit:]
    ends = await reader.values([outcome_name(job_id) for _, _, job_id in found]) if found else []
    return tuple(
        ChildJob(id=job_id, step=step.name, task=step.task, index=index, status=_status(step, index, data))
        for (step, index, job_id), data in zip(found, ends, strict=True)
    )


def _status(step: StepState, index: int | None, outcome: bytes | None) -> StepStatus:
    if index is None:
        return step.status
    if outcome is None:
        return step.status if step.status in ("ready", "waiting") else "stopped"
    stored = decode_outcome(outcome)
    return "skipped" if how_of(stored) is SKIPPED else stored.state
