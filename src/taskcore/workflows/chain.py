"""Chains: ``await fetch.call(url).then(count).submit()``; each result is the first argument of the next task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast

from taskcore.task import Call
from taskcore.workflows.build import TakesFirst, Workflow
from taskcore.workflows.steps import Step

if TYPE_CHECKING:
    from taskcore.workflows.run import Run
    from taskcore.workflows.workflows import WorkflowOptions

__all__ = ["Chain"]

P = ParamSpec("P")
B = TypeVar("B")
R = TypeVar("R")


class BeginsWorkflows(Protocol):
    """The app's side of a task, as far as chains need it."""

    def begin_workflow(self, name: str, **options: Any) -> Workflow:
        """Begin a workflow."""
        ...


class Chain(Generic[R]):
    """Calls of which each takes the result of the one before; nothing is sent yet.

    A chain is a value: :meth:`then` returns a longer one, and a chain may be submitted several times.
    """

    def __init__(self, first: Call[Any], behind: tuple[tuple[Any, tuple[Any, ...], dict[str, Any]], ...] = ()) -> None:
        self._first = first
        self._behind = behind

    def __repr__(self) -> str:
        return f"<Chain of {len(self._behind) + 1} from {self._first.task.name}>"

    @classmethod
    def begin(cls, call: Call[R]) -> Chain[R]:
        """Make a chain of one call."""
        return Chain(call)

    def then(self, task: TakesFirst[R, P, B], /, *args: P.args, **kwargs: P.kwargs) -> Chain[B]:
        """Return the chain with one more task, whose first argument is the result so far."""
        return Chain(self._first, (*self._behind, (task, args, kwargs)))

    async def submit(self, **options: Unpack[WorkflowOptions]) -> Run[R]:
        """Send the chain; its result is that of its last task.

        :raises InvalidWorkflow: a result does not fit the next task, …; nothing was sent (TC311).
        :raises InvalidArguments: the arguments of a task do not fit its signature (TC302).
        :raises StoreRequired: the app has no store (TC105).
        :raises EnqueueRefused: surely not sent (TC203).
        :raises BrokerUnavailable: broker or store cannot be reached (TC201).
        """
        workflow, last = self.build(options)
        return await workflow.submit(last)

    def build(self, options: WorkflowOptions) -> tuple[Workflow, Step[R]]:
        """Build the workflow of the chain."""
        host = cast("BeginsWorkflows", self._first.task.host)
        workflow = host.begin_workflow(self._first.task.name, **options)
        last: Step[Any] = workflow.step_of_call(self._first)
        for task, args, kwargs in self._behind:
            last = workflow.step_behind(last.out, task, args, kwargs)
        return workflow, last
