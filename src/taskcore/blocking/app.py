"""``app.sync``: a blocking form for each verb of an app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from taskcore.backend import Features, QueueStats
from taskcore.blocking.handles import SyncJob
from taskcore.blocking.portal import Portal
from taskcore.deadletter import Cause, DeadLetter, DeadLetters, LetterVerdict, SettledLetters
from taskcore.observe import WorkerStatus
from taskcore.task import Bridge, Call, Job
from taskcore.toolkit.units import Duration
from taskcore.toolkit.values import Door, ForeignNames

if TYPE_CHECKING:
    from taskcore.blocking.events import SyncSubscribe
    from taskcore.blocking.schedules import SyncSchedules
    from taskcore.blocking.workflows import SyncWorkflows
    from taskcore.schedules import Schedules
    from taskcore.workflows import Workflows

__all__ = ["SyncApp", "SyncDeadLetters"]

R = TypeVar("R")
T = TypeVar("T")


class AsyncApp(Protocol):
    """The verbs of an app that have a blocking form."""

    def running(
        self,
        *,
        queues: Sequence[str] | str | None = None,
        concurrency: int | None = None,
        grace: Duration | None = None,
        queue_limits: Mapping[str, int] | str | None = None,
    ) -> AbstractAsyncContextManager[object]:
        """Run a worker in this process."""
        ...

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call."""
        ...

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Send many calls."""
        ...

    async def drain(self, *queues: str, timeout: Duration | None = None) -> None:
        """Wait until queues are empty."""
        ...

    async def stats(self, queue: str = "default") -> QueueStats:
        """Count the jobs of a queue."""
        ...

    async def purge(self, queue: str) -> int:
        """Remove the waiting jobs of a queue."""
        ...

    def job(self, id: str, *, queue: str | None = None) -> Job[object]:
        """Make the handle of a job of any task."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]:
        """Read which workers live."""
        ...

    @property
    def features(self) -> Features:
        """What the broker does by itself."""
        ...

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters."""
        ...

    @property
    def schedules(self) -> Schedules:
        """The schedules."""
        ...

    @property
    def workflows(self) -> Workflows:
        """The workflows."""
        ...


AppT = TypeVar("AppT", bound=AsyncApp)


class SyncApp(ForeignNames, Generic[AppT]):
    """``app.sync``: blocking forms of an app's verbs. Each waits in the calling thread.

    :raises NotRunning: a verb is called in an event loop, which it would block (TC106).
    """

    _kind: ClassVar = "an app"
    #: Hear what happens to jobs: ``with app.sync.events(kinds=["job.buried"]) as events: …``.
    events: ClassVar[Door[SyncSubscribe]] = Door("taskcore.blocking.events:SyncSubscribe")

    def __init__(self, app: AppT, portal: Portal) -> None:
        self._app = app
        self._portal = portal

    def __repr__(self) -> str:
        return f"<SyncApp of {self._app!r}>"

    @property
    def inner(self) -> AppT:
        """The app itself."""
        return self._app

    @property
    def bridge(self) -> Bridge:
        """Runs coroutine functions where the app is open."""
        return self._portal.run

    @contextmanager
    def running(
        self,
        *,
        queues: Sequence[str] | str | None = None,
        concurrency: int | None = None,
        grace: Duration | None = None,
        queue_limits: Mapping[str, int] | str | None = None,
    ) -> Iterator[AppT]:
        """Run a worker in the background, as :meth:`taskcore.App.running` does."""
        leave = self._portal.enter_context(
            lambda: self._app.running(queues=queues, concurrency=concurrency, grace=grace, queue_limits=queue_limits)
        )
        try:
            yield self._app
        finally:
            leave()

    def send(self, call: Call[R]) -> SyncJob[R]:
        """Send one call, as :meth:`taskcore.App.send` does."""

        async def send() -> Job[R]:
            return await self._app.send(call)

        return SyncJob(self._portal.run(send), self._portal.run)

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[SyncJob[R]]:
        """Send many calls in few batches, as :meth:`taskcore.App.enqueue_many` does."""

        async def send() -> list[Job[R]]:
            return await self._app.enqueue_many(calls)

        return [SyncJob(job, self._portal.run) for job in self._portal.run(send)]

    def job(self, id: str, *, queue: str | None = None) -> SyncJob[object]:
        """Make the handle of a job of any task, as :meth:`taskcore.App.job` does."""
        return SyncJob(self._app.job(id, queue=queue), self._portal.run)

    def drain(self, *queues: str, timeout: Duration | None = None) -> None:
        """Wait until queues are empty, as :meth:`taskcore.App.drain` does."""
        self._portal.run(partial(self._app.drain, *queues, timeout=timeout))

    def stats(self, queue: str = "default") -> QueueStats:
        """Count the jobs of a queue, as :meth:`taskcore.App.stats` does."""
        return self._portal.run(self._app.stats, queue)

    def purge(self, queue: str) -> int:
        """Remove the waiting jobs of a queue, as :meth:`taskcore.App.purge` does."""
        return self._portal.run(self._app.purge, queue)

    def workers(self) -> Sequence[WorkerStatus]:
        """Read which workers live, as :meth:`taskcore.App.workers` does."""
        return self._portal.run(self._app.workers)

    @property
    def features(self) -> Features:
        """What this app's broker does by itself, what is emulated, what is absent."""
        return self._app.features

    @property
    def dead_letters(self) -> SyncDeadLetters:
        """Read, replay, drop and count dead letters."""
        return SyncDeadLetters(self._app, self._portal)

    @property
    def schedules(self) -> SyncSchedules:
        """Put, read, pause, remove and fire schedules."""
        from taskcore.blocking.schedules import SyncSchedules  # noqa: PLC0415 - many programs have no schedules

        return SyncSchedules(self._app.schedules, self._portal.run)

    @property
    def workflows(self) -> SyncWorkflows:
        """Send workflows, ask for them, cancel and replay them."""
        from taskcore.blocking.workflows import SyncWorkflows  # noqa: PLC0415 - many programs have no workflows

        return SyncWorkflows(self._app.workflows, self._portal.run)


