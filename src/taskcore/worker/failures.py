"""Failures: from an error to the outcome of the job in which it was raised."""

from __future__ import annotations

from collections.abc import Callable

from taskcore.envelope import ErrorRecord
from taskcore.errors import LeaseLost, UnencodableResult
from taskcore.lifecycle import Deferred, Outcome, Raised, TimedOut, Unencodable
from taskcore.observe import Events
from taskcore.records.keys import BUSY_RETRY
from taskcore.toolkit.logging import logger
from taskcore.worker.error_records import describe
from taskcore.worker.execution import Execution

__all__ = ["KEY_LOST", "Failures"]

log = logger("taskcore.worker")

#: Why a job is deferred whose transaction was undone; that is no failure of its function.
KEY_LOST = "another job took its key while it ran"


class Failures:
    """Makes outcomes of errors.

    :param clock: seconds since the epoch.
    :param worker: its name, for the records.
    """

    def __init__(self, events: Events, *, clock: Callable[[], float], worker: str) -> None:
        self._events = events
        self._clock = clock
        self._worker = worker

    def raised(self, job: Execution, error: BaseException) -> Outcome:
        """Make the outcome of a function that raised, in the event loop or in a thread."""
        if isinstance(error, LeaseLost) and job.key is not None:
            log.warning("job %s: %s", job.id, error.what)
            return Deferred(BUSY_RETRY, KEY_LOST)
        return Raised(error, self._describe(job, error))

    def unencodable(self, job: Execution, error: UnencodableResult) -> Outcome:
        """Make the outcome of a function whose value cannot be encoded."""
        log.warning("job %s: %s", job.id, error)
        return Unencodable(self._describe(job, error))

    def too_large(self, job: Execution, size: int, limit: int) -> Outcome:
        """Make the outcome of a function whose encoded value is too large to be stored."""
        return self.unencodable(
            job,
            UnencodableResult(
                f"the result has {size:,} bytes, the limit is {limit:,}: "
                "store it elsewhere and return a reference to it",
                facts=["the function has run to its end; its result is not kept"],
                fix="raise result_limit, if the store takes values of that size",
            ),
        )

    def timed_out(self, job: Execution) -> Outcome:
        """Make the outcome of a job that was interrupted because its time was over."""
        limit = job.timeout
        if job.task is not None and job.task.options.runs_in == "thread":
            self._events.emit("thread.abandoned", **job.labels)
        return TimedOut(self._describe(job, TimeoutError(f"took longer than its timeout of {limit} s")))

    def _describe(self, job: Execution, error: BaseException) -> ErrorRecord:
        return describe(error, when=self._clock(), worker=self._worker, attempt=job.trail.attempts + 1)
