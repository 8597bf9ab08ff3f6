"""How a job ended, in every form that the library has for it, and all translations between them.

    outcome (worker)       verdict   stored       typed        status       result() raises   event
    ─────────────────────  ────────  ───────────  ───────────  ───────────  ────────────────  ────────────────────────
    Returned               Ack       succeeded    Succeeded    succeeded    (the value)       job.succeeded
    AlreadyDone            Ack       (the first outcome, as it was stored)                    job.skipped
    Raised, declared       Bury      dead         Failed       failed       JobFailed         job.buried, job.failed (*)
    any other              Bury      dead         Dead         dead         JobFailed         job.buried, job.failed (*)
    CancelledBefore        Ack       cancelled    Cancelled    cancelled    JobCancelled      job.cancelled
    DeadlinePassed         Ack       expired      Expired      expired      JobExpired        job.expired
    Unregistered           Reschedule                                                         job.parked
    Deferred               Reschedule                                                         job.deferred
    any other              Reschedule                                                         job.retried
    Interrupted            Release                                                            job.released

    (*) at most once: the broker forgot the job before it started, so that there is no dead letter

Outcome and verdict are those of :mod:`taskcore.lifecycle`; ``records/outcomes.py`` keeps the stored form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar, assert_never

import msgspec

from taskcore.envelope import ErrorRecord, Trail, encode_trail
from taskcore.errors import JobCancelled, JobError, JobExpired, JobFailed, WrongTask
from taskcore.lifecycle import (
    ACK,
    Ack,
    AlreadyDone,
    Buried,
    Bury,
    CancelledBefore,
    DeadlinePassed,
    Deferred,
    Interrupted,
    Outcome,
    Raised,
    Release,
    Reschedule,
    Returned,
    TimedOut,
    Unencodable,
    Unregistered,
    Verdict,
)
from taskcore.observe import EventName
from taskcore.store import record_decoder
from taskcore.toolkit.values import PublicValue

__all__ = [
    "ANY_TASK",
    "STATUS_OF_PLACE",
    "Cancelled",
    "Dead",
    "Expired",
    "Failed",
    "JobOutcome",
    "JobStatus",
    "StoredOutcome",
    "Succeeded",
    "decode_outcome",
    "encode_outcome",
    "error_of",
    "event_of",
    "event_of_ack",
    "other_task_of",
    "outcome_of_stored",
    "status_of_stored",
    "stored_outcome",
    "typed_outcome",
    "verdict_of_stored",
    "wrong_task",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


# ── typed: what `await job.outcome()` gives ──────────────────────────────────────────────────────


class Succeeded(PublicValue, Generic[R_co], frozen=True):
    """The function returned this value."""

    tag: ClassVar = "succeeded"

    value: R_co


class Failed(PublicValue, frozen=True):
    """The job ended with an error that its task declares in ``raises``; here it is again, typed."""

    tag: ClassVar = "failed"
    shown: ClassVar = {"error": lambda error: f"{type(error).__name__}: {error}"}

    error: BaseException
    record: ErrorRecord


class Dead(PublicValue, frozen=True):
    """The job is a dead letter. ``record`` is its last error, if there was one."""

    tag: ClassVar = "dead"

    reason: str
    record: ErrorRecord | None


class Cancelled(PublicValue, frozen=True):
    """The job was cancelled before it started."""

    tag: ClassVar = "cancelled"


class Expired(PublicValue, frozen=True):
    """The job's deadline passed before it could start."""

    tag: ClassVar = "expired"


JobOutcome: TypeAlias = Succeeded[R] | Failed | Dead | Cancelled | Expired

JobStatus: TypeAlias = Literal[
    "scheduled", "queued", "running", "succeeded", "failed", "dead", "cancelled", "expired", "unknown"
]


NO_BYTES = msgspec.Raw()


