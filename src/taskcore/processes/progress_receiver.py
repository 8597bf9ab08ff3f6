"""The progress and the log of a function in a process, on the worker's side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any

from taskcore.errors import StoreRequired, TaskcoreError
from taskcore.processes.frames import BeginReport, ProgressReport, ReportBegun
from taskcore.task import Task
from taskcore.toolkit.detached import start_detached
from taskcore.worker.execution import Execution

__all__ = ["ProgressReceiver"]

PROGRESS = "taskcore.progress.remote"  #: the room that keeps it, imported at the first report


class ProgressReceiver:
    """Takes what one job tells, and hands it to the room that keeps it."""

    def __init__(self, job: Execution, task: Task[..., Any], fence: int) -> None:
        self._job = job
        self._task = task
        self._fence = fence
        self._reports: Any = None

    def take(self, message: BeginReport | ProgressReport, reply: Callable[[ReportBegun], Awaitable[None]]) -> None:
        """Take one message of the process."""
        if isinstance(message, BeginReport):
            start_detached(partial(self._begin, message, reply), name="taskcore progress of a process")
        elif self._reports is not None:
            import_module(PROGRESS).take(self._reports, message.progress, message.lines)

    async def aclose(self) -> None:
        """Write the last of it."""
        if self._reports is not None:
            await self._reports.aclose()

    async def _begin(self, message: BeginReport, reply: Callable[[ReportBegun], Awaitable[None]]) -> None:
        job = self._job
        try:
            if self._reports is None:
                open_reports = import_module(PROGRESS).open_reports
                self._reports = open_reports(self._task, job.id, job.trail.attempts + 1, self._fence)
            saved = await import_module(PROGRESS).saved_bytes(self._reports) if message.resume else b""
        except TaskcoreError as error:
            await reply(ReportBegun(problem=error.what, needs_store=isinstance(error, StoreRequired)))
        except Exception as error:  # noqa: BLE001 - the function that waits has to learn it
            await reply(ReportBegun(problem=f"{type(error).__name__}: {error}"))
        else:
            await reply(ReportBegun(saved=saved))
