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
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

import msgspec

from taskcore.task import Call, Task
from taskcore.workflows.arguments import bind_step, check_fit, first_parameter, pack_element
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.output import OutputFacts, output_in
from taskcore.workflows.plan import MAP_LIMIT, STEPS_LIMIT, Over, StepPlan, Value
from taskcore.workflows.steps import MapStep, Step

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


class Sends(Protocol):
    """Sends a workflow that is built."""

    async def __call__(self, workflow: Workflow, last: Step[R], /) -> Run[R]:
        """Send it."""
        ...


class Workflow:
    """A workflow that is being built: :meth:`step` and :meth:`map` add to it, ``submit`` sends it.

    :param name: for people.
    :param send: sends it, once its last step is known.
    """

    def __init__(self, name: str, send: Sends) -> None:
        self.name = name
        self._send = send
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

    def map(self, task: TakesFirst[A, P, R], items: Iterable[A], /, *args: P.args, **kwargs: P.kwargs) -> MapStep[R]:
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

    async def submit(self, last: Step[R]) -> Run[R]:
        """Send the workflow; its result is that of this step.

        :raises InvalidWorkflow: it cannot run as it is written (TC311).
        :raises StoreRequired: the app has no store (TC105).
        :raises EnqueueRefused: surely not sent: a queue is full, … (TC203).
        :raises BrokerUnavailable: broker or store cannot be reached (TC201).
        """
        return await self._send(self, last)

    def _add(self, task: Task[Any, R], *, known: bytes, takes: dict[str, Value], over: Over | None = None) -> Step[R]:
        if task.spec.delivery == "at_most_once":
            raise InvalidWorkflow(
                f"{task.name} runs at most once, and cannot be a step: a worker that dies would stop the workflow",
                fix="let it run at least once, with a key if a second effect does harm",
            )
        if len(self.steps) >= STEPS_LIMIT:
            raise InvalidWorkflow(
                f"a workflow has at most {STEPS_LIMIT:,} steps",
                fix="use map for many jobs of one task, or continue_with",
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
        return next(
            one for one in (name, *(f"{name}-{number}" for number in range(2, STEPS_LIMIT + 2))) if one not in taken
        )

    def value_of(self, output: OutputFacts, *, before: int | None = None) -> Value:
        """Take the value of an output of this workflow.

        :param before: the number of the step that takes it.
        :raises InvalidWorkflow: it is another workflow's, or that of a later step (TC311).
        """
        value = output.value
        self._check_own(output.workflow, output.source)
        if before is not None and max(value.of) >= before:
            raise InvalidWorkflow(
                f"{self.steps[before].name} cannot wait for {output.source}, which was added after it",
                fix="add steps in the order in which they wait for each other",
            )
        return value

    def number_of(self, step: Step[Any] | MapStep[Any], *, before: int) -> int:
        """Return the number of a step of this workflow that was added before another.

        :raises InvalidWorkflow: it is another workflow's, or a later one (TC311).
        """
        one = step.step if isinstance(step, MapStep) else step
        self._check_own(one.workflow, one.plan.name)
        if one.number >= before:
            raise InvalidWorkflow(
                f"{self.steps[before].name} cannot wait for {one.plan.name}, which was added after it",
                fix="add steps in the order in which they wait for each other",
            )
        return one.number

    def _check_own(self, workflow: object, name: str) -> None:
        if workflow is not self:
            raise InvalidWorkflow(f"{name} is a step of another workflow", fix="build both in one workflow")

    def _step_of_list(self, task: Task[Any, Any], element: str, output: OutputFacts) -> int:
        value = self.value_of(output)
        if len(value.of) > 1 or value.outcomes:
            raise InvalidWorkflow(
                f"{task.name} cannot map over {output.source}, which has several sources",
                fix="put a task between them that returns the list",
            )
        check_fit(task.contract, element, output, of_elements=True)
        return value.of[0]

    def _elements(self, task: Task[Any, Any], element: str, items: Iterable[Any]) -> list[bytes]:
        packed: list[bytes] = []
        for item in items:
            if len(packed) >= MAP_LIMIT:
                raise InvalidWorkflow(
                    f"map over more than {MAP_LIMIT:,} elements", fix="give each child several elements"
                )
            packed.append(pack_element(task.contract, element, item))
        return packed
