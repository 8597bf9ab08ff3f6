"""How far a workflow has come: the state of each step, read from the store in three round trips."""

from __future__ import annotations

from typing import Literal, TypeAlias

from taskcore.records.names import outcome_name
from taskcore.results import StoredOutcome, decode_outcome
from taskcore.toolkit.values import PublicValue
from taskcore.workflows.decide import StepKey
from taskcore.workflows.marks import LEAF, SKIPPED, MarkCounts
from taskcore.workflows.names import map_name, step_id, stop_name, width_name
from taskcore.workflows.plan import Plan
from taskcore.workflows.record_reader import SKIPPED_MAP, RecordReader, how_of

__all__ = ["StepState", "StepStatus", "WorkflowProgress", "WorkflowState", "WorkflowStatus", "read_state"]

#: waiting: for other steps. ready: it waits for a worker, or runs. stopped: the workflow ended before it.
StepStatus: TypeAlias = Literal["waiting", "ready", "succeeded", "dead", "expired", "cancelled", "skipped", "stopped"]
WorkflowStatus: TypeAlias = Literal["running", "succeeded", "dead", "cancelled", "expired"]


class WorkflowProgress(PublicValue, frozen=True, kw_only=True):
    """How many jobs of a workflow there are, and how they ended; a map whose list is not known yet counts as one.

    :param waiting: those that have not ended.
    """

    total: int
    succeeded: int
    failed: int
    skipped: int

    @property
    def waiting(self) -> int:
        """How many have not ended."""
        return self.total - self.succeeded - self.failed - self.skipped


class StepState(PublicValue, frozen=True, kw_only=True):
    """The state of one step.

    :param job_id: of its job; of a map: that of none, each child has its own.
    :param waits_for: the names of the steps before it.
    :param progress: of a map: its children; of another step: itself.
    :param reason: why it is dead or skipped.
    """

    name: str
    task: str
    status: StepStatus
    job_id: str
    is_map: bool
    waits_for: tuple[str, ...]
    progress: WorkflowProgress
    reason: str = ""


class WorkflowState(PublicValue, frozen=True, kw_only=True):
    """The state of a workflow.

    :param status: ``"running"`` until it has ended.
    :param reason: why it is dead.
    :param deadline: no step starts after it, in seconds since the epoch.
    """

    id: str
    name: str
    status: WorkflowStatus
    steps: tuple[StepState, ...]
    deadline: float
    reason: str = ""

    @property
    def progress(self) -> WorkflowProgress:
        """All steps together."""
        each = [step.progress for step in self.steps]
        return WorkflowProgress(
            total=sum(one.total for one in each),
            succeeded=sum(one.succeeded for one in each),
            failed=sum(one.failed for one in each),
            skipped=sum(one.skipped for one in each),
        )


async def read_state(reader: RecordReader, workflow: str, plan: Plan) -> WorkflowState:
    """Read how far a workflow has come."""
    names = [outcome_name(workflow), stop_name(workflow)]
    for number, step in enumerate(plan.steps):
        is_map = step.over is not None
        names.append(width_name(workflow, number) if is_map else outcome_name(step_id(workflow, StepKey(number))))
    outcome, stop, *found = await reader.values(names)
    ended = {
        number: decode_outcome(data)
        for number, (step, data) in enumerate(zip(plan.steps, found, strict=True))
        if step.over is None and data is not None
    }
    widths = _widths(plan, found)
    counts = await _counts(reader, workflow, plan, widths)
    steps: list[StepState] = []
    is_over = outcome is not None or stop is not None
    done: list[bool] = []
    for number, step in enumerate(plan.steps):
        is_map = step.over is not None
        progress = _map_progress(widths.get(number), counts.get(number)) if is_map else _progress(ended.get(number))
        done.append(not progress.waiting)
        stored = ended.get(number)
        if done[-1]:
            status: StepStatus = _ended_status(stored) if not is_map else _map_status(progress, widths.get(number))
        elif is_over:
            status = "stopped"
        else:
            status = "ready" if all(done[other] for other in plan.waits[number]) else "waiting"
        steps.append(
            StepState(
                name=step.name,
                task=step.task,
                status=status,
                job_id="" if is_map else step_id(workflow, StepKey(number)),
                is_map=is_map,
                waits_for=tuple(plan.steps[other].name for other in plan.waits[number]),
                progress=progress,
                reason=_reason(stored),
            )
        )
    end = None if outcome is None else decode_outcome(outcome)
    status_now: WorkflowStatus = "running" if end is None else end.state
    return WorkflowState(
        id=workflow,
        name=plan.name,
        status=status_now,
        steps=tuple(steps),
        deadline=plan.deadline,
        reason="" if end is None else end.reason,
    )


