"""Run: the handle of a workflow that was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast, overload

from taskcore.components import Components
from taskcore.errors import EnqueueRefused, ResultNotKept, ResultTimeout
from taskcore.records.names import outcome_name
from taskcore.results import CANCELLED, EXPIRED, JobOutcome, Succeeded, error_of
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.task import Job, Task
from taskcore.toolkit.units import Duration, seconds_of
from taskcore.workflows.advance import UNDOING
from taskcore.workflows.compensation import Compensation, read_compensation
from taskcore.workflows.decide import StepKey
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.names import step_id, stop_name
from taskcore.workflows.plan import AFTER_DEADLINE, UNDO_TIME, Plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader
from taskcore.workflows.result_types import returning
from taskcore.workflows.saga import STOPPED, claim_pivot, stop_saga
from taskcore.workflows.show import WorkflowProgress, WorkflowState, read_state
from taskcore.workflows.steps import FirstOf, MapStep, Step

__all__ = ["Run", "TaskNamed", "task_of_last"]

R = TypeVar("R")
S = TypeVar("S")
TaskNamed = Callable[[str], Task[..., Any]]

END_AFTER_DEADLINE = 600.0  #: seconds after its deadline in which a step that runs across it may still end a workflow


class Run(Generic[R]):
    """A workflow that was sent; ``await run.result()`` is the result of its last step, typed.

    It holds no connection and may be kept, or made anew from its id: ``await app.workflows.get(id)``.
    """

    def __init__(
        self, id: str, plan: Plan, task: Task[Any, R], components: Callable[[], Components], task_named: TaskNamed
    ) -> None:
        self.id = id
        self.plan = plan
        self._components = components
        self._task_named = task_named
        self._job: Job[R] = Job(id, task, plan.steps[plan.last].queue)

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.plan.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the result of the last step.

        :param timeout: how long to wait at most; None sets no limit but the workflow's own deadline.
        :raises JobFailed: a step failed; the text names it (TC403).
        :raises JobCancelled: the workflow was cancelled (TC404).
        :raises JobExpired: its deadline passed (TC405).
        :raises ResultTimeout: it has not ended yet (TC401).
        :raises ResultNotKept: it ended, and its outcome is not kept any more (TC406).
        """
        outcome = await self.outcome(timeout)
        if isinstance(outcome, Succeeded):
            return outcome.value
        raise error_of(self.id, self.plan.name, outcome, has_dead_letter=False)

    async def outcome(self, timeout: Duration | None = None) -> JobOutcome[R]:
        """Wait for the end of the workflow and return it as a value to ``match`` on.

        :raises ResultTimeout: it has not ended yet (TC401).
        :raises ResultNotKept: it ended, and its outcome is not kept any more (TC406).
        """
        late = END_AFTER_DEADLINE + (
            UNDO_TIME if self.plan.is_saga else 0.0
        )  # what is undone takes as long as it takes
        left = max(self.plan.deadline + late - self._components().clock(), 0.0)
        wait = left if timeout is None else min(seconds_of("timeout", timeout), left)
        try:
            return await self._job.outcome(wait)
        except ResultTimeout:
            if wait < left:
                raise
        await self._expire()  # its broker or its store has lost a step: nothing else is going to end it
        return await self._job.outcome(0.0)

    async def cancel(self) -> bool:
        """Let no further step start. True: the workflow ends as cancelled; False: it had ended already.

        A workflow with compensations ends when what it did is undone; behind its pivot it is not cancelled any more.
        It is one round trip for any number of steps. Steps that run go on to their end, and nothing follows from it.

        :raises BrokerUnavailable: the store cannot be reached (TC201).
        """
        if self.plan.is_saga:
            return await self._undo()
        _, end = await self._store.put_many([self._stop(b"cancelled"), self._end(CANCELLED)])
        return not isinstance(end, Conflict)

    async def _undo(self) -> bool:
        """Let a saga be undone, unless it is behind its pivot, or has ended well by now."""
        components = self._components()
        if await self._store.get(outcome_name(self.id)) is not None:
            return False
        if not await claim_pivot(self._store, self.id, self.plan, STOPPED, components.clock()):
            return False
        sender = StepSender(components, None)
        refused = await sender.publish([sender.compensation(self.id, self.plan, 0)])
        if refused:
            raise EnqueueRefused(
                f"{self.plan.name} is not cancelled yet: {next(iter(refused.values()))}", fix="try again"
            )
        stop = await stop_saga(self._store, self.id, self.plan, CANCELLED, components.clock())
        return stop.startswith(UNDOING)

    async def compensation(self) -> Compensation:
        """Read what of the workflow was undone, and what could not be."""
        return await read_compensation(RecordReader(self._store), self.id, self.plan)

    async def progress(self) -> WorkflowProgress:
        """Count the jobs of the workflow, and how they ended."""
        return (await self.state()).progress

    async def state(self) -> WorkflowState:
        """Read the state of each step."""
        return await read_state(RecordReader(self._store), self.id, self.plan)

    @overload
    def __getitem__(self, step: Step[S]) -> Job[S]: ...
    @overload
    def __getitem__(self, step: str) -> Job[Any]: ...
    def __getitem__(self, step: Step[Any] | str) -> Job[Any]:
        """Return the handle of the job of one of its steps; a step may be given by its name.

        :raises InvalidWorkflow: there is no such step, or it is a map, whose children have jobs (TC311).
        """
        number = self._number(step)
        task = self._task_named(self.plan.steps[number].task) if isinstance(step, str) else step.task
        if self.plan.steps[number].over is not None:
            raise InvalidWorkflow(
                f"{self.plan.steps[number].name} is a map, and has a job for each element",
                fix="run.child(step, index)",
            )
        return StepJob(
            step_id(self.id, StepKey(number)), returning(task, task.contract.result.annotation), self._queue(number)
        )

    @overload
    def child(self, step: MapStep[S], index: int) -> Job[S]: ...
    @overload
    def child(self, step: str, index: int) -> Job[Any]: ...
    def child(self, step: MapStep[Any] | str, index: int) -> Job[Any]:
        """Return the handle of the job of one child of a map.

        :raises InvalidWorkflow: there is no such step (TC311).
        """
        number = self._number(step if isinstance(step, str) else step.step)
        task = self._task_named(self.plan.steps[number].task) if isinstance(step, str) else step.step.task
        return StepJob(
            step_id(self.id, StepKey(number, index)),
            returning(task, task.contract.result.annotation),
            self._queue(number),
        )

    def _number(self, step: FirstOf[Any] | str) -> int:
        if not isinstance(step, str):
            number, name = step.number, step.plan.name
        else:
            name, names = step, [one.name for one in self.plan.steps]
            number = names.index(name) if name in names else len(names)
        if number >= len(self.plan.steps) or self.plan.steps[number].name != name:
            names_there = ", ".join(one.name for one in self.plan.steps)
            raise InvalidWorkflow(f"{name} is not a step of {self!r}", facts=[f"its steps: {names_there}"])
        return number

    def _queue(self, number: int) -> str:
        return self.plan.steps[number].queue

    @property
    def _store(self) -> Store:
        return cast("Store", self._components().store)

    def _stop(self, why: bytes) -> Write:
        life = max(self.plan.deadline - self._components().clock(), 0.0) + AFTER_DEADLINE
        return Write(key=stop_name(self.id), value=why, expect=ABSENT, keep=life)

    def _end(self, outcome: bytes) -> Write:
        return Write(key=outcome_name(self.id), value=outcome, expect=ABSENT, keep=self.plan.keep)

    async def _expire(self) -> None:
        """End the workflow, if it has not ended.

        :raises ResultNotKept: it has, and its outcome is not kept any more.
        """
        stopped, ended = await self._store.get_many([stop_name(self.id), outcome_name(self.id)])
        if stopped is not None and ended is None:
            raise ResultNotKept(
                f"workflow {self.id} has ended, and its outcome is not kept any more",
                fix='app.workflow("name", keep="7d") keeps it for longer',
            )
        await self._store.put_many([self._stop(b"expired"), self._end(EXPIRED)])


class StepJob(Job[R], frozen=True, gc=False, eq=False):
    """The handle of the job of a step."""

    async def cancel(self) -> bool:
        """Refuse: a step that is cancelled alone would leave its workflow waiting.

        :raises InvalidWorkflow: always (TC311).
        """
        raise InvalidWorkflow(
            f"job {self.id} is a step of a workflow, and cannot be cancelled alone",
            fix="await run.cancel() cancels the whole workflow",
        )


def task_of_last(plan: Plan, task_named: TaskNamed, any_task: Task[..., Any]) -> Task[Any, Any]:
    """Choose the task by which the result of a workflow is read of which only the plan is known."""
    last = plan.steps[plan.last]
    plain = last.over is None and not plan.or_else and not last.has_default
    return returning(task_named(last.task), task_named(last.task).contract.result.annotation) if plain else any_task
