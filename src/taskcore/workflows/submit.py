"""Submitting: parts of lists, then the plan, then one job; what a crash leaves in between, time takes away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from taskcore.components import Components
from taskcore.envelope import new_id
from taskcore.errors import EnqueueRefused, StoreRequired
from taskcore.store import ABSENT, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.workflows.advance import AFTER_DEADLINE
from taskcore.workflows.build import Workflow
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.names import list_name, plan_name
from taskcore.workflows.plan import CHUNK, PLAN_BYTES, Plan, encode_plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.steps import Step

if TYPE_CHECKING:
    from taskcore.workflows.run import Run

__all__ = ["submit"]

R = TypeVar("R")

LISTS_AT_ONCE = 8  #: parts of lists in one write


async def submit(
    workflow: Workflow, last: Step[R], components: Components, *, deadline: float, keep: float, source: str | None
) -> Run[R]:
    """Send a workflow.

    :param deadline: seconds after which no step starts.
    :param keep: seconds for which its outcome is kept.
    :raises InvalidWorkflow: it cannot run as it is written (TC311).
    :raises StoreRequired: the app has no store (TC105).
    """
    from taskcore.workflows.run import Run  # noqa: PLC0415

    store = components.store
    if store is None:
        raise StoreRequired("workflows are kept in a store, and this app has none")
    number = workflow.number_of(last, before=len(workflow.steps))
    _check_last(workflow, number)
    plan = Plan(
        name=workflow.name,
        steps=tuple(workflow.steps),
        last=number,
        deadline=components.clock() + deadline,
        keep=keep,
    )
    data = encode_plan(plan)
    if len(data) > PLAN_BYTES:
        raise InvalidWorkflow(
            f"the plan of {workflow.name} has {len(data):,} bytes, over {PLAN_BYTES:,}",
            fix="give large arguments as references, or several jobs of one task as a map",
        )
    run_id, life = new_id(), deadline + AFTER_DEADLINE
    await _write_lists(store, run_id, workflow, life)
    await store.put_many([Write(key=plan_name(run_id), value=data, expect=ABSENT, keep=life)])
    failpoint("workflow.planned")
    sender = StepSender(components, source)
    refused = await sender.publish([sender.beginning(run_id, plan)])
    if refused:
        raise EnqueueRefused(f"{workflow.name} was not sent: {next(iter(refused.values()))}", fix="try again later")
    failpoint("workflow.begun")
    return Run(run_id, plan, last, components)


def _check_last(workflow: Workflow, number: int) -> None:
    """Refuse a workflow whose outcome may be that its last step was skipped.

    :raises InvalidWorkflow: it may be.
    """
    may_skip: list[bool] = []
    for step in workflow.steps:
        taken = [*step.takes.values(), *([step.when] if step.when else [])]
        loses = any(
            all(may_skip[one] or workflow.steps[one].goes_on for one in value.of)
            and not any(workflow.steps[one].has_default for one in value.of)
            for value in taken
        )
        may_skip.append((step.when is not None or loses) and not step.has_default)
    if may_skip[number] or (workflow.steps[number].goes_on and not workflow.steps[number].has_default):
        raise InvalidWorkflow(
            f"{workflow.steps[number].name} is the last step, and may be skipped: then there is no result",
            fix="give it a value for that case: .otherwise(None)",
        )


async def _write_lists(store: Store, run_id: str, workflow: Workflow, life: float) -> None:
    writes = [
        Write(key=list_name(run_id, number, start // CHUNK), value=_joined(elements[start : start + CHUNK]), keep=life)
        for number, elements in workflow.lists.items()
        for start in range(0, len(elements), CHUNK)
    ]
    for start in range(0, len(writes), LISTS_AT_ONCE):
        await store.put_many(writes[start : start + LISTS_AT_ONCE])


def _joined(elements: Sequence[bytes]) -> bytes:
    return msgspec.json.encode([msgspec.Raw(element) for element in elements])
