"""Runs plain functions outside of the event loop: in a thread, or in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from taskcore.envelope import encode_envelope
from taskcore.errors import InvalidSetting
from taskcore.options import RunsIn
from taskcore.worker.context import HeldKey
from taskcore.worker.runners.frames import Answer, PerformJob
from taskcore.worker.runners.processes import ProcessPool
from taskcore.worker.runners.threads import DaemonThreadPool, ThreadRoom

if TYPE_CHECKING:
    from taskcore.task import Task
    from taskcore.worker.execution import Execution

__all__ = ["Executors", "require_processes"]


class Executors:
    """Runs plain functions outside of the event loop, a bounded number at a time."""

    def __init__(self, *, threads: int, processes: int) -> None:
        self._threads = DaemonThreadPool()
        #: What a job has to enter before it starts, so that waiting for a thread does not count as running.
        self.rooms: Mapping[RunsIn, AbstractAsyncContextManager[None]] = {
            "thread": ThreadRoom(threads, self._threads),
            "process": anyio.CapacityLimiter(processes),
        }
        self._processes = ProcessPool(self._threads)

    async def aclose(self) -> None:
        """End the processes, because no more jobs will come; threads that still run are not waited for."""
        await self._processes.aclose()
        self._threads.close()

    async def in_thread(self, task: Task[..., Any], arguments: Any) -> Any:
        """Run in a thread. A thread cannot be killed: on cancellation it is left alone, its result thrown away."""
        contract = task.contract
        return await self._threads.run(contract.invoke, contract.function, arguments)

    async def in_process(self, task: Task[..., Any], job: Execution, fence: int, holding: HeldKey | None) -> Answer:
        """Run in a process, which is killed on cancellation; returns its answer.

        The module's name and bytes cross over: the process imports the function's module, as a worker does.

        :raises ProcessError: the process ended without an answer, or broke the protocol.
        """
        function, delivery = task.contract.function, job.delivery
        request = PerformJob(
            function.__module__,
            function.__qualname__,
            encode_envelope(job.envelope),  # the codec of the app may need secrets, which stay here
            bytes(delivery.trail),
            delivery.queue,
            job.crashes,
            fence,
            msgspec.json.encode(holding),
        )
        return await self._processes.run(request, (job.id, job.envelope.task))


def require_processes(tasks: Iterable[Task[..., Any]]) -> None:
    """Refuse tasks that this system has no processes for.

    :raises InvalidSetting: it is Windows, and a task has ``runs_in="process"`` (TC104).
    """
    names = [task.name for task in tasks if task.options.runs_in == "process"]
    if names and os.name == "nt":
        raise InvalidSetting(
            'this worker has tasks with runs_in="process", and Windows has no process groups that end with it',
            facts=names,
            fix='leave runs_in="process" out there, so that they run in threads',
        )
