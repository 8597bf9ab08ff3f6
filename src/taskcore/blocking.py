"""Blocking handles: tasks and jobs for threads that have no event loop.

They know neither :class:`taskcore.Task` nor :class:`taskcore.App`: they call the asynchronous forms through a bridge,
which runs a coroutine function in a loop elsewhere and waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from taskcore.results import JobOutcome, JobStatus
from taskcore.toolkit.units import Duration

__all__ = ["Bridge", "JobHandle", "SyncJob", "SyncTask"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
CallT = TypeVar("CallT")


class Bridge(Protocol):
    """Runs coroutine functions for threads that have no event loop."""

    def __call__(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run a coroutine function in the app's loop and wait for it.

        :raises NotRunning: this thread has an event loop, which would be blocked (TC106).
        """
        ...


class JobHandle(Protocol[R]):
    """The handle of a job; :class:`taskcore.Job` is one."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the value that the function returned."""
        ...

    async def outcome(self, timeout: Duration | None = None) -> JobOutcome[R]:
        """Wait for the job's end."""
        ...

    async def status(self) -> JobStatus:
        """Return where the job is now."""
        ...

    async def cancel(self) -> bool:
        """Keep the job from starting."""
        ...


class SyncTask(Generic[P, R]):
    """Enqueue from programs without an event loop. At its first use the app opens itself in a thread of its own."""

    __slots__ = ("_bridge", "_pack", "_send")

    def __init__(
        self, bridge: Bridge, pack: Callable[P, CallT], send: Callable[[CallT], Coroutine[Any, Any, JobHandle[R]]]
    ) -> None:
        self._bridge = bridge
        self._pack: Callable[P, Any] = pack
        self._send: Callable[[Any], Coroutine[Any, Any, JobHandle[R]]] = send

    def __repr__(self) -> str:
        return f"<SyncTask of {getattr(self._pack, '__self__', self._pack)!r}>"

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """Send a job, as :meth:`taskcore.Task.enqueue` does, blocking."""
        return SyncJob(self._bridge(self._send, self._pack(*args, **kwargs)), self._bridge)


class SyncJob(Generic[R]):
    """The handle of a job, blocking."""

    __slots__ = ("_bridge", "job")

    def __init__(self, job: JobHandle[R], bridge: Bridge) -> None:
        self.job = job
        self._bridge = bridge

    def __repr__(self) -> str:
        return f"<Sync{repr(self.job).removeprefix('<')}"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    def result(self, timeout: Duration | None = None) -> R:
        """Return what :meth:`taskcore.Job.result` returns, blocking."""
        return self._bridge(self.job.result, timeout)

    def outcome(self, timeout: Duration | None = None) -> JobOutcome[R]:
        """Return what :meth:`taskcore.Job.outcome` returns, blocking."""
        return self._bridge(self.job.outcome, timeout)

    def status(self) -> JobStatus:
        """Return what :meth:`taskcore.Job.status` returns, blocking."""
        return self._bridge(self.job.status)

    def cancel(self) -> bool:
        """Keep the job from starting, as :meth:`taskcore.Job.cancel` does, blocking."""
        return self._bridge(self.job.cancel)