class StoredOutcome(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a job ended, as it is stored. ``result`` and ``error`` are the contract's own encoding; empty where none.

    :param task: the name of the job's task; empty if nothing of the task is in it: cancelled, expired.
    """

    state: Literal["succeeded", "dead", "cancelled", "expired"]
    result: msgspec.Raw = NO_BYTES
    reason: str = ""
    error: msgspec.Raw = NO_BYTES
    record: ErrorRecord | None = None
    task: str = ""


encode_outcome = msgspec.json.Encoder().encode
decode_outcome = record_decoder(StoredOutcome, "the outcome of a job")

CANCELLED = encode_outcome(StoredOutcome("cancelled"))
EXPIRED = encode_outcome(StoredOutcome("expired"))


# ── the worker's translations ────────────────────────────────────────────────────────────────────


def stored_outcome(
    outcome: Outcome, verdict: Verdict, task: str, pack_error: Callable[[BaseException], bytes | None] | None
) -> bytes | None:
    """Encode what callers will read; None while the job goes on.

    :param task: the name of the job's task.
    :param pack_error: the contract's; it answers None for an error that the task does not declare.
    """
    if isinstance(verdict, Ack):
        match outcome:
            case Returned(result=result):
                return encode_outcome(StoredOutcome("succeeded", msgspec.Raw(result), task=task))
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
        if pack_error is not None and isinstance(outcome, Raised):
            declared = outcome.declared or pack_error(outcome.error)
        error = msgspec.Raw(declared) if declared is not None else NO_BYTES
        return encode_outcome(StoredOutcome("dead", reason=verdict.reason, error=error, record=record, task=task))
    return None


def other_task_of(data: bytes, task: str) -> str | None:
    """Find the name of the task that the stored outcome belongs to, if it is another one than this."""
    found = decode_outcome(data).task
    return found if found not in ("", task) else None


def outcome_of_stored(data: bytes) -> Outcome:
    """Translate the stored outcome of a job that is handed out again: its verdict is repeated."""
    stored = decode_outcome(data)
    match stored.state:
        case "succeeded":
            return AlreadyDone(data)
        case "dead":
            return Buried(stored.reason, stored.record)
        case "cancelled":
            return CancelledBefore()
        case "expired":
            return DeadlinePassed()
        case _:
            assert_never(stored.state)


def verdict_of_stored(data: bytes, verdict: Verdict, history: Trail) -> Verdict:
    """Find the verdict that fits a stored outcome (C18): there is a dead letter if, and only if, it says so.

    :param verdict: the job's own; kept if it fits.
    """
    stored = decode_outcome(data)
    if stored.state != "dead":
        return ACK
    return verdict if isinstance(verdict, Bury) else Bury(stored.reason, encode_trail(history))


def event_of(outcome: Outcome, verdict: Verdict, acked_early: bool) -> EventName:
    """Name the event of a settled job."""
    if isinstance(verdict, Ack):
        return event_of_ack(type(outcome), "job.succeeded")
    if acked_early:
        return "job.failed"
    match verdict:
        case Reschedule():
            return EVENT_OF_RESCHEDULE.get(type(outcome), "job.retried")
        case Release():
            return "job.released"
        case Bury():
            return "job.buried"
        case _:
            assert_never(verdict)


_Names: TypeAlias = Mapping[type[Outcome], EventName]
EVENT_OF_ACK: _Names = {AlreadyDone: "job.skipped", CancelledBefore: "job.cancelled", DeadlinePassed: "job.expired"}
event_of_ack = EVENT_OF_ACK.get  #: the common part of ``event_of``, without a call of ours for each job
EVENT_OF_RESCHEDULE: _Names = {Unregistered: "job.parked", Deferred: "job.deferred", Interrupted: "job.released"}


# ── the caller's translations ────────────────────────────────────────────────────────────────────


class ResultDecoder(Protocol):
    """The part of a task's contract that decodes results and declared errors."""

    def unpack_result(self, data: bytes) -> Any:
        """Decode a result."""
        ...

    def unpack_error(self, data: bytes) -> BaseException | None:
        """Rebuild a declared error; None if the task does not declare it any more."""
        ...


def typed_outcome(data: bytes, contract: ResultDecoder) -> JobOutcome[Any]:
    """Decode a stored outcome with the task's contract."""
    stored = decode_outcome(data)
    match stored.state:
        case "succeeded":
            return Succeeded(contract.unpack_result(bytes(stored.result)))
        case "dead":
            error = contract.unpack_error(bytes(stored.error)) if bytes(stored.error) else None
            if error is not None and stored.record is not None:
                return Failed(error, stored.record)
            return Dead(stored.reason, stored.record)
        case "cancelled":
            return Cancelled()
        case "expired":
            return Expired()
        case _:
            assert_never(stored.state)


ANY_TASK = "*"  #: the name that a handle has that was made from an id alone


def wrong_task(job_id: str, task: str, data: bytes) -> WrongTask | None:
    """Make the error of a stored outcome that belongs to a job of another task; None if it does not."""
    other = None if task == ANY_TASK else other_task_of(data, task)
    if other is None:
        return None
    return WrongTask(
        f"job {job_id} is a job of {other}, not of {task}",
        fix="ask with a handle of its own task; a call of another task needs another id",
        job_id=job_id,
    )


def status_of_stored(data: bytes) -> JobStatus:
    """Translate a stored outcome into a status."""
    stored = decode_outcome(data)
    return "failed" if bytes(stored.error) else stored.state


#: The status of a job at its place at the broker.
STATUS_OF_PLACE: Mapping[str | None, JobStatus] = {
    "ready": "queued", "scheduled": "scheduled", "leased": "running", None: "unknown",
}  # fmt: skip


def error_of(
    job_id: str, task: str, outcome: Failed | Dead | Cancelled | Expired, *, has_dead_letter: bool = True
) -> JobError:
    """Make the error that ``job.result()`` raises for a job that did not succeed."""
    what = f"job {job_id}" if task == ANY_TASK else f"job {job_id} of {task}"
    match outcome:
        case Cancelled():
            return JobCancelled(f"{what} was cancelled, so it has no result", job_id=job_id)
        case Expired():
            return JobExpired(f"{what} could not start before its deadline", job_id=job_id)
        case Failed(error=cause, record=record):
            text = f"{what} failed with {record.type}: {record.message}"
            error = JobFailed(text, job_id=job_id, error=cause, reason=record.type, record=record)
            error.__cause__ = cause
            return error
        case Dead(reason=reason, record=record):
            facts = _facts(record) if record else []
            fix = SEE_DEAD_LETTER if has_dead_letter else None
            return JobFailed(
                f"{what} is dead: {reason}", facts=facts, fix=fix, job_id=job_id, reason=reason, record=record
            )
        case _:
            assert_never(outcome)


SEE_DEAD_LETTER = "its dead letter has all errors and can be replayed: app.dead_letters"


def _facts(record: ErrorRecord) -> list[str]:
    facts = [f"last error: {record.type}: {record.message}"]
    return [*facts, f"at {record.where}"] if record.where else facts
