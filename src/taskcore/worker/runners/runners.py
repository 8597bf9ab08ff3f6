"""Runs plain functions outside of the event loop: in a thread, or by the runner of a feature room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Protocol

import anyio

from taskcore.lifecycle import Outcome
from taskcore.options import RunsIn
from taskcore.task import Task
from taskcore.worker.context import HeldKey
from taskcore.worker.execution import Execution
from taskcore.worker.runners.threads import DaemonThreadPool, ThreadRoom

__all__ = ["Runner", "Runners"]

#: The runners of feature rooms, by name: each is imported when a worker has a task for it.
FEATURES: Mapping[RunsIn, str] = {"process": "taskcore.processes.runner:ProcessRunner"}


class Runner(Protocol):
    """Runs the functions of tasks with one value of ``runs_in``.

    It is made of the names of the tasks that need it, the clock and the worker's name: see ``ProcessRunner``.
    """

    async def run(self, job: Execution, task: Task[..., Any], fence: int, key: HeldKey | None) -> Outcome:
        """Run the function of a job to its outcome. On cancellation nothing of it goes on.

        :param fence: as ``current().fence``.
        :param key: as the job holds it.
        """
        ...

    async def aclose(self) -> None:
        """End what runs, because no more jobs will come."""
        ...


class Runners:
    """Runs plain functions outside of the event loop, a bounded number at a time.

    :param tasks: those of the worker; a runner that one of them needs is loaded at once.
    :param clock: seconds since the epoch.
    :param worker: its name, for the records of errors.
    :raises InvalidSetting: this system cannot run a task as its ``runs_in`` says (TC104).
    """

    def __init__(
        self, tasks: Iterable[Task[..., Any]], *, threads: int, processes: int, clock: Callable[[], float], worker: str
    ) -> None:
        self._threads = DaemonThreadPool()
        #: What a job has to enter before it starts, so that waiting for a thread does not count as running.
        self.rooms: Mapping[RunsIn, AbstractAsyncContextManager[None]] = {
            "thread": ThreadRoom(threads, self._threads),
            "process": anyio.CapacityLimiter(processes),
        }
        self._clock = clock
        self._worker = worker
        needed: dict[RunsIn, list[str]] = {}
        for task in tasks:
            if task.options.runs_in in FEATURES:
                needed.setdefault(task.options.runs_in, []).append(task.name)
        self._loaded: dict[RunsIn, Runner] = {kind: self._load(kind, names) for kind, names in needed.items()}

    async def aclose(self) -> None:
        """End the runners, because no more jobs will come; threads that still run are not waited for."""
        for runner in self._loaded.values():
            await runner.aclose()
        self._threads.close()

    @property
    def leaked_threads(self) -> int:
        """How many functions run on in their threads although no job waits for them."""
        return self._threads.abandoned

    async def in_thread(self, task: Task[..., Any], arguments: Any) -> Any:
        """Run in a thread. A thread cannot be killed: on cancellation it is left alone, its result thrown away."""
        contract = task.contract
        return await self._threads.run(contract.invoke, contract.function, arguments)

    def runner_of(self, task: Task[..., Any]) -> Runner:
        """Get the runner of a task that runs neither in the loop nor in a thread."""
        kind = task.options.runs_in
        if kind not in self._loaded:  # the task was declared after the worker began
            self._loaded[kind] = self._load(kind, [task.name])
        return self._loaded[kind]

    def _load(self, kind: RunsIn, names: list[str]) -> Runner:
        module, _, name = FEATURES[kind].partition(":")
        runner: Runner = getattr(import_module(module), name)(names, clock=self._clock, worker=self._worker)
        return runner
