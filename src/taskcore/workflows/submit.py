"""Submitting: the parts of lists, then the plan, then one job; what a crash leaves in between, time takes away.

    1. lists   of maps over lists that are known
    2. plan    written once                                    workflow.planned
    3. job     of the first step; several begin with one job   workflow.begun

A workflow with an id of the caller's may be submitted again after any of them: the plan that was written first stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from taskcore.components import Components
from taskcore.envelope import CallRetry, new_id, running
from taskcore.errors import EnqueueRefused
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.workflows.build import Workflow
from taskcore.workflows.decide import may_lack_result
from taskcore.workflows.errors import InvalidWorkflow, WorkflowExists
from taskcore.workflows.expand import write_lists
from taskcore.workflows.names import owner_name, plan_name, recent_name
from taskcore.workflows.plan import PLAN_BYTES, Plan, decode_plan, encode_plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.saga_decide import check_saga
from taskcore.workflows.steps import FirstOf, MapStep

__all__ = ["RecentWorkflow", "Submission", "decode_recent", "plan_of", "send_plan", "submit"]


class Submission(NamedTuple):
    """How a workflow is sent.

    :param id: of the caller's; None: a new one.
    :param deadline: seconds after which no step starts.
    :param keep: seconds for which its outcome is kept.
    :param undoes_on: whether compensations go on behind one that failed.
    """

    id: str | None
    deadline: float
    keep: float
    undoes_on: bool = False


class RecentWorkflow(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a workflow for lists."""

    id: str
    name: str
    at: float


encode_recent = msgspec.json.Encoder().encode
decode_recent = msgspec.json.Decoder(RecentWorkflow).decode


async def submit(
    workflow: Workflow,
    last: FirstOf[Any] | MapStep[Any],
    components: Components,
    store: Store,
    how: Submission,
    sender: StepSender,
) -> tuple[str, Plan]:
    """Send a workflow; return its id, and the plan that stands.

    :raises InvalidWorkflow: it cannot run as it is written (TC311).
    :raises WorkflowExists: another workflow has its id (TC412).
    """
    plan = plan_of(workflow, last, components.clock, how)
    data = encode_plan(plan)
    if len(data) > PLAN_BYTES:
        raise InvalidWorkflow(
            f"the plan of {workflow.name} has {len(data):,} bytes, over {PLAN_BYTES:,}",
            fix="give large arguments as references, or several jobs of one task as a map",
        )
    run_id, life = how.id or new_id(), plan.life(plan.deadline - how.deadline)
    await write_lists(store, run_id, workflow.lists, life)
    return run_id, await send_plan(store, sender, run_id, plan, life, components.clock())


async def send_plan(store: Store, sender: StepSender, run_id: str, plan: Plan, life: float, now: float) -> Plan:
    """Write a plan and publish its first job; return the plan that stands, which the same sender wrote before."""
    recent = encode_recent(RecentWorkflow(run_id, plan.name, now))
    answer, *_ = await store.put_many(
        [
            Write(key=plan_name(run_id), value=encode_plan(plan), expect=ABSENT, keep=life),
            Write(key=owner_name(run_id), value=run_id.encode(), keep=life),
            Write(key=recent_name(run_id), value=recent, keep=life),
        ]
    )
    if isinstance(answer, Conflict) and answer.current is not None:
        standing = decode_plan(answer.current.value)
        if msgspec.structs.replace(plan, deadline=standing.deadline) != standing:
            raise WorkflowExists(
                f"there is another workflow with the id {run_id}: {standing.name}",
                fix="give each workflow an id of its own; the same id is for sending the same workflow again",
            )
        plan = standing
    failpoint("workflow.planned")
    beside = [sender.deadline(run_id, plan)] if plan.is_saga else []
    refused = await sender.publish([*beside, sender.beginning(run_id, plan)])
    if refused:
        raise EnqueueRefused(
            f"{plan.name} was not sent: {next(iter(refused.values()))}", fix="try again later, with the same id"
        )
    failpoint("workflow.begun")
    return plan


def plan_of(workflow: Workflow, last: FirstOf[Any] | MapStep[Any], clock: Callable[[], float], how: Submission) -> Plan:
    """Make the plan of a workflow that is built.

    :raises InvalidWorkflow: something is wrong with it; everything is named (TC311).
    """
    numbers: tuple[int, ...] = ()
    with workflow.noting():
        number = workflow.number_of(last, before=len(workflow.steps))
        numbers = (number,) if isinstance(last, MapStep) else last.values
        if may_lack_result(workflow.steps, numbers):
            raise InvalidWorkflow(
                f"{' or '.join(workflow.steps[one].name for one in numbers)} is the last step, and may have no result",
                fix="give it a value for that case: .otherwise(None)",
            )
    with workflow.noting():
        check_saga(workflow.steps)
    workflow.refuse_if_faulty()
    parent = running.get(None)
    plan = Plan(
        name=workflow.name,
        steps=tuple(workflow.steps),
        undoes_on=how.undoes_on,
        last=numbers[0],
        or_else=numbers[1:],
        deadline=clock() + how.deadline,
        keep=how.keep,
        correlation_id=None if parent is None else parent.envelope.correlation_id or parent.envelope.id,
    )
    if plan.pivot is None:
        return plan
    steps = [
        msgspec.structs.replace(step, retry=_until_it_succeeds(step.retry)) if number in plan.behind_pivot else step
        for number, step in enumerate(plan.steps)
    ]
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _until_it_succeeds(own: CallRetry | None) -> CallRetry:
    """Let a step behind the pivot be tried again and again."""
    return msgspec.structs.replace(CallRetry() if own is None else own, attempts=1_000_000)
