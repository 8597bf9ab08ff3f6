"""Run: the handle of a workflow that was sent."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

from taskcore.components import Components
from taskcore.records.names import outcome_name
from taskcore.results import CANCELLED, JobOutcome
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.task import Job
from taskcore.toolkit.units import Duration
from taskcore.workflows.decide import StepKey
from taskcore.workflows.names import step_id, stop_name
from taskcore.workflows.plan import Plan
from taskcore.workflows.steps import MapStep, Step
from taskcore.workflows.worker import keeping_outcomes

__all__ = ["Run"]

R = TypeVar("R")
S = TypeVar("S")


class Run(Generic[R]):
    """A workflow that was sent; ``await run.result()`` is the result of its last step, typed."""

    def __init__(self, id: str, plan: Plan, last: Step[R], components: Components) -> None:
        self.id = id
        self.plan = plan
        self._components = components
        self._job: Job[R] = Job(id, cast("Any", keeping_outcomes(last.task)), last.plan.queue)

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.plan.name}>"

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the result of the last step.

        :raises JobFailed: a step failed; the text names it (TC403).
        :raises JobCancelled: it was cancelled (TC404).
        :raises JobExpired: its deadline passed (TC405).
        :raises ResultTimeout: it has not ended yet (TC401).
        """
        return await self._job.result(timeout)

    async def outcome(self, timeout: Duration | None = None) -> JobOutcome[R]:
        """Wait for the end of the workflow and return it as a value."""
        return await self._job.outcome(timeout)

    def __getitem__(self, step: Step[S]) -> Job[S]:
        """Return the handle of the job of one of its steps."""
        return Job(step_id(self.id, StepKey(step.number)), cast("Any", keeping_outcomes(step.task)), step.plan.queue)

    def child(self, step: MapStep[S], index: int) -> Job[S]:
        """Return the handle of the job of one child of a map."""
        one = step.step
        return Job(
            step_id(self.id, StepKey(one.number, index)), cast("Any", keeping_outcomes(one.task)), one.plan.queue
        )

    async def cancel(self) -> bool:
        """Let no further step start. True: the workflow ends as cancelled; False: it had ended already.

        Steps that run go on to their end, and nothing follows from it.
        """
        store = cast("Store", self._components.store)
        life = max(self.plan.deadline - self._components.clock(), 0.0) + 3_600.0
        stop = Write(key=stop_name(self.id), value=b"cancelled", expect=ABSENT, keep=life)
        end = Write(key=outcome_name(self.id), value=CANCELLED, expect=ABSENT, keep=self.plan.keep)
        answers = await store.put_many([stop, end])
        return not any(isinstance(answer, Conflict) for answer in answers)
