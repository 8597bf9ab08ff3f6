"""``app.sync.workflows``: a blocking form for each verb of workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, Unpack, overload

from taskcore.blocking.handles import SyncJob
from taskcore.results import JobOutcome
from taskcore.task import Bridge
from taskcore.toolkit.units import Duration
from taskcore.workflows import (
    Chain,
    Compensation,
    FirstOf,
    JobFamily,
    MapStep,
    Run,
    Step,
    WorkflowOptions,
    WorkflowProgress,
    Workflows,
    WorkflowState,
)

__all__ = ["SyncRun", "SyncWorkflows"]

R = TypeVar("R")
S = TypeVar("S")

DAY = 86_400.0


class SyncWorkflows:
    """``app.sync.workflows``: blocking forms of :class:`taskcore.workflows.Workflows`."""

    def __init__(self, workflows: Workflows, bridge: Bridge) -> None:
        self._workflows = workflows
        self._bridge = bridge

    @overload
    def submit(self, last: Chain[R], **options: Unpack[WorkflowOptions]) -> SyncRun[R]: ...
    @overload
    def submit(self, last: MapStep[R]) -> SyncRun[list[R]]: ...
    @overload
    def submit(self, last: FirstOf[R]) -> SyncRun[R]: ...
    def submit(
        self, last: Chain[Any] | FirstOf[Any] | MapStep[Any], **options: Unpack[WorkflowOptions]
    ) -> SyncRun[Any]:
        """Send a chain, or the workflow that has this last step; see :meth:`taskcore.workflows.Workflow.submit`."""
        return SyncRun(self._bridge(partial(self._workflows.submit, last, **options)), self._bridge)

    def get(self, id: str) -> SyncRun[Any]:
        """Find a workflow; see :meth:`taskcore.workflows.Workflows.get`."""
        return SyncRun(self._bridge(self._workflows.get, id), self._bridge)

    def show(self, id: str) -> WorkflowState:
        """Read how far a workflow has come; see :meth:`taskcore.workflows.Workflows.show`."""
        return self._bridge(self._workflows.show, id)

    def cancel(self, id: str) -> bool:
        """Cancel a workflow; see :meth:`taskcore.workflows.Workflows.cancel`."""
        return self._bridge(self._workflows.cancel, id)

    def replay(self, id: str, *, deadline: Duration = DAY) -> SyncRun[Any]:
        """Go on with a workflow that has ended; see :meth:`taskcore.workflows.Workflows.replay`."""
        return SyncRun(self._bridge(partial(self._workflows.replay, id, deadline=deadline)), self._bridge)

    def compensate(self, id: str) -> None:
        """Begin the compensation of a saga anew; see :meth:`taskcore.workflows.Workflows.compensate`."""
        self._bridge(self._workflows.compensate, id)

    def family(self, id: str, *, limit: int = 100) -> JobFamily:
        """Read the parents and the children of a job; see :meth:`taskcore.workflows.Workflows.family`."""
        return self._bridge(partial(self._workflows.family, id, limit=limit))

    def recent(self) -> Iterator[WorkflowState]:
        """Yield workflows that were sent lately; see :meth:`taskcore.workflows.Workflows.recent`."""
        states: AsyncIterator[WorkflowState] = self._workflows.recent()

        async def following() -> WorkflowState | None:
            return await anext(states, None)

        while (state := self._bridge(following)) is not None:
            yield state


class SyncRun(Generic[R]):
    """The handle of a workflow that was sent, blocking.

    :ivar run: its asynchronous handle.
    """

    def __init__(self, run: Run[R], bridge: Bridge) -> None:
        self.run = run
        self._bridge = bridge

    def __repr__(self) -> str:
        return f"<Sync{repr(self.run).removeprefix('<')}"

    @property
    def id(self) -> str:
        """Its id."""
        return self.run.id

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the result of the last step; see :meth:`taskcore.workflows.Run.result`."""
        return self._bridge(self.run.result, timeout)

    def outcome(self, timeout: Duration | None = None) -> JobOutcome[R]:
        """Wait for the end and return it as a value; see :meth:`taskcore.workflows.Run.outcome`."""
        return self._bridge(self.run.outcome, timeout)

    def cancel(self) -> bool:
        """Let no further step start; see :meth:`taskcore.workflows.Run.cancel`."""
        return self._bridge(self.run.cancel)

    def compensation(self) -> Compensation:
        """Tell what is undone; see :meth:`taskcore.workflows.Run.compensation`."""
        return self._bridge(self.run.compensation)

    def progress(self) -> WorkflowProgress:
        """Count its jobs, and how they ended."""
        return self._bridge(self.run.progress)

    def state(self) -> WorkflowState:
        """Read the state of each step."""
        return self._bridge(self.run.state)

    @overload
    def __getitem__(self, step: Step[S]) -> SyncJob[S]: ...
    @overload
    def __getitem__(self, step: str) -> SyncJob[Any]: ...
    def __getitem__(self, step: Any) -> SyncJob[Any]:
        """Return the handle of the job of one of its steps."""
        return SyncJob(self.run[step], self._bridge)

    @overload
    def child(self, step: MapStep[S], index: int) -> SyncJob[S]: ...
    @overload
    def child(self, step: str, index: int) -> SyncJob[Any]: ...
    def child(self, step: Any, index: int) -> SyncJob[Any]:
        """Return the handle of the job of one child of a map."""
        return SyncJob(self.run.child(step, index), self._bridge)
