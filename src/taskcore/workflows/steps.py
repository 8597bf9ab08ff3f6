"""Steps of a workflow that is being built: their values, and what becomes of the workflow if they fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from taskcore.task import ConfiguredTask, Task
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.outcomes import ChildOutcome
from taskcore.workflows.output import Output, OutputFacts, output_in
from taskcore.workflows.plan import StepPlan, Value
from taskcore.workflows.result_types import either, pack_value

if TYPE_CHECKING:
    from taskcore.workflows.build import TakesFirst, Workflow

__all__ = ["FirstOf", "MapStep", "Step"]

P = ParamSpec("P")
B = TypeVar("B")
R = TypeVar("R")


class FirstOf(Generic[R]):
    """The result of the first of several steps that has one: what joins branches again."""

    def __init__(self, workflow: Workflow, numbers: tuple[int, ...], task: Task[Any, R], annotation: Any) -> None:
        self.workflow = workflow
        self.values = numbers  #: the steps, in the order in which their results count
        self.task = task
        self.annotation = annotation  #: the type of the result

    def __repr__(self) -> str:
        return f"<FirstOf {' or '.join(self.workflow.steps[number].name for number in self.values)}>"

    @property
    def number(self) -> int:
        """The number of the first step."""
        return self.values[0]

    @property
    def plan(self) -> StepPlan:
        """The step as it will be sent."""
        return self.workflow.steps[self.number]

    @property
    def out(self) -> R:
        """Stand for the result; give it as a whole to another step.

        For type checkers it is the result. Any other use of it raises :class:`InvalidWorkflow` (TC311).
        """
        return cast("R", Output(OutputFacts(self.workflow, Value(self.values), self.annotation, self._source)))

    @property
    def _source(self) -> str:
        return " or ".join(self.workflow.steps[number].name for number in self.values)


class Step(FirstOf[R]):
    """A step of a workflow that is being built; each method changes it and returns it."""

    def __init__(self, workflow: Workflow, number: int, task: Task[Any, R]) -> None:
        super().__init__(workflow, (number,), task, task.contract.result.annotation)

    def __repr__(self) -> str:
        return f"<Step {self.number} {self.plan.name}>"

    def then(self, task: TakesFirst[R, P, B], /, *args: P.args, **kwargs: P.kwargs) -> Step[B]:
        """Add a step whose first argument is this one's result."""
        return self.workflow.step_behind(self.out, task, args, kwargs)

    def after(self, *steps: Step[Any] | MapStep[Any]) -> Step[R]:
        """Start after these steps have ended, however they end."""
        with self.workflow.noting():
            numbers = tuple(self.workflow.number_of(step, before=self.number) for step in steps)
            self.change(after=(*self.plan.after, *numbers))
        return self

    def when(self, flag: bool, /) -> Step[R]:
        """Run only if a value is true, else the step is skipped; so are the steps that take its result."""
        with self.workflow.noting():
            output = output_in(flag)
            if output is None or output.annotation is not bool:
                raise InvalidWorkflow(
                    f"{self.plan.name}: `when` takes the result of a step that returns a bool, not {flag!r}",
                    fix="workflow.step(…).when(other.out)",
                )
            self.change(when=self.workflow.value_of(output, before=self.number))
        return self

    def compensate(self, task: Task[P, Any] | ConfiguredTask[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]:
        """Say what undoes this step if the workflow fails behind it, is cancelled, or passes its deadline.

        Its arguments may be the ``out`` of this step and of those before it. With this step's own result it runs only
        if the step succeeded; without it also if the step may have had its effect.
        """
        with self.workflow.noting():
            self.change(undo=self.workflow.undo_of(self.number, task, args, kwargs))
        return self

    def pivot(self) -> Step[R]:
        """Let nothing be undone once this step has succeeded; the steps behind it are tried until they succeed."""
        self.change(pivot=True)
        return self

    @overload
    def otherwise(
        self, task: Task[P, B] | ConfiguredTask[P, B], /, *args: P.args, **kwargs: P.kwargs
    ) -> Step[R | B]: ...
    @overload
    def otherwise(self, value: R, /) -> Step[R]: ...
    @overload
    def otherwise(self, value: B, /) -> Step[R | B]: ...
    def otherwise(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Say what counts as the result if the step fails or is skipped: a value, or the result of another task.

        With a task, give its arguments as well: ``.otherwise(task, …)``.
        """
        if isinstance(value, Task | ConfiguredTask):
            with self.workflow.noting():
                self._refuse_if_taken()
            self.change(goes_on=True)
            other = self.workflow.step(value, *args, **kwargs)
            other.change(unless=self.number)
            self.values = (*self.values, *other.values)
            self.annotation = either(self.annotation, other.annotation)
            return self
        with self.workflow.noting():
            if args or kwargs:
                raise InvalidWorkflow(f"{self.plan.name}: only a task takes arguments, and {value!r} is a value")
            packed = pack_value(value, self.annotation, self.plan.name)
            self.annotation = packed.annotation
            self.change(default=msgspec.Raw(packed.data), goes_on=True)
        return self

    def _refuse_if_taken(self) -> None:
        """Refuse an alternative to a result that another step takes already; that step would not wait for it.

        :raises InvalidWorkflow: one does.
        """
        number = self.number
        for step in self.workflow.steps:
            taken = {one for value in (*step.takes.values(), *filter(None, [step.when])) for one in value.of}
            if number in taken or (step.over is not None and step.over.step == number):
                raise InvalidWorkflow(
                    f"{step.name} takes the result of {self.plan.name}, to which an alternative is added afterwards",
                    fix="write .otherwise(task, …) where the step is added, before its .out is used",
                )

    def skip(self) -> Step[R]:
        """Let the workflow go on if the step fails; the steps that take its result are skipped."""
        self.change(goes_on=True)
        return self

    def named(self, name: str) -> Step[R]:
        """Give the step a name of its own, for people; the default is that of its task."""
        with self.workflow.noting():
            if any(step.name == name for step in self.workflow.steps):
                raise InvalidWorkflow(f"two steps cannot both be called {name!r}", fix="give one of them another name")
            self.change(name=name)
        return self

    def change(self, **changes: Any) -> None:
        """Change the step as it will be sent."""
        self.workflow.steps[self.number] = msgspec.structs.replace(self.plan, **changes)


class MapStep(Generic[R]):
    """A step that is one job for each element of a list."""

    def __init__(self, step: Step[R]) -> None:
        self.step = step

    def __repr__(self) -> str:
        return f"<MapStep {self.step.plan.name}>"

    @property
    def out(self) -> list[R]:
        """Stand for the list of results, in the order of the elements."""
        return cast("list[R]", self._output(list[self.step.annotation]))  # type: ignore[name-defined]

    def outcomes(self, at_least: float = 0.0) -> list[ChildOutcome[R]]:
        """Stand for the list of how each child ended; the workflow goes on if some have failed.

        :param at_least: the share of children that have to succeed; with fewer the workflow fails.
        """
        with self.step.workflow.noting():
            if not 0 <= at_least <= 1:
                raise InvalidWorkflow(
                    f"at_least={at_least!r} is not a share from 0 to 1", fix="for example at_least=0.9"
                )
            self.step.change(at_least=float(at_least))
        annotation = list[ChildOutcome[self.step.annotation]]  # type: ignore[name-defined]
        return cast("list[ChildOutcome[R]]", self._output(annotation, outcomes=True))

    def then(self, task: TakesFirst[list[R], P, B], /, *args: P.args, **kwargs: P.kwargs) -> Step[B]:
        """Add a step whose first argument is the list of results."""
        return self.step.workflow.step_behind(self.out, task, args, kwargs)

    def otherwise(self, value: R, /) -> MapStep[R]:
        """Let a value stand in the list for each child that fails or is skipped."""
        self.step.otherwise(value)
        return self

    def skip(self) -> MapStep[R]:
        """Leave children that fail out of the list."""
        self.step.skip()
        return self

    def after(self, *steps: Step[Any] | MapStep[Any]) -> MapStep[R]:
        """Start after these steps have ended, however they end."""
        self.step.after(*steps)
        return self

    def when(self, flag: bool, /) -> MapStep[R]:
        """Run only if a value is true."""
        self.step.when(flag)
        return self

    def named(self, name: str) -> MapStep[R]:
        """Give the step a name of its own, for people."""
        self.step.named(name)
        return self

    def _output(self, annotation: Any, *, outcomes: bool = False) -> Output:
        step = self.step
        return Output(OutputFacts(step.workflow, Value((step.number,), outcomes), annotation, step.plan.name))
