"""``continue_with`` and ``spawn``: what a running task leaves to other jobs, instead of waiting for them.

@app.task
async def crawl(url: str) -> int:
    page = await download(url)
    workflow = app.workflow("crawl-page")
    counts = workflow.map(count_links, page.links)
    return continue_with(workflow.step(total, counts.out))    the job's result is the workflow's

@app.task
async def nightly(day: date) -> Report:
    for shop in shops(day):
        spawn(rebuild.call(shop.id))                          the job ends when these have ended
    return Report(day)

Both note only; jobs are sent when the function has returned. An attempt that fails sends none.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast, overload

import msgspec

from taskcore.contract.codec import describe, short_repr
from taskcore.errors import InvalidArguments, StoreRequired
from taskcore.task import Call, Task
from taskcore.worker.context import Context, current
from taskcore.worker.execution import Execution, workflows_here
from taskcore.workflows.chain import Chain
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.perform import StepInHand
from taskcore.workflows.plan import AFTER_DEADLINE, MAP_LIMIT, PLAN_BYTES, STEPS_LIMIT, OneCall, StepPlan, encode_plan
from taskcore.workflows.rest import Family, Rest
from taskcore.workflows.steps import FirstOf, MapStep
from taskcore.workflows.submit import Submission, plan_of
from taskcore.workflows.type_compatibility import fits

__all__ = ["continue_with", "spawn"]

R = TypeVar("R")

DEPTH = 8  #: workflows that may lie within each other
DEADLINE = 86_400.0  #: seconds after which no job starts that a job has spawned
KEEP = 3_600.0  #: seconds for which the outcome of a job is kept whose task keeps no results


@overload
def continue_with(last: MapStep[R], /) -> list[R]: ...
@overload
def continue_with(last: FirstOf[R] | Chain[R], /) -> R: ...
def continue_with(last: FirstOf[Any] | MapStep[Any] | Chain[Any], /) -> Any:
    """Go on as a workflow: when this function has returned, the job ends as the workflow ends.

    Return what it returns: for type checkers that is the result of the workflow. The job holds no slot meanwhile.

    :param last: the last step of a workflow, or a chain.
    :raises InvalidWorkflow: the workflow cannot run as it is written, the job goes on as another one already, it may
        run at most once, or too many workflows lie within each other (TC311).
    :raises NotRunning: this is no job, or its attempt has ended (TC106).
    :raises StoreRequired: the worker has no store (TC105).
    """
    job, rest, clock = _in_hand("continue_with")
    workflow, step = last.build({}) if isinstance(last, Chain) else (_workflow_of(last), last)
    if rest.workflow is not None:
        raise InvalidWorkflow(f"job {job.id} goes on as {rest.workflow.name} already", fix="put both into one workflow")
    how = workflow.how or Submission(None, DEADLINE, KEEP)
    if how.id is not None:
        raise InvalidWorkflow(f"{workflow.name}: it has the id of the job", fix="leave out the id of the workflow")
    _check_result(job, step)
    plan = plan_of(workflow, step, clock, how)
    if plan.is_saga:
        raise InvalidWorkflow(
            f"{workflow.name} has compensations, and no job goes on as such a workflow", fix="submit it from outside"
        )
    size = len(encode_plan(plan))
    if size > PLAN_BYTES:
        raise InvalidWorkflow(
            f"the plan of {workflow.name} has {size:,} bytes, over {PLAN_BYTES:,}",
            fix="give large arguments as references, or several jobs of one task as a map",
        )
    rest.workflow, rest.lists = plan, dict(workflow.lists)
    return job.beyond


def spawn(call: Call[Any], /, *, tolerate: bool = False) -> None:
    """Send a job when this function has returned; this job ends when all that it spawned have ended.

    Its result is what the function returned. If one of them fails, this job is dead, and those that wait do not start.

    :param tolerate: this job ends well even if this one fails.
    :raises InvalidWorkflow: the call cannot be a child: it may run at most once, … (TC311).
    :raises NotRunning: this is no job, or its attempt has ended (TC106).
    :raises StoreRequired: the worker has no store (TC105).
    """
    if not isinstance(call, Call):
        raise InvalidArguments(
            f"spawn takes a call, not {short_repr(call)}", fix="spawn(task.call(…)), with the arguments of the task"
        )
    _, rest, _ = _in_hand("spawn")
    step = child_step(call, goes_on=tolerate)
    group = msgspec.json.encode(step)
    if group not in rest.steps:
        others = len(rest.workflow.steps) if rest.workflow is not None else 0
        if len(rest.steps) + others >= STEPS_LIMIT:
            raise InvalidWorkflow(
                f"a job spawns at most {STEPS_LIMIT:,} kinds of calls", fix="give alike calls the same options"
            )
        taken = {one.name for one in rest.steps.values()}
        names = (step.name, *(f"{step.name}-{number}" for number in range(2, len(taken) + 3)))
        rest.steps[group] = msgspec.structs.replace(step, name=next(one for one in names if one not in taken))
        rest.calls[group] = []
    if len(rest.calls[group]) >= MAP_LIMIT:
        raise InvalidWorkflow(
            f"a job spawns at most {MAP_LIMIT:,} calls of {call.task.name}", fix="give each call several elements"
        )
    rest.calls[group].append(pack_call(call))


def child_step(call: Call[Any], *, goes_on: bool) -> StepPlan:
    """Make the step of which a call is one child.

    :raises InvalidWorkflow: the call cannot be one (TC311).
    """
    task, options = call.task, call.options
    if task.spec.delivery == "at_most_once":
        raise InvalidWorkflow(
            f"{task.name} runs at most once, and cannot be a child: a worker that dies would stop its parent",
            fix="let it run at least once, with a key if a second effect does harm",
        )
    given = [name for name in ("id", "expires", "correlation_id") if getattr(options, name) is not None]
    if given:
        raise InvalidWorkflow(
            f"{task.name}: a child has no {' and no '.join(given)} of its own", fix="leave it out of using(…)"
        )
    return StepPlan(
        name=task.name,
        task=task.name,
        version=task.contract.version,
        queue=options.queue or task.options.queue,
        goes_on=goes_on,
        delay=options.delay,
        timeout=options.timeout,
        retry=options.retry,
        headers=dict(options.headers),
        soft_timeout=(options.rare or {}).get("soft_timeout"),
    )


def pack_call(call: Call[Any]) -> bytes:
    """Pack a call as the element of a map of calls."""
    return encode_call(OneCall(msgspec.Raw(call.payload), call.options.key))


encode_call = msgspec.json.Encoder().encode


def _workflow_of(last: FirstOf[Any] | MapStep[Any]) -> Any:
    if isinstance(last, MapStep):
        return last.step.workflow
    if isinstance(last, FirstOf):
        return last.workflow
    raise InvalidArguments(
        f"continue_with takes the last step of a workflow, not {short_repr(last)}",
        fix="return continue_with(workflow.step(task, …))",
    )


def _check_result(job: Execution, last: FirstOf[Any] | MapStep[Any]) -> None:
    """Refuse a workflow whose result cannot be that of the job."""
    contract = cast("Task[..., Any]", job.task).contract
    result = list[last.step.annotation] if isinstance(last, MapStep) else last.annotation  # type: ignore[name-defined]
    if not fits(result, contract.result.annotation):
        raise InvalidWorkflow(
            f"{contract.name} returns {describe(contract.result.annotation)}, and the workflow as which it goes on "
            f"returns {describe(result)}",
            facts=[f"contract: {contract.signature}"],
            fix="put a task behind it that turns the one into the other",
        )


def _in_hand(verb: str) -> tuple[Execution, Rest, Any]:
    """Find the job that runs here, what it leaves so far, and the worker's clock."""
    context = current()
    slot = context._slot  # noqa: SLF001 - the worker's own
    job = None if slot is None else slot.job
    if slot is None or job is None:
        raise InvalidWorkflow(
            f"{verb} works in the loop and in threads, and {context.task} runs in a process of its own",
            fix='@app.task(runs_in="thread"), or let a task before it do the work',
        )
    if slot.context is not context or job.envelope is not context.envelope:
        raise InvalidWorkflow(f"{verb}: this attempt of job {context.job_id} has ended", fix="call it before the end")
    if job.acked_early:
        raise InvalidWorkflow(
            f"{context.task} runs at most once, and cannot go on: a worker that dies would leave it without an end",
            fix="let it run at least once",
        )
    if isinstance(job.beyond, StepInHand) and job.beyond.plan.is_saga:
        raise InvalidWorkflow(
            f"{verb}: {context.task} is a step of a workflow with compensations, which waits for its end",
            fix="let another step do what follows",
        )
    open_room = workflows_here.get(None)
    if open_room is None:
        raise StoreRequired(f"{verb} needs a store, and this worker has none")
    room = open_room()
    if job.beyond is None:
        job.beyond = Rest()
    elif isinstance(job.beyond, StepInHand) and job.beyond.rest is None:
        job.beyond.rest = Rest()
    rest = cast("Rest", job.beyond.rest if isinstance(job.beyond, StepInHand) else job.beyond)
    if rest.family is None:
        rest.family = _family(job, context, verb, room.clock())
    return job, rest, room.clock


def _family(job: Execution, context: Context, verb: str, now: float) -> Family:
    keep = (job.task.options.keep_result if job.task is not None else None) or KEEP
    if not isinstance(job.beyond, StepInHand):
        return Family((), None, now + DEADLINE, keep)
    plan, of = job.beyond.plan, job.beyond.of
    above = (*plan.above, of.workflow)
    if len(above) >= DEPTH:
        raise InvalidWorkflow(
            f"{verb}: {DEPTH} workflows lie within each other, and {context.task} is a step of the innermost",
            fix="let a job have more children, and their children fewer levels",
        )
    life = max(plan.deadline - now, 0.0) + plan.keep + AFTER_DEADLINE
    return Family(above, of, plan.deadline, life)
