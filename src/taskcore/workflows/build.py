"""Building a workflow: steps, their values, their policies; checked as they are written, and sent as one plan.

    workflow = app.workflow("site-report")
    page = workflow.step(fetch, "https://example.org")             Step[Page]
    words = workflow.step(count, page.out, deep=True)              Step[int]
    found = workflow.step(links, page.out, limit=10).otherwise([])
    done = workflow.step(report, words.out, found.out)
    run = await workflow.submit(done)                              Run[str]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from taskcore.options import CallOptions
from taskcore.task import Call, Task
from taskcore.toolkit.units import Duration, seconds_of
from taskcore.workflows.arguments import bind_step, check_fit, first_parameter, pack_element
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.outcomes import ChildOutcome
from taskcore.workflows.output import Output, output_in
from taskcore.workflows.plan import MAP_LIMIT, STEPS_LIMIT, Over, StepPlan, Value

if TYPE_CHECKING:
    from taskcore.workflows.run import Run

__all__ = ["MapStep", "Step", "TakesFirst", "Workflow"]

P = ParamSpec("P")
A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)
B = TypeVar("B")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class TakesFirst(Protocol[A_contra, P, R_co]):
    """A task whose first parameter takes an ``A``."""

    def call(self, first: A_contra, /, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Check and pack the arguments."""
        ...


class Step(Generic[R]):
    """A step of a workflow that is being built; each method changes it and returns it."""

    def __init__(self, workflow: Workflow, number: int, task: Task[Any, R]) -> None:
        self._workflow = workflow
        self._number = number
        self._task = task
        self._values = (number,)

    def __repr__(self) -> str:
        return f"<Step {self._number} {self.plan.name}>"

    @property
    def plan(self) -> StepPlan:
        """The step as it will be sent."""
        return self._workflow.steps[self._number]

    @property
    def out(self) -> R:
        """Stand for the step's result; give it as a whole to another step.

        For type checkers it is the result. Any other use of it raises :class:`InvalidWorkflow` (TC311).
        """
        annotation = self._task.contract.result_annotation
        return cast("R", Output(self._workflow, Value(self._values), annotation, self.plan.name))

    def after(self, *steps: Step[Any]) -> Step[R]:
        """Start after these steps have ended, however they end."""
        numbers = tuple(self._workflow.number_of(step, before=self._number) for step in steps)
        return self._changed(after=(*self.plan.after, *numbers))

    def when(self, flag: bool, /) -> Step[R]:  # noqa: FBT001 - an output of a step
        """Run only if a value is true, else the step is skipped; so are the steps that take its result."""
        output = output_in(flag)
        if output is None or output._annotation is not bool:  # noqa: SLF001 - an output has no public side
            raise InvalidWorkflow(
                f"{self.plan.name}: `when` takes the result of a step that returns a bool, not {flag!r}",
                fix="workflow.step(…).when(other.out)",
            )
        return self._changed(when=self._workflow.value_of(output, before=self._number))

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
        return self._changed(default=msgspec.Raw(packed), goes_on=True)

    def otherwise_run(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]:
        """Run another task if the step fails or is skipped; its result counts."""
        self._changed(goes_on=True)
        other = self._workflow.step(task, *args, **kwargs)
        other._changed(unless=self._number)
        self._values = (*self._values, *other._values)
        return self

    def skip(self) -> Step[R]:
        """Let the workflow go on if the step fails; the steps that take its result are skipped."""
        return self._changed(goes_on=True)

    def named(self, name: str) -> Step[R]:
        """Give the step a name of its own, for people; the default is that of its task."""
        if any(step.name == name for step in self._workflow.steps):
            raise InvalidWorkflow(f"two steps cannot both be called {name!r}", fix="give one of them another name")
        return self._changed(name=name)

    def _changed(self, **changes: Any) -> Step[R]:
        self._workflow.steps[self._number] = msgspec.structs.replace(self.plan, **changes)
        return self


class MapStep(Generic[R]):
    """A step that is one job for each element of a list."""

    def __init__(self, step: Step[R]) -> None:
        self._step = step

    def __repr__(self) -> str:
        return f"<MapStep {self._step.plan.name}>"

    @property
    def out(self) -> list[R]:
        """Stand for the list of results, in the order of the elements."""
        return cast("list[R]", self._output(list[self._step._task.contract.result_annotation]))  # type: ignore[name-defined]

    def outcomes(self, at_least: float = 0.0) -> list[ChildOutcome[R]]:
        """Stand for the list of how each child ended; the workflow goes on if some have failed.

        :param at_least: the share of children that have to succeed; with fewer the workflow fails.
        :raises InvalidWorkflow: that is no share from 0 to 1 (TC311).
        """
        if not 0 <= at_least <= 1:
            raise InvalidWorkflow(f"at_least={at_least!r} is not a share from 0 to 1", fix="for example at_least=0.9")
        self._step._changed(at_least=float(at_least))
        annotation = list[ChildOutcome[self._step._task.contract.result_annotation]]  # type: ignore[name-defined]
        return cast("list[ChildOutcome[R]]", self._output(annotation, outcomes=True))

    def otherwise(self, value: R, /) -> MapStep[R]:
        """Let a value stand in the list for each child that fails or is skipped."""
        self._step.otherwise(value)
        return self

    def skip(self) -> MapStep[R]:
        """Leave children that fail out of the list."""
        self._step.skip()
        return self

    def after(self, *steps: Step[Any]) -> MapStep[R]:
        """Start after these steps have ended, however they end."""
        self._step.after(*steps)
        return self

    def when(self, flag: bool, /) -> MapStep[R]:  # noqa: FBT001 - an output of a step
        """Run only if a value is true."""
        self._step.when(flag)
        return self

    def _output(self, annotation: Any, *, outcomes: bool = False) -> Output:
        step = self._step
        return Output(step._workflow, Value((step._number,), outcomes), annotation, step.plan.name)


