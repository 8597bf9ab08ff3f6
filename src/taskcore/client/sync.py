"""Blocking calls of an app, for programs that have no event loop: a thread with a loop of its own, and the verbs.

The thread starts at the first blocking call and ends with the program. After a fork it is started anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel

from taskcore.backend import QueueStats
from taskcore.blocking import Bridge, SyncJob
from taskcore.deadletter import DeadLetter, DeadLetters
from taskcore.errors import NotRunning
from taskcore.task import Call, Job

__all__ = ["Portal", "SyncApp", "SyncDeadLetters"]

R = TypeVar("R")
T = TypeVar("T")


class AsyncApp(Protocol):
    """The verbs of an app that have a blocking form."""

    def running(
        self, *, queues: Sequence[str] | None = None, concurrency: int | None = None, grace: float | None = None
    ) -> AbstractAsyncContextManager[object]:
        """Run a worker in this process."""
        ...

    async def send(self, call: Call[R]) -> Job[R]:
        """Send one call."""
        ...

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Send many calls."""
        ...

    async def drain(self, *queues: str, timeout: float | None = None) -> None:
        """Wait until queues are empty."""
        ...

    async def stats(self, queue: str = "default") -> QueueStats:
        """Count the jobs of a queue."""
        ...

    async def purge(self, queue: str) -> int:
        """Remove the waiting jobs of a queue."""
        ...

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters."""
        ...


AppT = TypeVar("AppT", bound=AsyncApp)


class SyncApp(Generic[AppT]):
    """``app.sync``: blocking forms of an app's verbs. Each waits in the calling thread.

    :raises NotRunning: a verb is called in an event loop, which it would block (TC106).
    """

    def __init__(self, app: AppT, bridge: Bridge, portal: Portal) -> None:
        self._app = app
        self._bridge = bridge
        self._portal = portal

    @contextmanager
    def running(
        self, *, queues: Sequence[str] | None = None, concurrency: int | None = None, grace: float | None = None
    ) -> Iterator[AppT]:
        """Run a worker in the background, as :meth:`taskcore.App.running` does."""
        leave = self._portal.enter_context(
            lambda: self._app.running(queues=queues, concurrency=concurrency, grace=grace)
        )
        try:
            yield self._app
        finally:
            leave()

    def send(self, call: Call[R]) -> SyncJob[R]:
        """Send one call, as :meth:`taskcore.App.send` does."""

        async def send() -> Job[R]:
            return await self._app.send(call)

        return SyncJob(self._bridge(send), self._bridge)

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[SyncJob[R]]:
        """Send many calls in few batches, as :meth:`taskcore.App.enqueue_many` does."""

        async def send() -> list[Job[R]]:
            return await self._app.enqueue_many(calls)

        return [SyncJob(job, self._bridge) for job in self._bridge(send)]

    def drain(self, *queues: str, timeout: float | None = None) -> None:
        """Wait until queues are empty, as :meth:`taskcore.App.drain` does."""

        async def drain() -> None:
            await self._app.drain(*queues, timeout=timeout)

        self._bridge(drain)

    def stats(self, queue: str = "default") -> QueueStats:
        """Count the jobs of a queue, as :meth:`taskcore.App.stats` does."""
        return self._bridge(self._app.stats, queue)

    def purge(self, queue: str) -> int:
        """Remove the waiting jobs of a queue, as :meth:`taskcore.App.purge` does."""
        return self._bridge(self._app.purge, queue)

    @property
    def dead_letters(self) -> SyncDeadLetters:
        """Read, replay, drop and count dead letters."""
        return SyncDeadLetters(self._app, self._bridge)


class HasDeadLetters(Protocol):
    """An app, as far as its dead letters go."""

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters."""
        ...


