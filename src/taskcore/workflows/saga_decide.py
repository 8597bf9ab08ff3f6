"""The rules of sagas: no I/O, no clock; the same question has the same answer.

Compensation begins when no step can be running any more. A step can be running if it has no outcome and

    all steps that it waits for have ended, and each of them     succeeded, was skipped, or failed with a policy
                                                                 (otherwise, skip) by which the workflow goes on

No other step was published, and none is: those behind a step that failed, or that was stopped, never start.

    outcome of a step           it is undone
    ──────────────────────────  ──────────────────────────────────────────────────────────────────────────────
    succeeded                   yes
    dead                        yes, unless its compensation takes its own result: it may have had its effect
    cancelled, expired          no: it never began (one that may have begun is dead, "outcome unknown")

Steps are undone in the reverse order of the plan: each before those that it waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskcore.results import StoredOutcome
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.marks import FAILED
from taskcore.workflows.plan import Plan, StepPlan
from taskcore.workflows.record_reader import how_of

__all__ = ["check_saga", "may_run", "undo_order"]

Ended = Mapping[int, StoredOutcome | None]


def may_run(plan: Plan, ended: Ended) -> list[int]:
    """List the steps that can be running, or can start."""
    return [
        number
        for number, waits in enumerate(plan.waits)
        if ended[number] is None and all(_lets_on(plan.steps[other], ended[other]) for other in waits)
    ]


def _lets_on(step: StepPlan, stored: StoredOutcome | None) -> bool:
    """Tell whether the steps behind a step that ended so are published."""
    return stored is not None and (how_of(stored) is not FAILED or (step.goes_on and stored.state != "cancelled"))


def undo_order(plan: Plan, ended: Ended) -> list[int]:
    """List the steps that are undone, the first one first."""
    order: list[int] = []
    for number in reversed(range(len(plan.steps))):
        undo, stored = plan.steps[number].undo, ended[number]
        if undo is None or stored is None:
            continue
        takes_own = any(number in value.of for value in undo.takes.values())
        if stored.state == "succeeded" or (stored.state == "dead" and not takes_own):
            order.append(number)
    return order


def check_saga(steps: Sequence[StepPlan]) -> None:
    """Refuse a saga that could not be undone as a whole.

    :raises InvalidWorkflow: it has a map, two pivots, a step beside the pivot, or a compensation behind it (TC311).
    """
    if not any(step.undo is not None or step.pivot for step in steps):
        return
    maps = [step.name for step in steps if step.over is not None]
    if maps:
        raise InvalidWorkflow(
            f"{maps[0]} is a map, and a workflow with compensations or a pivot has none",
            fix="put the map into a workflow as which a job goes on, beside this one",
        )
    pivots = [number for number, step in enumerate(steps) if step.pivot]
    if len(pivots) > 1:
        raise InvalidWorkflow(f"{steps[pivots[0]].name} and {steps[pivots[1]].name} cannot both be the pivot")
    if pivots:
        _check_pivot(steps, pivots[0])


def _check_pivot(steps: Sequence[StepPlan], pivot: int) -> None:
    """Refuse steps beside the pivot, and compensations behind it."""
    before, behind = set(steps[pivot].waits_for()), set[int]()
    for number in reversed(range(pivot)):
        if number in before:
            before |= set(steps[number].waits_for())
    for number in range(pivot + 1, len(steps)):
        if {pivot, *behind} & set(steps[number].waits_for()):
            behind.add(number)
    beside = [step.name for number, step in enumerate(steps) if number not in before | behind | {pivot}]
    if beside:
        raise InvalidWorkflow(
            f"{beside[0]} runs beside the pivot {steps[pivot].name}, so that it could fail behind it",
            fix="order them: one.after(other)",
        )
    undone = [steps[number].name for number in behind if steps[number].undo is not None]
    if undone:
        raise InvalidWorkflow(
            f"{undone[0]} comes behind the pivot {steps[pivot].name}, where nothing is undone",
            fix="leave out its compensation; steps behind the pivot are tried until they succeed",
        )
