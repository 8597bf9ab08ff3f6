"""``current().progress`` and ``current().log``: from a running job to what carries its reports away.

in the loop, in a thread    the worker's slot keeps the reports of the job, and closes them at its end
in a process                frames to the worker, which has the reports
in the test kit             memory: no store is asked
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar, overload

import anyio.from_thread

from taskcore.client.host import AppHost
from taskcore.envelope import running
from taskcore.errors import NotRunning, StoreRequired
from taskcore.progress.handles import AsyncTracked, Progress, Tracked, length_of
from taskcore.progress.record import Quantity, StoredProgress
from taskcore.progress.reports import JobReports, has_event_loop
from taskcore.task import Task
from taskcore.worker.context import Context

__all__ = ["JobLogHandler", "StartProgress", "WriteLog", "open_reports"]

T = TypeVar("T")


class StartProgress:
    """``current().progress``: call it to report how far this job has got."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @overload
    def __call__(
        self, *, total: Quantity | None = None, message: str | None = None, resume: bool = False
    ) -> Progress: ...

    @overload
    def __call__(
        self, items: Iterable[T], *, total: Quantity | None = None, message: str | None = None, resume: bool = False
    ) -> Tracked[T]: ...

    @overload
    def __call__(
        self,
        items: AsyncIterable[T],
        *,
        total: Quantity | None = None,
        message: str | None = None,
        resume: bool = False,
    ) -> AsyncTracked[T]: ...

    def __call__(
        self,
        items: Iterable[Any] | AsyncIterable[Any] | None = None,
        *,
        total: Quantity | None = None,
        message: str | None = None,
        resume: bool = False,
    ) -> Progress | Tracked[Any] | AsyncTracked[Any]:
        """Return the progress of this job, the same one at each call; or items that count themselves.

        :param items: what the job goes through; each counts when the next one is asked for.
        :param total: where it ends; default: the number of the items, if they have one.
        :param message: what the job does now.
        :param resume: go on from where the last attempt was. An async function awaits the progress first, or iterates
            by ``async for``.
        :raises StoreRequired: the app has no store (TC105).
        :raises InvalidArguments: a number or a text that cannot be (TC302).
        :raises NotRunning: the job has ended (TC106).
        """
        progress = _reports_of(self._context).progress()
        if resume:
            progress.ask_to_resume()
            if not has_event_loop():
                progress.resume_now()
        total = length_of(items) if total is None else total
        if total is not None or message is not None:
            progress.update(total=total, message=message)
        if items is None:
            return progress
        if isinstance(items, AsyncIterable):
            return AsyncTracked(items, progress)
        return Tracked(items, progress)


class WriteLog:
    """``current().log``: call it to add a line to the log of this job."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, text: object, *args: object) -> None:
        """Add a line, which the worker writes within about a second.

        :param args: are put into the text as the logging module does it: ``log("%d rows", 5)``.
        :raises StoreRequired: the app has no store (TC105).
        :raises NotRunning: the job has ended (TC106).
        """
        _reports_of(self._context).log(str(text) % args if args else str(text))


class JobLogHandler(logging.Handler):
    """A handler of the logging module that adds records to the log of the job in which they are made."""

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record; outside of jobs, and in a job that cannot keep it, do nothing."""
        context = running.get(None)
        if context is None or record.name.partition(".")[0] == "taskcore":
            return
        try:
            _reports_of(context).log(self.format(record))
        except (NotRunning, StoreRequired):
            pass
        except Exception:  # noqa: BLE001 - as every handler
            self.handleError(record)


class ReportSink(Protocol):
    """Takes the progress and the log of a job."""

    def progress(self) -> Progress:
        """Return the progress of this start, the same at each call."""
        ...

    def log(self, text: str) -> None:
        """Add a line to the log."""
        ...


def _reports_of(context: Context) -> ReportSink:
    """Find what takes the reports of this job, or make it at the first report."""
    if context._link is not None:  # noqa: SLF001 - the context's other half
        sink: ReportSink = context._link.reports(context)  # noqa: SLF001 - the same
        return sink
    slot, task = context._slot, context._task  # noqa: SLF001 - the same
    if slot is None or task is None:
        return _NoSink()
    if slot.context is not context:
        raise NotRunning(
            f"job {context.job_id} has ended, so it has no progress and no log any more",
            fix="let the job wait for the tasks that it starts",
        )
    for left in slot.dropped:
        if isinstance(left, JobReports):
            return left
    reports = open_reports(task, context.job_id, context.attempt, context.fence)
    slot.dropped.append(reports)
    return reports


def open_reports(task: Task[..., Any], job_id: str, attempt: int, fence: int) -> JobReports:
    """Make the reports of a start of a job; from the event loop, or from a thread of a task.

    :raises StoreRequired: the app has no store (TC105).
    """
    host: Any = task.host
    if not isinstance(host, AppHost):
        raise NotRunning(f"{task.name} does not run in an app", fix="run it by a worker of its app")
    queries = host.queries
    if queries.store is None:
        raise StoreRequired("progress and logs of jobs are kept in a store, and this app has none")
    make = partial(
        JobReports,
        queries.store,
        host.token,
        queries.clock,
        job_id=job_id,
        attempt=attempt,
        fence=fence,
        kept=task.options.keep_result,
    )
    return make() if has_event_loop() else anyio.from_thread.run_sync(make, token=host.token)


class _NoSink:
    """Takes the reports of a job that no worker runs."""

    def __init__(self) -> None:
        self.now = time.time

    def progress(self) -> Progress:
        return Progress(self, attempt=1, fence=0)

    def log(self, text: str) -> None:
        pass

    async def saved(self) -> StoredProgress | None:
        return None

    def saved_now(self) -> StoredProgress | None:
        return None