def _widths(plan: Plan, found: list[bytes | None]) -> dict[int, int]:
    """Find how many children maps have; those that are paired have as many as the first of them."""
    widths: dict[int, int] = {}
    for number, (step, data) in enumerate(zip(plan.steps, found, strict=True)):
        if step.over is None:
            continue
        if data is not None:
            widths[number] = int(data)
        elif plan.is_paired(number) and (step.over.step or 0) in widths:
            widths[number] = widths[step.over.step or 0]
        elif step.over.items is not None:
            widths[number] = step.over.items
    return widths


async def _counts(reader: RecordReader, workflow: str, plan: Plan, widths: dict[int, int]) -> dict[int, MarkCounts]:
    """Count the marks of the children of maps."""
    names: list[str] = []
    of: list[int] = []
    for number, width in widths.items():
        over = plan.steps[number].over
        is_open = over is not None and over.is_open
        leaves = [None] if width <= LEAF and not is_open else list(range(-(-width // LEAF)))
        names += [map_name(workflow, number, leaf) for leaf in leaves]
        of += [number] * len(leaves)
    counts = {number: MarkCounts(0, 0, 0) for number in widths}
    for number, marks in zip(of, await reader.values(names) if names else [], strict=True):
        one, sofar = MarkCounts.of(marks or b""), counts[number]
        counts[number] = MarkCounts(*map(sum, zip(one, sofar, strict=True)))
    for number, width in widths.items():
        over = plan.steps[number].over
        if over is not None and over.is_open and width % LEAF:  # who closed it marked the places that no job has
            succeeded = counts[number].succeeded - (LEAF - width % LEAF)
            counts[number] = counts[number]._replace(succeeded=max(succeeded, 0))
    return counts


def _progress(stored: StoredOutcome | None) -> WorkflowProgress:
    if stored is None:
        return WorkflowProgress(total=1, succeeded=0, failed=0, skipped=0)
    succeeded, skipped = stored.state == "succeeded", how_of(stored) is SKIPPED
    return WorkflowProgress(
        total=1, succeeded=int(succeeded), failed=int(not succeeded and not skipped), skipped=int(skipped)
    )


def _map_progress(width: int | None, counts: MarkCounts | None) -> WorkflowProgress:
    if width is None or counts is None:
        return WorkflowProgress(total=1, succeeded=0, failed=0, skipped=0)
    if width == SKIPPED_MAP:
        return WorkflowProgress(total=1, succeeded=0, failed=0, skipped=1)
    return WorkflowProgress(total=width, succeeded=counts.succeeded, failed=counts.failed, skipped=counts.skipped)


def _map_status(progress: WorkflowProgress, width: int | None) -> StepStatus:
    if width == SKIPPED_MAP:
        return "skipped"
    return "succeeded" if not progress.failed else "dead" if progress.failed == progress.total else "succeeded"


def _ended_status(stored: StoredOutcome | None) -> StepStatus:
    if stored is None:
        return "waiting"
    return "skipped" if how_of(stored) is SKIPPED else stored.state


def _reason(stored: StoredOutcome | None) -> str:
    if stored is None:
        return ""
    error = "" if stored.record is None else f" ({stored.record.type}: {stored.record.message})"
    return stored.reason + error