class SyncDeadLetters:
    """``app.sync.dead_letters``: blocking forms of :class:`taskcore.deadletter.DeadLetters`."""

    def __init__(self, app: HasDeadLetters, bridge: Bridge) -> None:
        self._app = app
        self._bridge = bridge

    def read(self, queue: str = "default", *, task: str | None = None) -> Iterator[DeadLetter]:
        """Yield the dead letters of a queue, oldest first; only those of one task, if it is named."""
        letters: AsyncIterator[DeadLetter] | None = None

        async def following() -> DeadLetter | None:
            nonlocal letters
            if letters is None:
                letters = self._app.dead_letters.read(queue, task=task)
            return await anext(letters, None)

        while (letter := self._bridge(following)) is not None:
            yield letter

    def get(self, letter_id: str) -> DeadLetter:
        """Return one dead letter; see :meth:`taskcore.deadletter.DeadLetters.get`."""
        return self._bridge(self._in_loop(DeadLetters.get), letter_id)

    def replay(self, letter_id: str) -> str:
        """Send the job again; see :meth:`taskcore.deadletter.DeadLetters.replay`."""
        return self._bridge(self._in_loop(DeadLetters.replay), letter_id)

    def drop(self, letter_id: str) -> None:
        """Delete a dead letter; see :meth:`taskcore.deadletter.DeadLetters.drop`."""
        self._bridge(self._in_loop(DeadLetters.drop), letter_id)

    def count(self, queue: str = "default") -> int:
        """Count the dead letters of a queue."""
        return self._bridge(self._in_loop(DeadLetters.count), queue)

    def _in_loop(self, verb: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
        """Look the letters up where the verb runs: only there the app is surely open."""

        async def call(*args: object) -> T:
            return await verb(self._app.dead_letters, *args)

        return call


class Portal:
    """Runs coroutine functions from threads that have no event loop.

    :param app: kept open in the portal's loop.
    """

    def __init__(self, app: AbstractAsyncContextManager[object]) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._pid = 0
        self._token: Any = None
        self.group: anyio.abc.TaskGroup | None = None

    def run(self, token: Any, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run where the app is open (``token``), or else in the portal's own loop.

        :raises NotRunning: this thread has an event loop, which would be blocked (TC106).
        """
        _refuse_loop("await the call without .sync: await task.enqueue(…)")
        return anyio.from_thread.run(function, *args, token=token if token is not None else self._start())

    def enter_context(self, context: Callable[[], AbstractAsyncContextManager[object]]) -> Callable[[], None]:
        """Enter a context in the portal's own loop; returns the function that leaves it.

        :raises NotRunning: this thread has an event loop, which would be blocked (TC106).
        """
        _refuse_loop("use the form without .sync: async with app.running(): …")
        token = self._start()
        return anyio.from_thread.run(self._enter, context, token=token)

    async def _enter(self, context: Callable[[], AbstractAsyncContextManager[object]]) -> Callable[[], None]:
        leave, left = anyio.Event(), anyio.Event()

        async def inside(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            try:
                async with context():
                    task_status.started()
                    await leave.wait()
            finally:
                left.set()

        async def out() -> None:
            leave.set()
            await left.wait()

        if self.group is None:  # the portal's loop has just ended
            raise NotRunning("the loop of the blocking calls has ended", fix="call again")
        await self.group.start(inside)
        return lambda: anyio.from_thread.run(out, token=self._token)

    def _start(self) -> Any:
        with self._lock:
            if self._token is None or self._pid != os.getpid():
                self._pid = os.getpid()
                started: list[Any] = []
                ready = threading.Event()
                threading.Thread(target=self._serve, args=(started, ready), name="taskcore", daemon=True).start()
                ready.wait()
                if isinstance(started[0], BaseException):
                    raise started[0]
                self._token = started[0]
            return self._token

    def _serve(self, started: list[Any], ready: threading.Event) -> None:
        async def serve() -> None:
            async with self._app, anyio.create_task_group() as self.group:
                started.append(anyio.lowlevel.current_token())
                ready.set()
                await anyio.sleep_forever()

        try:
            anyio.run(serve)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            started.insert(0, error)
        finally:
            self._token = None
            ready.set()


def _refuse_loop(fix: str) -> None:
    if _has_loop():
        raise NotRunning("a blocking call (.sync) was made inside an event loop, which it would block", fix=fix)


def _has_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except anyio.NoEventLoopError:
        return False
    return True