class Workflow:
    """A workflow that is being built: :meth:`step` and :meth:`map` add to it, ``submit`` sends it.

    :param name: for people.
    :param options: those of the calls of its steps, where a step has none of its own.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[StepPlan] = []
        self.lists: dict[int, Sequence[bytes]] = {}

    def __repr__(self) -> str:
        return f"<Workflow {self.name} {len(self.steps)} steps>"

    def step(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]:
        """Add a step: a task and its arguments, of which each may be the ``out`` of another step.

        :raises InvalidArguments: they do not fit the signature (TC302).
        :raises InvalidWorkflow: a result does not fit, the task runs at most once, … (TC311).
        """
        bound = bind_step(task.contract, args, kwargs)
        takes = {name: self.value_of(output) for name, output in bound.taken.items()}
        return self._add(task, known=bound.known, takes=takes)

    def map(
        self, task: TakesFirst[A, P, R], items: Iterable[A], /, *args: P.args, **kwargs: P.kwargs
    ) -> MapStep[R]:
        """Add a step that runs once for each element of a list: one that exists now, or the ``out`` of a step.

        :param task: its first parameter takes an element.
        :raises InvalidArguments: an element or an argument does not fit (TC302).
        :raises InvalidWorkflow: the list is too long, a result does not fit, … (TC311).
        """
        real = cast("Task[Any, R]", task)
        element = first_parameter(real.contract)
        bound = bind_step(real.contract, args, kwargs, element=element)
        takes = {name: self.value_of(output) for name, output in bound.taken.items()}
        output = output_in(items)
        if output is not None:
            over = Over(element, step=self._step_of_list(real, element, output))
        else:
            elements = self._elements(real, element, items)
            over = Over(element, items=len(elements))
            self.lists[len(self.steps)] = elements
        return MapStep(self._add(real, known=bound.known, takes=takes, over=over))

    def _add(self, task: Task[Any, R], *, known: bytes, takes: dict[str, Value], over: Over | None = None) -> Step[R]:
        if task.spec.delivery == "at_most_once":
            raise InvalidWorkflow(
                f"{task.name} runs at most once, and cannot be a step: a worker that dies would stop the workflow",
                fix="let it run at least once, with a key if a second effect does harm",
            )
        if len(self.steps) >= STEPS_LIMIT:
            raise InvalidWorkflow(
                f"a workflow has at most {STEPS_LIMIT:,} steps", fix="use map for many jobs of one task, or continue_with"
            )
        name = self._free_name(task.name)
        self.steps.append(
            StepPlan(
                name=name,
                task=task.name,
                version=task.contract.version,
                queue=task.options.queue,
                args=msgspec.Raw(known),
                takes=takes,
                over=over,
            )
        )
        return Step(self, len(self.steps) - 1, task)

    def _free_name(self, name: str) -> str:
        taken = {step.name for step in self.steps}
        return next(one for one in (name, *(f"{name}-{number}" for number in range(2, STEPS_LIMIT + 2))) if one not in taken)

    def value_of(self, output: Output, *, before: int | None = None) -> Value:
        """Take the value of an output of this workflow.

        :param before: the number of the step that takes it.
        :raises InvalidWorkflow: it is another workflow's, or that of a later step (TC311).
        """
        value = output._value  # noqa: SLF001 - an output has no public side
        self._check_own(output._workflow, output._source)  # noqa: SLF001
        if before is not None and max(value.of) >= before:
            raise InvalidWorkflow(
                f"{self.steps[before].name} cannot wait for {output._source}, which was added after it",  # noqa: SLF001
                fix="add steps in the order in which they wait for each other",
            )
        return value

    def number_of(self, step: Step[Any] | MapStep[Any], *, before: int) -> int:
        """Return the number of a step of this workflow that was added before another.

        :raises InvalidWorkflow: it is another workflow's, or a later one (TC311).
        """
        one = step._step if isinstance(step, MapStep) else step  # noqa: SLF001 - the same room
        self._check_own(one._workflow, one.plan.name)  # noqa: SLF001
        if one._number >= before:  # noqa: SLF001
            raise InvalidWorkflow(
                f"{self.steps[before].name} cannot wait for {one.plan.name}, which was added after it",
                fix="add steps in the order in which they wait for each other",
            )
        return one._number  # noqa: SLF001

    def _check_own(self, workflow: object, name: str) -> None:
        if workflow is not self:
            raise InvalidWorkflow(f"{name} is a step of another workflow", fix="build both in one workflow")

    def _step_of_list(self, task: Task[Any, Any], element: str, output: Output) -> int:
        value = self.value_of(output)
        if len(value.of) > 1 or value.outcomes:
            raise InvalidWorkflow(
                f"{task.name} cannot map over {output._source}, which has several sources",  # noqa: SLF001
                fix="put a task between them that returns the list",
            )
        check_fit(task.contract, element, output, of_elements=True)
        return value.of[0]

    def _elements(self, task: Task[Any, Any], element: str, items: Iterable[Any]) -> list[bytes]:
        packed = []
        for item in items:
            if len(packed) >= MAP_LIMIT:
                raise InvalidWorkflow(
                    f"map over more than {MAP_LIMIT:,} elements", fix="give each child several elements"
                )
            packed.append(pack_element(task.contract, element, item))
        return packed
