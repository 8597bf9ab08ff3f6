"""What a job leaves to other jobs: the calls that it spawns, or the workflow as which it goes on.

It is noted while the function runs, and becomes durable when the job is settled, if this attempt succeeds:

    1. lists, then the plan     under the job's own id, written once: a plan that is there stands
    2. the first jobs           published; their ids follow from the job's id
    3. the job                  acknowledged without an outcome: the workflow's outcome is the job's

So an attempt that fails leaves nothing, and two attempts that both succeed leave one plan. A job that is handed out
again finds its plan before it runs, publishes the first jobs once more, and is acknowledged. No slot waits: what stands
for the job is its plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from taskcore.backend import Outgoing
from taskcore.envelope import new_id
from taskcore.lifecycle import Ack, Returned
from taskcore.records.names import key_name
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker.decide import Settlement
from taskcore.workflows.expand import write_lists
from taskcore.workflows.names import owner_name, plan_name
from taskcore.workflows.plan import AFTER_DEADLINE, NO_VALUE, Over, PartOf, Plan, StepPlan, decode_plan, encode_plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader

__all__ = ["Family", "Rest", "RestSettler", "leaves_rest", "rest_of"]


class Family(msgspec.Struct, frozen=True):
    """Where a job that goes on stands.

    :param above: the workflows that it is a part of, the outermost first.
    :param within: the part of the innermost of them that it is.
    :param deadline: no job of it starts after this time, in seconds since the epoch.
    :param keep: seconds for which its outcome is kept.
    """

    above: tuple[str, ...]
    within: PartOf | None
    deadline: float
    keep: float


class Rest(msgspec.Struct, eq=False):
    """What a job leaves to others.

    :param workflow: as which it goes on.
    :param lists: of the maps of that workflow.
    :param steps: calls that it spawns, those that are alike in one map.
    :param calls: the elements of these maps.
    :param plan_stands: an earlier attempt left a plan; this one has not run.
    :param plan: what is written, once the function has returned.
    """

    family: Family | None = None
    workflow: Plan | None = None
    lists: dict[int, Sequence[bytes]] = {}
    steps: dict[bytes, StepPlan] = {}
    calls: dict[bytes, list[bytes]] = {}
    plan_stands: bool = False
    plan: Plan | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the job ends as any other."""
        return self.workflow is None and not self.steps and not self.plan_stands


def rest_of(beyond: Any) -> Rest | None:
    """Find what a job leaves in what is noted of it."""
    rest = beyond if type(beyond) is Rest else getattr(beyond, "rest", None)
    return None if rest is None or rest.is_empty else rest


def leaves_rest(one: Settlement) -> bool:
    """Tell whether a job that has ended goes on: its function returned, and left something."""
    return rest_of(one.job.beyond) is not None and isinstance(one.outcome, Returned) and isinstance(one.verdict, Ack)


class RestSettler:
    """Makes durable what jobs leave, many at a time."""

    def __init__(self, store: Store, reader: RecordReader, sender: StepSender) -> None:
        self._store = store
        self._reader = reader
        self._sender = sender

    async def begin(self, ended: Sequence[Settlement], now: float) -> dict[str, str]:
        """Write plans and publish first jobs; done again, it does what is not done yet.

        :return: why the broker refuses a first job, by the ids of the jobs that ended; they have to come again.
        :raises BrokerUnavailable: doing all of it again is safe.
        """
        standing = {one.job.id: one for one in ended if _rest(one).plan_stands}
        plans: dict[str, Plan] = {}
        for job_id in standing:
            plan = await self._reader.plan(job_id)
            if plan is not None:
                plans[job_id] = plan
        plans |= await self._write([one for one in ended if one.job.id not in standing], now)
        failpoint("workflow.planned")
        messages: dict[str, Outgoing] = {}
        for job_id, plan in plans.items():
            messages[job_id] = self._sender.beginning(job_id, plan)
        refused = await self._sender.publish(list(messages.values()))
        failpoint("workflow.begun")
        return {job_id: refused[message.id] for job_id, message in messages.items() if message.id in refused}

    async def _write(self, ended: Sequence[Settlement], now: float) -> dict[str, Plan]:
        """Write plans; return those that stand."""
        writes: list[Write] = []
        for one in ended:
            rest = _rest(one)
            if rest.plan is None:
                rest.plan, rest.lists = _complete(one, rest)
                rest.calls.clear()
            life = max(rest.plan.deadline - now, 0.0) + AFTER_DEADLINE
            if rest.lists:
                await write_lists(self._store, one.job.id, rest.lists, life, of_plan=_lists_of(rest.plan))
            data = encode_plan(rest.plan)
            writes.append(Write(key=plan_name(one.job.id), value=data, expect=ABSENT, keep=life, reserve=True))
        writes += [
            Write(key=owner_name(one.job.id), value=one.job.id.encode(), keep=write.keep)
            for one, write in zip(ended, writes, strict=True)
        ]
        plans: dict[str, Plan] = {}
        for one, answer in zip(ended, await self._store.put_many(writes) if writes else (), strict=False):
            plan = _rest(one).plan
            if isinstance(answer, Conflict) and answer.current is not None:
                plan = decode_plan(answer.current.value)
            if plan is not None:
                plans[one.job.id] = plan
        return plans


def _rest(one: Settlement) -> Rest:
    rest = rest_of(one.job.beyond)
    assert rest is not None  # noqa: S101 - the caller asks before
    return rest


def _complete(one: Settlement, rest: Rest) -> tuple[Plan, dict[int, Sequence[bytes]]]:
    """Make the plan of a job that has ended, and the lists of its maps."""
    job, family, workflow = one.job, rest.family, rest.workflow
    assert family is not None  # noqa: S101 - it is noted with what the job leaves
    steps, lists, mark = list(workflow.steps) if workflow is not None else [], dict(rest.lists), new_id()
    for group, step in rest.steps.items():
        lists[len(steps)] = rest.calls[group]
        steps.append(msgspec.structs.replace(step, over=Over("", items=len(rest.calls[group]))))
    for number in lists:
        over = steps[number].over
        if over is not None:
            steps[number] = msgspec.structs.replace(steps[number], over=msgspec.structs.replace(over, lists=mark))
    value = NO_VALUE
    if workflow is None:
        value = msgspec.Raw((one.outcome.result if isinstance(one.outcome, Returned) else b"") or b"null")
    envelope = job.envelope
    plan = Plan(
        name=envelope.task if workflow is None else workflow.name,
        steps=tuple(steps),
        last=0 if workflow is None else workflow.last,
        or_else=() if workflow is None else workflow.or_else,
        deadline=family.deadline if workflow is None else min(workflow.deadline, family.deadline),
        keep=family.keep,
        above=family.above,
        goes_on=True,
        within=family.within,
        value=value,
        key="" if envelope.key is None else key_name(envelope.task, envelope.key),
        key_keep=0.0 if job.task is None else job.task.options.key_window,
        correlation_id=envelope.correlation_id or envelope.id,
    )
    return plan, lists


def _lists_of(plan: Plan) -> str:
    """Find what tells the lists of a plan from others."""
    return next((step.over.lists for step in plan.steps if step.over is not None and step.over.lists), "")
