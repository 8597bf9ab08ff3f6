"""From the answer of a process to the outcome of its job: as if the function had run here."""

from __future__ import annotations

import msgspec

from taskcore.control import Reject, RetryLater, Snooze
from taskcore.envelope import ErrorRecord
from taskcore.lifecycle import Deferred, Outcome, Raised, Returned, Unencodable
from taskcore.policy import RemoteError
from taskcore.processes.frames import JobAnswer, JobRaised, JobReturned
from taskcore.processes.process import ProcessError
from taskcore.records.keys import BUSY_RETRY
from taskcore.worker.error_records import MESSAGE_LIMIT, TRACEBACK_LIMIT
from taskcore.worker.failures import KEY_LOST

__all__ = ["outcome_of"]


def outcome_of(answer: JobAnswer, *, when: float, worker: str, attempt: int, keyed: bool) -> Outcome:
    """Return the outcome that an answer stands for.

    :param keyed: whether the job holds a key, which it may have lost.
    :raises ProcessError: the answer is of the right form, but what it holds is not.
    """
    if isinstance(answer, JobReturned):
        _check_json(answer.result)
        return Returned(answer.result)
    record = ErrorRecord(
        type=answer.type_name,
        message=answer.message[:MESSAGE_LIMIT],
        when=when,
        worker=worker,
        attempt=attempt,
        where=answer.where,
        traceback=answer.traceback[-TRACEBACK_LIMIT:],
    )
    if answer.kind == "unencodable":
        return Unencodable(record)
    if answer.kind == "lease_lost" and keyed:
        return Deferred(BUSY_RETRY, KEY_LOST)
    if answer.declared is not None:
        _check_json(answer.declared)
    return Raised(_error_of(answer), record, answer.declared)


def _error_of(answer: JobRaised) -> Exception:
    """Make the error for the rule table; the class of the function's own error is never looked up."""
    try:
        match answer.kind:
            case "snooze":
                return Snooze(answer.after)
            case "retry_later":
                return RetryLater(answer.after, answer.why)
            case "reject":
                return Reject(answer.why)
            case _:
                return RemoteError(f"{answer.type_name}: {answer.message}", retryable=answer.retryable)
    except ValueError as error:
        raise ProcessError(f"the process of this job sent an impossible {answer.kind}: {error}") from None


def _check_json(data: bytes) -> None:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProcessError(f"the process of this job sent a value that is not JSON: {error}") from None
