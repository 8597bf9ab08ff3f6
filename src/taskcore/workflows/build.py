"""Building a workflow: steps, their values, their policies; checked as they are written, and sent as one plan.

workflow = app.workflow("site-report")
page = workflow.step(fetch, "https://example.org")             Step[Page]
words = workflow.step(count, page.out, deep=True)              Step[int]
found = workflow.step(links, page.out, limit=10).otherwise([])
done = workflow.step(report, words.out, found.out)
run = await workflow.submit(done)                              Run[str]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

import msgspec

from taskcore.contract.codec import short_repr
from taskcore.errors import ContractError
from taskcore.options import NO_OPTIONS, CallOptions
from taskcore.task import Call, ConfiguredTask, Task
from taskcore.workflows.arguments import StepArguments, bind_step, check_fit, first_parameter, pack_element
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.output import OutputFacts, output_in
from taskcore.workflows.plan import MAP_LIMIT, STEPS_LIMIT, Over, StepPlan, UndoPlan, Value
from taskcore.workflows.result_types import either
from taskcore.workflows.steps import FirstOf, MapStep, Step

if TYPE_CHECKING:
    from taskcore.workflows.run import Run
    from taskcore.workflows.submit import Submission

__all__ = ["FirstOf", "MapStep", "Step", "TakesFirst", "Workflow"]

P = ParamSpec("P")
A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class TakesFirst(Protocol[A_contra, P, R_co]):
    """A task whose first parameter takes an ``A``."""

    def call(self, first: A_contra, /, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Check and pack the arguments."""
        ...


class Sends(Protocol):
    """Sends a workflow that is built."""

    async def __call__(self, workflow: Workflow, last: FirstOf[Any] | MapStep[Any], /) -> Run[Any]:
        """Send it."""
        ...


class BuildFault(NamedTuple):
    """What is wrong with a workflow, and where that was written."""

    where: str
    error: ContractError


