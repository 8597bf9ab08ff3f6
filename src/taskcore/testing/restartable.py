"""Crashable: an app in this process whose worker a test can kill, and whose leases it can end.

    async with working(app):
        async with crashing_worker(app, at="run.returned"):
            job = await charge.enqueue(7)           the worker dies after the function has returned
        await job.result(timeout=5)                 a new worker has done it again

Killing is cancelling without a word: nothing is settled, nothing is given back. The in-memory broker then ends the
leases of the dead worker at once; on other brokers they have to run out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.abc

from taskcore.app import App
from taskcore.backends.memory import MemoryBackend
from taskcore.errors import InvalidSetting, NotRunning
from taskcore.task import Job
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from taskcore.toolkit.background import run_in_background
from taskcore.toolkit.failpoints import FAILPOINTS
from taskcore.worker.hosting import WorkerChoice, make_worker
from taskcore.worker.worker import Worker

__all__ = ["crashing_worker", "redeliver", "working"]

OF_CALLERS = ("enqueue.", "cancel.")  #: points that no worker passes


@asynccontextmanager
async def working(app: App) -> AsyncIterator[App]:
    """Run as ``app.running()``, with a worker that ``crashing_worker`` can kill."""
    async with app:
        life = LIVES[app] = _WorkerLife(app)
        try:
            async with run_in_background(life.run, life.stop):
                yield app
        finally:
            del LIVES[app]


@asynccontextmanager
async def crashing_worker(
    app: App, *, at: str | None = None, nth: int = 1, restart: bool = True, within: float = 10.0
) -> AsyncIterator[None]:
    """Crash the worker in or after this block, and start a new one at the block's end if ``restart``.

    :param at: the crash point of :mod:`taskcore.toolkit.failpoints` at which it dies, at the ``nth`` visit; None: at
        once, when the block ends.
    :raises TimeoutError: the worker did not come by this point within so many seconds after the block.
    :raises InvalidSetting: there is no such point, or no worker passes it.
    :raises NotRunning: the app's worker was not started by ``working`` or the fixture ``taskcore_app``.
    """
    life = _life_of(app)
    if at is None:
        yield
        life.kill()
        await life.ended.wait()
    else:
        _check_point(at)
        with crash_at(at, visit=nth):
            yield
            with anyio.move_on_after(within):
                await life.ended.wait()
        if not life.ended.is_set():
            raise TimeoutError(f"no worker passed {at} within {within:g} s, so none has crashed")
    life.end_leases()
    if restart:
        await life.begin()


async def redeliver(app: App, job: Job[Any]) -> None:
    """Take a running job away from its worker and hand it out again, as after a lease that ran out.

    :raises LookupError: no worker holds the job at the moment.
    :raises InvalidSetting: only the in-memory broker can do this.
    """
    await anyio.lowlevel.checkpoint()
    memory = _memory_of(app)
    if memory is None:
        raise InvalidSetting(
            f"the leases of {app.settings.url} cannot be ended by a test",
            fix="use memory://, or a short lease and wait",
        )
    if not memory.end_lease(job.id):
        place = await memory.admin.locate(job.queue, job.id)
        raise LookupError(f"job {job.id} is not held by any worker, but {place or 'over'}; there is no lease to lose")


# ── inside ───────────────────────────────────────────────────────────────────────────────────────


class _WorkerLife:
    """One worker after the other."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._wanted, self._ready = anyio.Event(), anyio.Event()
        self._stopping = False
        self._worker: Worker | None = None
        self.ended = anyio.Event()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run the first worker, then another one each time that it is wanted."""
        status: anyio.abc.TaskStatus[None] | None = task_status
        while not self._stopping:
            self.ended, self._wanted = anyio.Event(), anyio.Event()
            worker = self._worker = make_worker(
                self._app.components,
                self._app.settings,
                self._app.tasks,
                WorkerChoice(services=self._app.worker_services()),
            )
            try:
                with anyio.CancelScope() as self._scope:
                    await worker.run(task_status=_Both(status, self._ready))
            except (SimulatedCrash, BaseExceptionGroup) as error:
                if not _is_crash(error):
                    raise
            finally:
                self.ended.set()
            status = None
            if not self._stopping:
                await self._wanted.wait()

    async def begin(self) -> None:
        """Start the next worker, and return when it is ready."""
        self._ready = anyio.Event()
        self._wanted.set()
        await self._ready.wait()

    def kill(self) -> None:
        """Kill it without last words."""
        self._scope.cancel()

    def end_leases(self) -> None:
        """Hand out again what the dead worker held."""
        memory = _memory_of(self._app)
        for job in tuple(self._worker.executions) if self._worker is not None else ():
            if memory is not None:
                memory.end_lease(job.id)

    def stop(self) -> None:
        """Stop in good order, if it still lives."""
        self._stopping = True
        self._wanted.set()
        if self._worker is not None:
            self._worker.stop()


class _Both:
    """Says that a worker is ready: the first one at the entry of the context, each to the block that began it."""

    def __init__(self, first: anyio.abc.TaskStatus[None] | None, ready: anyio.Event) -> None:
        self._first = first
        self._ready = ready

    def started(self, value: None = None) -> None:
        self._ready.set()
        if self._first is not None:
            self._first.started(value)


LIVES: WeakKeyDictionary[App, _WorkerLife] = WeakKeyDictionary()


def _life_of(app: App) -> _WorkerLife:
    try:
        return LIVES[app]
    except KeyError:
        raise NotRunning(
            "this app's worker cannot be killed", fix="open it with the fixture taskcore_app, or with `working(app)`"
        ) from None


def _memory_of(app: App) -> MemoryBackend | None:
    """Find the in-memory broker, behind whatever is around it."""
    backend: Any = app.components.backend
    while backend is not None and not isinstance(backend, MemoryBackend):
        backend = getattr(backend, "_backend", None)
    return backend


def _check_point(point: str) -> None:
    if point in FAILPOINTS and not point.startswith(OF_CALLERS):
        return
    names = ", ".join(name for name in FAILPOINTS if not name.startswith(OF_CALLERS))
    raise InvalidSetting(f"no worker passes a crash point {point!r}", facts=[f"they pass: {names}"])


def _is_crash(error: BaseException) -> bool:
    """Tell whether it is the crash and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(SimulatedCrash)[1] is None
    return isinstance(error, SimulatedCrash)
