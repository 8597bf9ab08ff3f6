"""How a job ended, for whoever asks: stored once, pushed to waiters, gone after its time.

    job/<id>       the ending: Succeeded | Failed | Dead | Cancelled | Expired; written once, never changed (C18)
    cancel/<id>    a tombstone: somebody wants the job not to start (C14)

Both live in the store and not in the broker, because brokers forget a job when it is settled.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeAlias, TypeVar, assert_never

import anyio
import msgspec

from taskcore.envelope import ErrorRecord
from taskcore.errors import BrokerUnavailable, JobCancelled, JobError, JobExpired, JobFailed
from taskcore.store import ABSENT, ANY, Conflict, Store, Write

__all__ = [
    "Cancelled",
    "Dead",
    "Expired",
    "Failed",
    "JobOutcome",
    "JobStatus",
    "Outcomes",
    "StoredOutcome",
    "Succeeded",
    "decode_outcome",
    "encode_outcome",
    "error_of",
]

R = TypeVar("R")

CANCEL_KEPT = 86_400.0  #: seconds for which a wish to cancel is remembered


# ── what `await job.outcome()` gives ─────────────────────────────────────────────────────────────


class Succeeded(msgspec.Struct, Generic[R], frozen=True):
    """The function returned this value."""

    value: R


class Failed(msgspec.Struct, frozen=True):
    """The job ended with an error that its task declares in ``raises``; here it is again, typed."""

    error: BaseException
    record: ErrorRecord


class Dead(msgspec.Struct, frozen=True):
    """The job is a dead letter. ``record`` is its last error, if there was one."""

    reason: str
    record: ErrorRecord | None


class Cancelled(msgspec.Struct, frozen=True):
    """The job was cancelled before it started."""


class Expired(msgspec.Struct, frozen=True):
    """The job's deadline passed before it could start."""


JobOutcome: TypeAlias = Succeeded[R] | Failed | Dead | Cancelled | Expired

JobStatus: TypeAlias = Literal[
    "scheduled", "queued", "running", "succeeded", "failed", "dead", "cancelled", "expired", "unknown"
]


def error_of(
    job_id: str, task: str, outcome: Failed | Dead | Cancelled | Expired, *, has_dead_letter: bool = True
) -> JobError:
    """Make the error that ``job.result()`` raises for a job that did not succeed."""
    what = f"job {job_id} of {task}"
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


# ── the record ───────────────────────────────────────────────────────────────────────────────────


NO_BYTES = msgspec.Raw()


class StoredOutcome(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a job ended, as it is stored. ``result`` and ``error`` are the contract's own encoding; empty where none."""

    state: Literal["succeeded", "dead", "cancelled", "expired"]
    result: msgspec.Raw = NO_BYTES
    reason: str = ""
    error: msgspec.Raw = NO_BYTES
    record: ErrorRecord | None = None


encode_outcome = msgspec.json.Encoder().encode
decode_outcome = msgspec.json.Decoder(StoredOutcome).decode


class Outcomes:
    """Endings and tombstones over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def write(job_id: str, ending: bytes, keep: float) -> Write:
        """The write of an ending; it loses against an ending that is there already (C18)."""
        return Write(key=f"job/{job_id}", value=ending, expect=ABSENT, keep=keep, reserve=True)

    async def find(self, job_id: str) -> bytes | None:
        """The encoded ending, if the job has one."""
        record = await self._store.get(f"job/{job_id}")
        return record.value if record else None

    async def wait(self, job_id: str, timeout: float | None) -> bytes | None:
        """The encoded ending as soon as there is one; None after ``timeout`` seconds.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        with anyio.move_on_after(timeout):
            async with self._store.watch(f"job/{job_id}") as records:
                async for record in records:
                    return record.value
            raise BrokerUnavailable("the store ended a watch by itself", fix="ask again")
        return None

    async def store(self, job_id: str, ending: bytes, keep: float) -> bytes:
        """Store an ending unless there is one; the one that stands."""
        answer = await self._store.put(f"job/{job_id}", ending, expect=ABSENT, keep=keep)
        if isinstance(answer, Conflict) and answer.current is not None:
            return answer.current.value
        return ending

    async def request_cancel(self, job_id: str) -> None:
        """Put up a tombstone."""
        await self._store.put(f"cancel/{job_id}", b"1", expect=ANY, keep=CANCEL_KEPT)

    async def cancel_requested(self, job_id: str) -> bool:
        """Whether there is a tombstone."""
        return await self._store.get(f"cancel/{job_id}") is not None