class SyncDeadLetters:
    """``app.sync.dead_letters``: blocking forms of :class:`taskcore.deadletter.DeadLetters`."""

    def __init__(self, app: AsyncApp, portal: Portal) -> None:
        self._app = app
        self._portal = portal

    def read(self, queue: str = "default", *, task: str | None = None) -> Iterator[DeadLetter]:
        """Yield the dead letters of a queue, oldest first; only those of one task, if it is named."""
        letters: AsyncIterator[DeadLetter] | None = None

        async def following() -> DeadLetter | None:
            nonlocal letters
            if letters is None:
                letters = self._app.dead_letters.read(queue, task=task)
            return await anext(letters, None)

        while (letter := self._portal.run(following)) is not None:
            yield letter

    def get(self, letter_id: str) -> DeadLetter:
        """Return one dead letter; see :meth:`taskcore.deadletter.DeadLetters.get`."""
        return self._run(DeadLetters.get, letter_id)

    def replay(self, letter_id: str) -> str:
        """Send the job again; see :meth:`taskcore.deadletter.DeadLetters.replay`."""
        return self._run(DeadLetters.replay, letter_id)

    def drop(self, letter_id: str) -> None:
        """Delete a dead letter; see :meth:`taskcore.deadletter.DeadLetters.drop`."""
        self._run(DeadLetters.drop, letter_id)

    def count(self, queue: str = "default") -> int:
        """Count the dead letters of a queue."""
        return self._run(DeadLetters.count, queue)

    def causes(self, queue: str = "default") -> Sequence[Cause]:
        """Group the dead letters of a queue by what they died of."""
        return self._run(DeadLetters.causes, queue)

    def settle(self, queue: str = "default", *, by: Callable[[DeadLetter], LetterVerdict]) -> SettledLetters:
        """Settle all dead letters of a queue in one pass; see :meth:`taskcore.deadletter.DeadLetters.settle`."""
        return self._run(partial(DeadLetters.settle, by=by), queue)

    def _run(self, verb: Callable[..., Coroutine[Any, Any, T]], argument: str) -> T:
        """Look the letters up where the verb runs: only there the app is surely open."""

        async def call() -> T:
            return await verb(self._app.dead_letters, argument)

        return self._portal.run(call)
