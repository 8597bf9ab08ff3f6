"""The runner of process tasks: from a job to a request, and from the answer to an outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import msgspec

from taskcore.envelope import encode_envelope
from taskcore.errors import InvalidSetting
from taskcore.lifecycle import Deferred, Outcome, Unencodable
from taskcore.processes.frames import JobRaised, PerformJob
from taskcore.processes.outcomes import outcome_of
from taskcore.processes.pool import ProcessPool
from taskcore.processes.progress_receiver import ProgressReceiver
from taskcore.task import Task
from taskcore.toolkit.logging import logger
from taskcore.worker.context import HeldKey
from taskcore.worker.execution import Execution

__all__ = ["ProcessRunner", "require_processes"]

log = logger("taskcore.worker")


class ProcessRunner:
    """Runs functions in processes; see :class:`taskcore.worker.runners.Runner`.

    :param tasks: names of the tasks that need it.
    :param clock: seconds since the epoch.
    :param worker: the worker's name, for the records of errors.
    :raises InvalidSetting: this system has no processes that end with their worker (TC104).
    """

    def __init__(self, tasks: Sequence[str], *, clock: Callable[[], float], worker: str) -> None:
        require_processes(tasks)
        self._clock = clock
        self._worker = worker
        self._pool = ProcessPool()

    async def run(self, job: Execution, task: Task[..., Any], fence: int, key: HeldKey | None) -> Outcome:
        """Run in a process, which is killed on cancellation; return what its answer means.

        The module's name and bytes cross over: the process imports the function's module, as a worker does.

        :raises ProcessError: the process ended without an answer, or broke the protocol.
        """
        function, delivery = task.contract.function, job.delivery
        if task.contract.injected:
            import_module("taskcore.dependencies.children").refuse_overrides(function)
        request = PerformJob(
            function.__module__,
            function.__qualname__,
            encode_envelope(job.envelope),  # the codec of the app may need secrets, which stay here
            bytes(delivery.trail),
            delivery.queue,
            job.trail.crashes,
            fence,
            msgspec.json.encode(key),
        )
        receiver = ProgressReceiver(job, task, fence)
        try:
            answer = await self._pool.run(request, job.extra, receiver.take)
        finally:
            await receiver.aclose()
        attempt, keyed = job.trail.attempts + 1, job.key is not None
        outcome = outcome_of(answer, when=self._clock(), worker=self._worker, attempt=attempt, keyed=keyed)
        if isinstance(outcome, Deferred | Unencodable) and isinstance(answer, JobRaised):
            log.warning("job %s: %s", job.id, answer.why or answer.message)
        return outcome

    async def aclose(self) -> None:
        """End the processes, because no more jobs will come."""
        await self._pool.aclose()


def require_processes(tasks: Sequence[str]) -> None:
    """Refuse tasks that this system has no processes for.

    :param tasks: names of tasks with ``runs_in="process"``.
    :raises InvalidSetting: it is Windows (TC104).
    """
    if tasks and os.name == "nt":
        raise InvalidSetting(
            'this worker has tasks with runs_in="process", and Windows has no process groups that end with it',
            facts=tasks,
            fix='leave runs_in="process" out there, so that they run in threads',
        )
