"""The progress and the log of a function in a process, on its own side: the way to the worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from queue import SimpleQueue
from typing import Any

from taskcore.errors import NotRunning
from taskcore.processes.frames import BeginReport, ProgressReport, ReportBegun, encode_frame
from taskcore.worker.context import Context

__all__ = ["ProgressSender"]

PROGRESS = "taskcore.progress.remote"  #: the room that gathers them, imported at the first report


class ProgressSender:
    """Sends what the job in this process reports; see :class:`taskcore.progress.remote.ProgressChannel`.

    :param send: sends a frame to the worker.
    :ivar begun: the worker's answers.
    """

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self.begun: SimpleQueue[ReportBegun] = SimpleQueue()
        self._send = send
        self._owner = os.getpid()
        self._reports: Any = None

    def reports(self, context: Context) -> Any:
        """Return what gathers the reports of this job."""
        if self._reports is None:
            reports = import_module(PROGRESS).RemoteReports
            self._reports = reports(self, attempt=context.attempt, fence=context.fence)
        return self._reports

    def begin(self, *, resume: bool) -> bytes:
        """Say that something will be told; return the saved position, if it is asked for.

        :raises NotRunning: the function has forked, or has closed the connection to the worker (TC106).
        """
        if os.getpid() != self._owner or not self._send(encode_frame(BeginReport(resume))):
            raise NotRunning(
                "this process cannot tell its worker of the job's progress",
                facts=["it is a copy that the function forked, or its connection to the worker was closed"],
                fix="call current().progress() and current().log() in the process that runs the function",
            )
        begun = self.begun.get()
        if begun.problem:
            import_module(PROGRESS).raise_problem(begun.problem, needs_store=begun.needs_store)
        return begun.saved

    def tell(self, progress: bytes, lines: list[tuple[float, str]]) -> None:
        """Send what was told; a copy of this process that a function forked has no worker."""
        if os.getpid() == self._owner:
            self._send(encode_frame(ProgressReport(progress, lines)))

    def end(self) -> None:
        """Send the last of it."""
        reports, self._reports = self._reports, None
        if reports is not None:
            reports.close()
