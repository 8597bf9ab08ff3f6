"""Steps of a workflow that is being built: their values, and what becomes of the workflow if they fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from taskcore.task import Task
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.outcomes import ChildOutcome
from taskcore.workflows.output import Output, OutputFacts, output_in
from taskcore.workflows.plan import StepPlan, Value

if TYPE_CHECKING:
    from taskcore.workflows.build import Workflow

__all__ = ["MapStep", "Step"]

P = ParamSpec("P")
B = TypeVar("B")
R = TypeVar("R")


class Step(Generic[R]):
    """A step of a workflow that is being built; each method changes it and returns it."""

    def __init__(self, workflow: Workflow, number: int, task: Task[Any, R]) -> None:
        self.workflow = workflow
        self.number = number
        self.task = task
        self.values: tuple[int, ...] = (number,)

    def __repr__(self) -> str:
        return f"<Step {self.number} {self.plan.name}>"

    @property
    def plan(self) -> StepPlan:
        """The step as it will be sent."""
        return self.workflow.steps[self.number]

    @property
    def out(self) -> R:
        """Stand for the step's result; give it as a whole to another step.

        For type checkers it is the result. Any other use of it raises :class:`InvalidWorkflow` (TC311).
        """
        annotation = self.task.contract.result_annotation
        return cast("R", Output(OutputFacts(self.workflow, Value(self.values), annotation, self.plan.name)))

    def after(self, *steps: Step[Any]) -> Step[R]:
        """Start after these steps have ended, however they end."""
        numbers = tuple(self.workflow.number_of(step, before=self.number) for step in steps)
        return self.change(after=(*self.plan.after, *numbers))

    def when(self, flag: bool, /) -> Step[R]:
        """Run only if a value is true, else the step is skipped; so are the steps that take its result."""
        output = output_in(flag)
        if output is None or output.annotation is not bool:
            raise InvalidWorkflow(
                f"{self.plan.name}: `when` takes the result of a step that returns a bool, not {flag!r}",
                fix="workflow.step(…).when(other.out)",
            )
        return self.change(when=self.workflow.value_of(output, before=self.number))

    @overload
    def otherwise(self, value: R, /) -> Step[R]: ...
    @overload
    def otherwise(self, value: B, /) -> Step[R | B]: ...
    def otherwise(self, value: Any, /) -> Any:
        """Let a value count as the result if the step fails or is skipped.

        :raises InvalidWorkflow: the value cannot travel (TC311).
        """
        try:
            packed = msgspec.json.encode(value)
        except Exception as error:
            raise InvalidWorkflow(f"{self.plan.name}: the value of `otherwise` cannot travel: {error}") from error
        return self.change(default=msgspec.Raw(packed), goes_on=True)

    def otherwise_run(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]:
        """Run another task if the step fails or is skipped; its result counts."""
        self.change(goes_on=True)
        other = self.workflow.step(task, *args, **kwargs)
        other.change(unless=self.number)
        self.values = (*self.values, *other.values)
        return self

    def skip(self) -> Step[R]:
        """Let the workflow go on if the step fails; the steps that take its result are skipped."""
        return self.change(goes_on=True)

    def named(self, name: str) -> Step[R]:
        """Give the step a name of its own, for people; the default is that of its task."""
        if any(step.name == name for step in self.workflow.steps):
            raise InvalidWorkflow(f"two steps cannot both be called {name!r}", fix="give one of them another name")
        return self.change(name=name)

    def change(self, **changes: Any) -> Step[R]:
        self.workflow.steps[self.number] = msgspec.structs.replace(self.plan, **changes)
        return self


class MapStep(Generic[R]):
    """A step that is one job for each element of a list."""

    def __init__(self, step: Step[R]) -> None:
        self.step = step

    def __repr__(self) -> str:
        return f"<MapStep {self.step.plan.name}>"

    @property
    def out(self) -> list[R]:
        """Stand for the list of results, in the order of the elements."""
        return cast("list[R]", self._output(list[self.step.task.contract.result_annotation]))  # type: ignore[name-defined]

    def outcomes(self, at_least: float = 0.0) -> list[ChildOutcome[R]]:
        """Stand for the list of how each child ended; the workflow goes on if some have failed.

        :param at_least: the share of children that have to succeed; with fewer the workflow fails.
        :raises InvalidWorkflow: that is no share from 0 to 1 (TC311).
        """
        if not 0 <= at_least <= 1:
            raise InvalidWorkflow(f"at_least={at_least!r} is not a share from 0 to 1", fix="for example at_least=0.9")
        self.step.change(at_least=float(at_least))
        annotation = list[ChildOutcome[self.step.task.contract.result_annotation]]  # type: ignore[name-defined]
        return cast("list[ChildOutcome[R]]", self._output(annotation, outcomes=True))

    def otherwise(self, value: R, /) -> MapStep[R]:
        """Let a value stand in the list for each child that fails or is skipped."""
        self.step.otherwise(value)
        return self

    def skip(self) -> MapStep[R]:
        """Leave children that fail out of the list."""
        self.step.skip()
        return self

    def after(self, *steps: Step[Any]) -> MapStep[R]:
        """Start after these steps have ended, however they end."""
        self.step.after(*steps)
        return self

    def when(self, flag: bool, /) -> MapStep[R]:
        """Run only if a value is true."""
        self.step.when(flag)
        return self

    def _output(self, annotation: Any, *, outcomes: bool = False) -> Output:
        step = self.step
        return Output(OutputFacts(step.workflow, Value((step.number,), outcomes), annotation, step.plan.name))
