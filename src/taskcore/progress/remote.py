"""What a function in a process of its own reports: gathered there, sent a few times a second, kept by the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from taskcore.errors import BrokerUnavailable, StoreRequired
from taskcore.progress.current import open_reports
from taskcore.progress.handles import Progress
from taskcore.progress.record import StoredProgress, clean_line, decode_progress, encode_progress
from taskcore.progress.reports import JobReports

__all__ = ["ProgressChannel", "RemoteReports", "open_reports", "raise_problem", "saved_bytes", "take"]

SEND_FIRST, SEND_EVERY = 0.02, 0.3  #: seconds; less than the worker's own interval
LINES_PENDING = 1_000  #: lines that wait to be sent; the first one more sends them


class ProgressChannel(Protocol):
    """The connection of a process to its worker."""

    def begin(self, *, resume: bool) -> bytes:
        """Say that reports will come; return the saved position, if it is asked for.

        :raises StoreRequired: the worker's app has no store (TC105).
        :raises BrokerUnavailable: the store cannot be reached (TC201).
        """
        ...

    def tell(self, progress: bytes, lines: list[tuple[float, str]]) -> None:
        """Send what was reported."""
        ...


class RemoteReports:
    """What one job in this process reports.

    :param fence, attempt: of this start of the job.
    """

    def __init__(self, worker: ProgressChannel, *, attempt: int, fence: int) -> None:
        self._worker = worker
        self._attempt, self._fence = attempt, fence
        self._progress: Progress | None = None
        self._lines: list[tuple[float, str]] = []
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self.now = time.time
        worker.begin(resume=False)
        threading.Thread(target=self._run, name="taskcore-progress", daemon=True).start()

    def progress(self) -> Progress:
        """Return the progress of this start, the same at each call."""
        if self._progress is None:
            self._progress = Progress(self, attempt=self._attempt, fence=self._fence)
        return self._progress

    def log(self, text: str) -> None:
        """Add a line to the log."""
        self._lines.append((self.now(), clean_line(text)))
        if len(self._lines) > LINES_PENDING:
            self.send()

    async def saved(self) -> StoredProgress | None:
        """See :class:`taskcore.progress.handles.ProgressHost`; this loop has nothing else to do."""
        return self.saved_now()

    def saved_now(self) -> StoredProgress | None:
        """See :class:`taskcore.progress.handles.ProgressHost`."""
        saved = self._worker.begin(resume=True)
        return decode_progress(saved) if saved else None

    def send(self) -> None:
        """Send what has changed."""
        with self._sending:
            lines, self._lines = self._lines, []
            changed = self._progress is not None and self._progress.changed
            progress = encode_progress(self._progress.take_change()) if self._progress is not None and changed else b""
            if progress or lines:
                self._worker.tell(progress, lines)

    def close(self) -> None:
        """Send the last of it."""
        self._ended.set()
        self.send()

    def _run(self) -> None:
        pause = SEND_FIRST
        while not self._ended.wait(pause):
            self.send()
            pause = SEND_EVERY


def take(reports: JobReports, progress: bytes, lines: Sequence[tuple[float, str]]) -> None:
    """Take over, in the worker, what was reported."""
    if progress:
        reports.progress().copy_from(decode_progress(progress))
    for at, text in lines:
        reports.log(text, at)


async def saved_bytes(reports: JobReports) -> bytes:
    """Read the saved position, in the worker; empty if there is none."""
    saved = await reports.saved()
    return b"" if saved is None else encode_progress(saved)


def raise_problem(problem: str, *, needs_store: bool) -> None:
    """Raise, in the process, why nothing can be reported.

    :raises StoreRequired, BrokerUnavailable: as the worker found it.
    """
    if needs_store:
        raise StoreRequired(problem)
    raise BrokerUnavailable(f"the progress of this job cannot be kept: {problem}", fix="try again later")
