"""Failures: from an error to the outcome of the job in which it was raised."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from taskcore.envelope import ErrorRecord
from taskcore.errors import LeaseLost, UnencodableResult
from taskcore.lifecycle import Deferred, Interrupted, Outcome, Raised, TimedOut, Unencodable, deciding_error
from taskcore.observe import Events
from taskcore.policy import Retry
from taskcore.records.keys import BUSY_RETRY
from taskcore.toolkit.logging import logger
from taskcore.worker.error_records import describe
from taskcore.worker.execution import RECEIVED, Execution, Slot, Why
from taskcore.worker.runners.threads import IterationStopped

__all__ = ["KEY_LOST", "Failures"]

log = logger("taskcore.worker")

NO_RETRY = Retry(attempts=1)
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
        whole = error.error if type(error) is IterationStopped else error  # not isinstance: it asks the error
        task, keyed = job.task, job.key is not None
        retry, raises = (NO_RETRY, ()) if task is None else (task.options.rules.retry, task.contract.raises)
        error = deciding_error(whole, retry, raises=raises, keyed=keyed)
        record = self._describe(job, error, whole)
        if keyed and issubclass(type(error), LeaseLost):
            log.warning("job %s: %s", job.id, record.message)
            return Deferred(BUSY_RETRY, KEY_LOST)
        return Raised(error, record)

    def unencodable(self, job: Execution, error: UnencodableResult) -> Outcome:
        """Make the outcome of a function whose value cannot be encoded."""
        log.warning("job %s: %s", job.id, "; ".join((error.what, *error.public_facts)))
        return Unencodable(self._describe(job, error))

    def too_large(self, job: Execution, result: bytes, limit: int) -> Outcome:
        """Make the outcome of a function whose encoded value is too large to be stored."""
        return self.unencodable(
            job,
            UnencodableResult(
                f"the result has {len(result):,} bytes, the limit is {limit:,}: "
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

    def cancelled(self, job: Execution, slot: Slot) -> Outcome | None:
        """Make the outcome of a job whose task was cancelled: by the worker, or by what the job did to itself."""
        if slot.why is not None:
            return self.interrupted(job, slot.why)
        return slot.outcome or self.raised(job, anyio.get_cancelled_exc_class()())

    def outcome_of(self, error: BaseException, job: Execution, slot: Slot) -> Outcome | None:
        """Make the outcome of a job that raised; raise what does not belong to the job."""
        if slot.why is not None:  # whatever the function's clean-up raised (C21)
            return self.interrupted(job, slot.why)
        if slot.context is None or _ends_the_slot(error, slot):
            raise error
        return self.raised(job, error)

    def interrupted(self, job: Execution, why: Why) -> Outcome | None:
        """Make the outcome of a job that the worker interrupted, whatever its clean-up came to."""
        if why == "timeout":
            return self.timed_out(job)
        return None if why == "lost" else Interrupted(started=job.state is not RECEIVED)

    def _describe(self, job: Execution, error: BaseException, whole: BaseException | None = None) -> ErrorRecord:
        when, attempt = self._clock(), job.trail.attempts + 1
        return describe(error, when=when, worker=self._worker, attempt=attempt, whole=whole)


def _ends_the_slot(error: BaseException, slot: Slot) -> bool:
    """Tell what concerns the slot from what the function raised by itself."""
    if issubclass(type(error), GeneratorExit):  # not isinstance: it asks the error itself, which may say anything
        return not _in_a_task()  # a loop that is gone closes what it left; in a running one the function raised it
    return slot.isolation.belongs_to_caller(error)


def _in_a_task() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True
