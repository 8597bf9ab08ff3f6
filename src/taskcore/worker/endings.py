"""From an outcome and its verdict to the ending that callers will read; None while the job goes on."""

from __future__ import annotations

import msgspec

from taskcore.lifecycle import (
    Ack,
    Bury,
    Cancelled,
    Duplicate,
    Expired,
    Failed,
    Outcome,
    Succeeded,
    TimedOut,
    Unencodable,
    Verdict,
)
from taskcore.results import NOTHING, Ending, encode_ending
from taskcore.worker.hand import UNREAD, Job

__all__ = ["ending_of"]

CANCELLED = encode_ending(Ending("cancelled"))
EXPIRED = encode_ending(Ending("expired"))


def ending_of(job: Job, outcome: Outcome, verdict: Verdict, keep: float | None) -> bytes | None:
    """The encoded ending, if this verdict ends the job and somebody may ask for it."""
    task = job.task
    if (keep is None and job.hold is None) or job.envelope is UNREAD:
        return None
    if isinstance(verdict, Ack):
        match outcome:
            case Succeeded(result=result):
                return encode_ending(Ending("succeeded", msgspec.Raw(result)))
            case Duplicate(first=first):
                return first
            case Cancelled():
                return CANCELLED
            case Expired():
                return EXPIRED
            case _:
                return None
    if isinstance(verdict, Bury):
        record = outcome.record if isinstance(outcome, Failed | TimedOut | Unencodable) else None
        declared = None
        if task is not None and isinstance(outcome, Failed):
            declared = outcome.declared or task.contract.pack_error(outcome.error)
        error = msgspec.Raw(declared) if declared is not None else NOTHING
        return encode_ending(Ending("dead", reason=verdict.reason, error=error, record=record))
    return None
