"""What one start of a job reports: its progress and its log, as records that the writer carries into the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_hex
from threading import Lock
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

from taskcore.errors import NotRunning
from taskcore.progress.handles import Progress
from taskcore.progress.record import (
    KEPT_AFTER_CHANGE,
    KeptLines,
    StoredLine,
    StoredProgress,
    clean_line,
    decode_log,
    decode_progress,
    encode_log,
    encode_progress,
    log_name,
    progress_name,
)
from taskcore.progress.writer import ReportedRecord, writer_of
from taskcore.store import ABSENT, Expect, Record, Store, Version

__all__ = ["JobReports", "has_event_loop"]


class JobReports:
    """What one start of a job reports.

    :param token: of the event loop in which the store is open.
    :param clock: seconds since the epoch.
    :param kept: seconds for which the result of the job is kept; None if it is not.
    """

    def __init__(
        self,
        store: Store,
        token: Any,
        clock: Callable[[], float],
        *,
        job_id: str,
        attempt: int,
        fence: int,
        kept: float | None,
    ) -> None:
        self.job_id = job_id
        self.now = clock
        self._store = store
        self._token = token
        self._attempt, self._fence = attempt, fence
        self._keep = max(KEPT_AFTER_CHANGE, kept or 0.0)
        self._mark = token_hex(3)
        self._progress: _ProgressRecord | None = None
        self._log: _LogRecord | None = None
        self._writer = writer_of(store)
        self._writer.add(self)

    @property
    def records(self) -> Sequence[ReportedRecord]:
        """See :class:`taskcore.progress.writer.Reports`."""
        return [record for record in (self._progress, self._log) if record is not None]

    async def aclose(self) -> None:
        """Write the last of it; nothing is written from then on."""
        await self._writer.finish(self)

    async def flush(self) -> None:
        """Write now what has changed."""
        await self._writer.write(self)

    # ── what the function does ──

    def progress(self) -> Progress:
        """Return the progress of this start, the same at each call."""
        if self._progress is None:
            progress = Progress(self, attempt=self._attempt, fence=self._fence)
            self._progress = _ProgressRecord(self.job_id, self._keep, progress, self._fence)
            self._is_new()
        return self._progress.progress

    def log(self, text: str, at: float | None = None) -> None:
        """Add a line to the log."""
        if self._log is None:
            self._log = _LogRecord(self.job_id, self._keep, self._mark)
            self._is_new()
        when = self.now() if at is None else at
        self._log.add(StoredLine(round(when, 3), self._attempt, self._mark, clean_line(text)))

    def _is_new(self) -> None:
        """Write the first report soon; those of a thread are found soon, too, because its reports are new."""
        if has_event_loop():
            self._writer.add(self)

    async def saved(self) -> StoredProgress | None:
        """See :class:`taskcore.progress.handles.ProgressHost`."""
        record = await self._store.get(progress_name(self.job_id))
        if record is None:
            return None
        if self._progress is not None:
            self._progress.expect = record.version
        return decode_progress(record.value)

    def saved_now(self) -> StoredProgress | None:
        """See :class:`taskcore.progress.handles.ProgressHost`."""
        if has_event_loop():
            raise NotRunning(
                "the saved position cannot be read here without blocking the event loop",
                fix="async for row in current().progress(rows, resume=True), or first: await current().progress(…); "
                'a plain function that runs in the loop can do neither: runs_in="thread"',
            )
        return anyio.from_thread.run(self.saved, token=self._token)


class _StoreRecord:
    """A record that a running job changes; see :class:`taskcore.progress.writer.ReportedRecord`."""

    def __init__(self, name: str, keep: float) -> None:
        self.name = name
        self.keep = keep
        self.expect: Expect = ABSENT
        self.is_lost = False
        self._renew_at = float("inf")

    def written(self, version: Version) -> None:
        """Note the version; a job that reports nothing for long keeps its record all the same."""
        self.expect = version
        self._renew_at = anyio.current_time() + self.keep / 2


class _ProgressRecord(_StoreRecord):
    """The progress of one start: it replaces that of earlier ones, and gives way to a later one."""

    def __init__(self, job_id: str, keep: float, progress: Progress, fence: int) -> None:
        super().__init__(progress_name(job_id), keep)
        self.progress = progress
        self._fence = fence

    @property
    def is_due(self) -> bool:
        """Whether there is something to write."""
        return not self.is_lost and (self.progress.changed or anyio.current_time() >= self._renew_at)

    def take(self) -> bytes:
        """Return the record."""
        return encode_progress(self.progress.take_change())

    def put_back(self) -> None:
        """Count it as not written."""
        self.progress.changed = True

    def on_conflict(self, current: Record | None) -> None:
        """Replace the progress of an earlier start."""
        self.expect = ABSENT
        if current is not None:
            self.expect = current.version
            self.is_lost = decode_progress(current.value).fence > self._fence


class _LogRecord(_StoreRecord):
    """The log of one start: its lines follow those of other starts."""

    def __init__(self, job_id: str, keep: float, mark: str) -> None:
        super().__init__(log_name(job_id), keep)
        self._mark = mark
        self._lock = Lock()
        self._lines = KeptLines()
        self._changed = False

    @property
    def is_due(self) -> bool:
        """Whether there is something to write."""
        return not self.is_lost and (self._changed or anyio.current_time() >= self._renew_at)

    def add(self, line: StoredLine) -> None:
        """Add a line."""
        with self._lock:
            self._lines.add(line)
            self._changed = True

    def take(self) -> bytes:
        """Return the record."""
        with self._lock:
            self._changed = False
            return encode_log(self._lines.stored())

    def put_back(self) -> None:
        """Count it as not written."""
        self._changed = True

    def on_conflict(self, current: Record | None) -> None:
        """Put the lines of this start behind those that stand there."""
        self.expect = ABSENT
        if current is not None:
            self.expect = current.version
            earlier = decode_log(current.value)
            with self._lock:
                self._lines = self._lines.behind(earlier, self._mark)


def has_event_loop() -> bool:
    """Tell whether an event loop runs here."""
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True
