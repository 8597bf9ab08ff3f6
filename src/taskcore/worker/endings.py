"""From an outcome and its verdict to the ending that callers will read; None while the job goes on."""

from __future__ import annotations

import msgspec

from taskcore.lifecycle import (
    Ack,
    AlreadyDone,
    Bury,
    CancelledBefore,
    DeadlinePassed,
    Outcome,
    Raised,
    Returned,
    TimedOut,
    Unencodable,
    Verdict,
)
from taskcore.results import NO_BYTES, StoredOutcome, encode_outcome
from taskcore.worker.execution import UNDECODED, Execution

__all__ = ["stored_outcome_of"]

CANCELLED = encode_outcome(StoredOutcome("cancelled"))
EXPIRED = encode_outcome(StoredOutcome("expired"))


def stored_outcome_of(job: Execution, outcome: Outcome, verdict: Verdict, keep: float | None) -> bytes | None:
    """The encoded ending, if this verdict ends the job and somebody may ask for it."""
    task = job.task
    if (keep is None and job.key is None) or job.envelope is UNDECODED:
        return None
    if isinstance(verdict, Ack):
        match outcome:
            case Returned(result=result):
                return encode_outcome(StoredOutcome("succeeded", msgspec.Raw(result)))
            case AlreadyDone(outcome=first):
                return first
            case CancelledBefore():
                return CANCELLED
            case DeadlinePassed():
                return EXPIRED
            case _:
                return None
    if isinstance(verdict, Bury):
        record = outcome.record if isinstance(outcome, Raised | TimedOut | Unencodable) else None
        declared = None
        if task is not None and isinstance(outcome, Raised):
            declared = outcome.declared or task.contract.pack_error(outcome.error)
        error = msgspec.Raw(declared) if declared is not None else NO_BYTES
        return encode_outcome(StoredOutcome("dead", reason=verdict.reason, error=error, record=record))
    return None
