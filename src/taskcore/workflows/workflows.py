"""``app.workflow`` and ``app.workflows``: to begin a workflow, and to ask for one that was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from taskcore.client.host import AppHost
from taskcore.components import Components
from taskcore.config import Settings
from taskcore.envelope import check_name, is_safe_id
from taskcore.errors import InvalidSetting, StoreRequired
from taskcore.options import refuse_unknown
from taskcore.router import any_task
from taskcore.store import Store
from taskcore.task import Task
from taskcore.toolkit.units import Duration, seconds_of, shorten_repr
from taskcore.workflows.batch import Batch, BatchLimits, BatchOptions, BatchProgress
from taskcore.workflows.build import Workflow
from taskcore.workflows.chain import Chain
from taskcore.workflows.compensation import begin_anew, read_compensation
from taskcore.workflows.errors import InvalidWorkflow, WorkflowNotFound
from taskcore.workflows.family import JobFamily, read_family
from taskcore.workflows.names import recent_names
from taskcore.workflows.plan import Plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader
from taskcore.workflows.replay import continued, copy_ended
from taskcore.workflows.result_types import returning
from taskcore.workflows.run import Run, task_of_last
from taskcore.workflows.show import WorkflowState, read_state
from taskcore.workflows.steps import FirstOf, MapStep
from taskcore.workflows.submit import Submission, decode_recent, send_plan, submit

__all__ = ["WorkflowOptions", "Workflows"]

R = TypeVar("R")

DEADLINE = 86_400.0  #: seconds after which no step of a workflow starts, unless it says otherwise
OPEN_FOR = 3_600.0  #: seconds after which a batch that is not closed is cancelled
KEEP = 3_600.0  #: seconds for which the outcome of a workflow is kept, if the app's settings keep none


class WorkflowOptions(TypedDict, total=False):
    """The options of a workflow. A time is seconds, a timedelta, or text such as ``"5m"``.

    :param id: of your own; to submit the same workflow again under the same id is safe, and sends it once.
    :param deadline: no step starts after this time; default: a day.
    :param keep: how long its outcome is kept; default: as the app keeps results, or an hour.
    :param on_compensation_failure: whether compensations stop at one that fails (the default), or continue.
    """

    id: str
    deadline: Duration
    keep: Duration
    on_compensation_failure: Literal["stop", "continue"]


class Workflows:
    """The workflows of an app: ``app.workflows``."""

    def __init__(
        self,
        host: AppHost,
        settings: Settings,
        tasks: Mapping[str, Task[..., Any]],
        components: Callable[[], Components],
    ) -> None:
        self._host = host
        self._settings = settings
        self._tasks = tasks
        self._components = components

    def begin(self, name: str, options: WorkflowOptions) -> Workflow:
        """Begin a workflow.

        :raises InvalidSetting: an option does not exist, or cannot be (TC104).
        :raises StoreRequired: the app has no store (TC105).
        """
        refuse_unknown("workflow()", options, WorkflowOptions.__annotations__)
        self._store()
        own = options.get("id")
        if own is not None and not is_safe_id(own):
            raise InvalidSetting(f"id={shorten_repr(own)} cannot be used", fix="give a text without control characters")
        deadline = seconds_of("deadline", options.get("deadline", DEADLINE))
        keep = seconds_of("keep", options.get("keep", self._settings.keep_result or KEEP))
        how = Submission(own, deadline, keep, _undoes_on(options.get("on_compensation_failure", "stop")))
        return Workflow(name, partial(self._submit, how=how), how)

    @overload
    async def submit(self, last: Chain[R], **options: Unpack[WorkflowOptions]) -> Run[R]: ...
    @overload
    async def submit(self, last: MapStep[R]) -> Run[list[R]]: ...
    @overload
    async def submit(self, last: FirstOf[R]) -> Run[R]: ...
    async def submit(
        self, last: Chain[Any] | FirstOf[Any] | MapStep[Any], **options: Unpack[WorkflowOptions]
    ) -> Run[Any]:
        """Send a chain, or the workflow that has this last step; see :meth:`taskcore.workflows.Workflow.submit`."""
        if isinstance(last, Chain):
            return await last.submit(**options)
        workflow = last.step.workflow if isinstance(last, MapStep) else last.workflow
        run: Run[Any] = await workflow.submit(last)
        return run

    def batch(self, name: str, options: BatchOptions) -> Batch:
        """Make a batch, which is open while its ``async with`` block runs.

        :raises InvalidSetting: an option does not exist, or cannot be (TC104).
        :raises InvalidWorkflow: a callback cannot be one: it may run at most once, … (TC311).
        :raises StoreRequired: the app has no store (TC105).
        """
        refuse_unknown("batch()", options, BatchOptions.__annotations__)
        self._store()
        given = ((options.get("on_complete"), False), (options.get("on_success"), True))
        callbacks = [(call, only_if_all) for call, only_if_all in given if call is not None]
        open_for = seconds_of("open_for", options.get("open_for", OPEN_FOR))
        limits = BatchLimits(
            open_for,
            max(seconds_of("deadline", options.get("deadline", DEADLINE)), open_for),
            seconds_of("keep", options.get("keep", self._settings.keep_result or KEEP)),
        )
        queues = [call.options.queue or call.task.options.queue for call, _ in callbacks]
        queue = check_name("queue", options.get("queue", queues[0] if queues else "default"))
        counts = returning(self._any_task, BatchProgress)
        return Batch(name, callbacks, limits, queue, self._components(), self._settings.source, counts)

    async def get(self, id: str) -> Run[Any]:
        """Find a workflow; its result is read by the task of its last step, if this app has it.

        :raises WorkflowNotFound: there is none with this id, or its records are gone (TC411).
        """
        plan = await self._plan(id)
        return self._run(id, plan, task_of_last(plan, self._task_named, self._any_task))

    async def show(self, id: str) -> WorkflowState:
        """Read how far a workflow has come, step by step.

        :raises WorkflowNotFound: there is none with this id, or its records are gone (TC411).
        """
        self._host.require_open()
        plan = await self._plan(id)
        return await read_state(RecordReader(self._store()), id, plan)

    async def family(self, id: str, *, limit: int = 100) -> JobFamily:
        """Read of which workflows a job is a part, and which jobs it left behind: its parents and its children.

        A job that is no part of a workflow, and one whose records are gone, has none.

        :param id: of a job, a workflow or a batch.
        :param limit: how many children at most.
        """
        self._host.require_open()
        reader = RecordReader(self._store())
        return await read_family(reader, id, limit) if is_safe_id(id) else JobFamily(id=id)

    async def cancel(self, id: str) -> bool:
        """Cancel a workflow, as :meth:`Run.cancel` does.

        :raises WorkflowNotFound: there is none with this id, or its records are gone (TC411).
        """
        return await (await self.get(id)).cancel()

    async def replay(self, id: str, *, deadline: Duration = DEADLINE) -> Run[Any]:
        """Go on with a workflow that has ended, as a new one: the steps that succeeded do not run again.

        Replaying it twice, or again after a crash, makes one new workflow: its id follows from the first one's.

        :param deadline: no step of the new one starts after this time.
        :raises WorkflowNotFound: there is none with this id, or its records are gone (TC411).
        :raises EnqueueRefused: surely not sent (TC203).
        """
        plan = await self._plan(id)
        store, components = self._store(), self._components()
        seconds = seconds_of("deadline", deadline)
        await self._refuse_undone(id, plan)
        goes_on = continued(plan, components.clock() + seconds)
        life = goes_on.life(components.clock()) + plan.keep
        new = await copy_ended(store, RecordReader(store), id, plan, life)
        return await self._send(new, goes_on, life, task_of_last(goes_on, self._task_named, self._any_task))

    async def _refuse_undone(self, id: str, plan: Plan) -> None:
        """Refuse to go on with steps that are undone, or are being undone."""
        if plan.is_saga and (await read_compensation(RecordReader(self._store()), id, plan)).state != "none":
            raise InvalidWorkflow(
                f"steps of the workflow {shorten_repr(id)} are undone, and it cannot go on with them",
                fix="submit it anew; app.workflows.compensate(id) goes on with a compensation that failed",
            )

    async def compensate(self, id: str) -> None:
        """Begin the compensation of a saga anew, at the one that failed; those that are done are not repeated.

        The outcome of the workflow stays as it is; ``run.compensation()`` tells how far it has come.

        :raises WorkflowNotFound: there is none with this id, or its records are gone (TC411).
        :raises InvalidWorkflow: nothing of it is undone (TC311).
        :raises EnqueueRefused: surely not sent (TC203).
        """
        plan = await self._plan(id)
        await begin_anew(self._store(), self._sender(), id, plan, self._components().clock())

    async def recent(self) -> AsyncIterator[WorkflowState]:
        """Yield workflows that were sent lately, the newest first: some hundred at most, and the newest for sure."""
        self._host.require_open()
        records = await self._store().get_many(recent_names())
        found = [decode_recent(record.value) for record in records if record is not None]
        for one in sorted(found, key=lambda one: one.at, reverse=True):
            try:
                yield await self.show(one.id)
            except WorkflowNotFound:
                continue

    # ── sending ──

    async def _submit(self, workflow: Workflow, last: FirstOf[Any] | MapStep[Any], /, *, how: Submission) -> Run[Any]:
        self._host.require_open()
        task = last.step.task if isinstance(last, MapStep) else last.task
        annotation = _annotation(last)
        with workflow.noting():
            task = returning(task, annotation)
        run_id, plan = await submit(workflow, last, self._components(), self._store(), how, self._sender())
        return self._run(run_id, plan, task)

    async def _send(self, run_id: str, plan: Plan, life: float, task: Task[Any, Any]) -> Run[Any]:
        plan = await send_plan(self._store(), self._sender(), run_id, plan, life, self._components().clock())
        return self._run(run_id, plan, task)

    def _sender(self) -> StepSender:
        return StepSender(self._components(), self._settings.source)

    def _run(self, run_id: str, plan: Plan, task: Task[Any, Any]) -> Run[Any]:
        return Run(run_id, plan, task, self._components, self._task_named)

    def _store(self) -> Store:
        store = self._components().store
        if store is None:
            raise StoreRequired("workflows are kept in a store, and this app has none")
        return store

    async def _plan(self, id: str) -> Plan:
        self._host.require_open()
        plan = await RecordReader(self._store()).plan(id) if is_safe_id(id) else None
        if plan is None:
            raise WorkflowNotFound(
                f"there is no workflow {shorten_repr(id)}", fix="`taskcore workflows` lists the newest"
            )
        return plan

    def _task_named(self, name: str) -> Task[..., Any]:
        return self._tasks.get(name, self._any_task)

    @property
    def _any_task(self) -> Task[..., Any]:
        return any_task(self._host, self._settings, has_store=True)


def _undoes_on(given: str) -> bool:
    """Tell whether compensations continue behind one that failed.

    :raises InvalidSetting: it is neither.
    """
    if given not in ("stop", "continue"):
        raise InvalidSetting(f"on_compensation_failure={given!r} is not known", fix='"stop" or "continue"')
    return given == "continue"


def _annotation(last: FirstOf[Any] | MapStep[Any]) -> Any:
    """Find the type of the result of the last step."""
    if not isinstance(last, MapStep):
        return last.annotation
    if last.step.plan.at_least is not None:
        from taskcore.workflows.outcomes import ChildOutcome  # noqa: PLC0415 - for such maps only

        return list[ChildOutcome[last.step.annotation]]  # type: ignore[name-defined]
    return list[last.step.annotation]  # type: ignore[name-defined]
