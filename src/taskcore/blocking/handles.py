"""Blocking handles: tasks and jobs for threads that have no event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, ParamSpec, TypeVar

from taskcore.results import JobOutcome, JobStatus
from taskcore.task import Bridge, ConfiguredTask, Job, TaskHost
from taskcore.toolkit.units import Duration
from taskcore.toolkit.values import Door, ForeignNames

if TYPE_CHECKING:
    from taskcore.blocking.progress import SyncReadLog, SyncReadProgress

__all__ = ["SyncJob", "SyncTask"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class SyncTask(ForeignNames, Generic[P, R]):
    """Enqueue from programs without an event loop. At its first use the app opens itself in a thread of its own."""

    __slots__ = ("_host", "_task")
    _kind: ClassVar = "a task"

    def __init__(self, task: ConfiguredTask[P, R], host: TaskHost) -> None:
        self._task = task
        self._host = host

    def __repr__(self) -> str:
        return f"<SyncTask of {self._task!r}>"

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """Send a job, as :meth:`taskcore.Task.enqueue` does, blocking."""
        call = self._task.call(*args, **kwargs)

        async def send() -> Job[R]:
            return await self._host.send(call)  # looked up in the loop: the app may open there first

        return SyncJob(self._host.run_blocking(send), self._host.run_blocking)

    def job(self, id: str, *, queue: str | None = None) -> SyncJob[R]:
        """Make the handle of a job that was sent earlier or elsewhere, as :meth:`taskcore.Task.job` does."""
        return SyncJob(self._task.job(id, queue=queue), self._host.run_blocking)


class SyncJob(ForeignNames, Generic[R_co]):
    """The handle of a job, blocking."""

    __slots__ = ("bridge", "job")
    _kind: ClassVar = "a job"

    #: Read how far it has got: ``job.progress().read()``, ``for seen in job.progress()``.
    progress: ClassVar[Door[SyncReadProgress]] = Door("taskcore.blocking.progress:SyncReadProgress")
    #: Read the lines of its log: ``job.log().read()``, ``for line in job.log()``.
    log: ClassVar[Door[SyncReadLog]] = Door("taskcore.blocking.progress:SyncReadLog")

    def __init__(self, job: Job[R_co], bridge: Bridge) -> None:
        self.job = job
        self.bridge = bridge  #: runs coroutine functions where the app is open

    def __repr__(self) -> str:
        return f"<Sync{repr(self.job).removeprefix('<')}"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    def result(self, timeout: Duration | None = None) -> R_co:
        """Return what :meth:`taskcore.Job.result` returns, blocking."""
        return self.bridge(self.job.result, timeout)

    def outcome(self, timeout: Duration | None = None) -> JobOutcome[R_co]:
        """Return what :meth:`taskcore.Job.outcome` returns, blocking."""
        return self.bridge(self.job.outcome, timeout)

    def status(self) -> JobStatus:
        """Return what :meth:`taskcore.Job.status` returns, blocking."""
        return self.bridge(self.job.status)

    def cancel(self) -> bool:
        """Keep the job from starting, as :meth:`taskcore.Job.cancel` does, blocking."""
        return self.bridge(self.job.cancel)