class Workflow:
    """A workflow that is being built: :meth:`step` and :meth:`map` add to it, ``submit`` sends it.

    What is wrong with it is collected while it is built; ``submit`` names all of it and sends nothing.

    :param name: for people.
    :param send: sends it, once its last step is known.
    :param how: it is sent, by its options.
    """

    def __init__(self, name: str, send: Sends, how: Submission | None = None) -> None:
        self.name = name
        self.how = how
        self._send = send
        self.steps: list[StepPlan] = []
        self.lists: dict[int, Sequence[bytes]] = {}
        self.faults: list[BuildFault] = []

    def __repr__(self) -> str:
        return f"<Workflow {self.name} {len(self.steps)} steps>"

    def step(self, task: Task[P, R] | ConfiguredTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]:
        """Add a step: a task and its arguments, of which each may be the ``out`` of another step.

        Its policies are those of the task; ``task.using(timeout="5m", queue="slow")`` has others.
        """
        bound = StepArguments(b"{}", {})
        own, _ = _task_of(task)
        with self.noting():
            bound = bind_step(own.contract, args, kwargs)
        return self._add(task, known=bound.known, takes=self._values_of(bound.taken))

    def map(self, task: TakesFirst[A, P, R], items: Iterable[A], /, *args: P.args, **kwargs: P.kwargs) -> MapStep[R]:
        """Add a step that runs once for each element of a list: one that exists now, or the ``out`` of a step.

        :param task: its first parameter takes an element.
        """
        own, _ = _task_of(task)
        bound, over, elements = StepArguments(b"{}", {}), None, None
        with self.noting():
            element = first_parameter(own.contract)
            over = Over(element, items=0)
            bound = bind_step(own.contract, args, kwargs, element=element)
        with self.noting():
            output = output_in(items)
            if over is not None and output is not None:
                over = Over(over.parameter, step=self._step_of_list(own, over.parameter, output))
            elif over is not None:
                elements = self._elements(own, over.parameter, items)
                over = Over(over.parameter, items=len(elements))
        if elements is not None:
            self.lists[len(self.steps)] = elements
        return MapStep(self._add(task, known=bound.known, takes=self._values_of(bound.taken), over=over))

    def first_of(self, *steps: Step[R]) -> FirstOf[R]:
        """Join branches: the result of the first of these steps that has one."""
        if not steps:
            raise InvalidWorkflow("`first_of` needs a step", fix="workflow.first_of(big, small)")
        numbers: tuple[int, ...] = ()
        annotation = steps[0].annotation
        for step in steps:
            with self.noting():
                self._check_own(step.workflow, step.plan.name)
                numbers += step.values
                annotation = either(annotation, step.annotation)
        return FirstOf(self, numbers or (0,), steps[0].task, annotation)

    @overload
    async def submit(self, last: MapStep[R]) -> Run[list[R]]: ...
    @overload
    async def submit(self, last: FirstOf[R]) -> Run[R]: ...
    async def submit(self, last: FirstOf[Any] | MapStep[Any]) -> Run[Any]:
        """Send the workflow; its result is that of this step, or of the first of several.

        :raises InvalidWorkflow: it cannot run as it is written; everything that is wrong is named (TC311).
        :raises InvalidArguments: its one fault is that arguments do not fit a signature (TC302).
        :raises EnqueueRefused: surely not sent: a queue is full, … (TC203).
        :raises BrokerUnavailable: broker or store cannot be reached (TC201).
        """
        return await self._send(self, last)

    def step_behind(self, value: Any, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step[Any]:
        """Add a step whose first argument is a value of this workflow."""
        return self.step(task, value, *args, **kwargs)

    def step_of_call(self, call: Call[R]) -> Step[R]:
        """Add a step that is a call, with the options that it was made with."""
        return self._add(ConfiguredTask(call.task, call.options), known=call.payload, takes={})

    # ── faults ──

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is wrong, for ``submit``, and go on."""
        try:
            yield
        except ContractError as error:
            self.faults.append(BuildFault(_where(), error))

    def refuse_if_faulty(self) -> None:
        """Refuse to send a workflow in which something is wrong.

        :raises InvalidWorkflow: something is (TC311).
        :raises InvalidArguments: arguments of one step do not fit (TC302).
        """
        if len(self.faults) == 1:
            raise self.faults[0].error
        if self.faults:
            told, public = (
                [f"{where}: {'; '.join((error.what, *getattr(error, facts)))}" for where, error in self.faults]
                for facts in ("facts", "public_facts")
            )
            raise InvalidWorkflow(
                f"the workflow {self.name} has {len(self.faults)} faults; nothing was sent",
                facts=told,
                public_facts=public,
                fix=next((error.fix for _, error in self.faults if error.fix), None),
            )

    # ── steps ──

    def undo_of(self, number: int, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UndoPlan:
        """Make what undoes a step.

        :raises InvalidArguments: its arguments do not fit the signature (TC302).
        :raises InvalidWorkflow: the task runs at most once, or takes what is not there then (TC311).
        """
        own, options = _task_of(task)
        _check_task(own, options, is_map=False)
        bound = bind_step(own.contract, args, kwargs)
        return UndoPlan(
            task=own.name,
            version=own.contract.version,
            queue=options.queue or own.options.queue,
            args=msgspec.Raw(bound.known),
            takes={name: self.value_of(output, before=number + 1) for name, output in bound.taken.items()},
            timeout=options.timeout,
            soft_timeout=(options.rare or {}).get("soft_timeout"),
            retry=options.retry,
            headers=dict(options.headers),
        )

    def _values_of(self, taken: Mapping[str, OutputFacts]) -> dict[str, Value]:
        values = {}
        for name, output in taken.items():
            with self.noting():
                values[name] = self.value_of(output)
        return values

    def _add(self, task: Any, *, known: bytes, takes: dict[str, Value], over: Over | None = None) -> Step[Any]:
        own, options = _task_of(task)
        with self.noting():
            _check_task(own, options, is_map=over is not None)
            if len(self.steps) >= STEPS_LIMIT:
                raise InvalidWorkflow(
                    f"a workflow has at most {STEPS_LIMIT:,} steps", fix="use map for many jobs of one task"
                )
        self.steps.append(
            StepPlan(
                name=self._free_name(own.name),
                task=own.name,
                version=own.contract.version,
                queue=options.queue or own.options.queue,
                args=msgspec.Raw(known),
                takes=takes,
                over=over,
                delay=options.delay,
                timeout=options.timeout,
                retry=options.retry,
                headers=dict(options.headers),
                key=options.key,
                soft_timeout=(options.rare or {}).get("soft_timeout"),
            )
        )
        return Step(self, len(self.steps) - 1, own)

    def _free_name(self, name: str) -> str:
        taken = {step.name for step in self.steps}
        names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
        return next(one for one in names if one not in taken)

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

    def number_of(self, step: FirstOf[Any] | MapStep[Any], *, before: int) -> int:
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
        if len(value.of) != 1 or value.outcomes:
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


def _task_of(task: Any) -> tuple[Task[Any, Any], CallOptions]:
    """Get the task and its options; ``using`` gives other options than the task's own."""
    if isinstance(task, Task):
        return task, NO_OPTIONS
    if isinstance(task, ConfiguredTask):
        return task.task, task.options
    raise InvalidWorkflow(f"{short_repr(task)} is not a task", fix="give a function that @app.task decorates")


def _check_task(task: Task[Any, Any], options: CallOptions, *, is_map: bool) -> None:
    """Refuse tasks and options that cannot be those of a step.

    :raises InvalidWorkflow: they cannot.
    """
    if task.spec.delivery == "at_most_once":
        raise InvalidWorkflow(
            f"{task.name} runs at most once, and cannot be a step: a worker that dies would stop the workflow",
            fix="let it run at least once, with a key if a second effect does harm",
        )
    given = [name for name in ("id", "expires", "correlation_id") if getattr(options, name) is not None]
    if given:
        raise InvalidWorkflow(
            f"{task.name}: a step has no {' and no '.join(given)} of its own",
            fix='the whole workflow has them: app.workflow("name", deadline="1h")',
        )
    if is_map and options.key is not None:
        raise InvalidWorkflow(
            f"{task.name}: the children of a map cannot share the key {options.key!r}",
            fix="let the task make a key of each element: @app.task(key=…)",
        )


def _where() -> str:
    """Find the line outside of this room that is being run."""
    frame = sys._getframe(1)  # noqa: SLF001 - what tracebacks use, too
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("taskcore.", "contextlib")):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
