"""A job that a worker holds: one delivery, from its receipt until it is settled."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum
from functools import partial
from typing import Any, Literal

import anyio
import msgspec

from taskcore.backend import Delivery, Source
from taskcore.envelope import NOTHING_YET, Envelope, NewerFormat, Trail, decode_envelope, decode_trail, running
from taskcore.errors import MalformedEnvelope
from taskcore.lifecycle import Outcome
from taskcore.records.keys import Acquired
from taskcore.records.markers import NO_STARTS, Starts
from taskcore.store import ABSENT, Expect, Version
from taskcore.task import Task
from taskcore.toolkit.isolation import new_isolation
from taskcore.toolkit.logging import logger
from taskcore.worker.context import Context
from taskcore.worker.pools import Pool

__all__ = [
    "ENDED", "ENDED_ACKED", "LOST", "RECEIVED", "STARTED", "STARTED_ACKED", "UNDECODED", "Execution", "JobState",
    "Slot", "Why", "job_here", "workflows_here",
]  # fmt: skip

log = logger("taskcore.worker")

#: Opens the part of this worker that performs workflows.
workflows_here: ContextVar[Callable[[], Any] | None] = ContextVar("taskcore.workflows_here")
job_here = partial(running.get, None)  #: the context of the job that runs here; None if no job does

Why = Literal["timeout", "lost", "shutdown"]

#: Stands where an envelope could not be decoded (yet).
UNDECODED = Envelope(v=0, id="?", task="?", args=msgspec.Raw(b"null"), enqueued_at=0.0)


class JobState(IntEnum):
    """How far a job has got.

        RECEIVED ──▶ STARTED ───────▶ ENDED ──▶ (settled and forgotten)
           │            └──────────────┴──▶ LOST
           └───────▶ STARTED_ACKED ──▶ ENDED_ACKED

    Up to ENDED its lease is kept: a state at or above STARTED_ACKED has none.
    """

    RECEIVED = 0  #: waits for a slot, or is examined in one
    STARTED = 1  #: its function runs
    ENDED = 2  #: it has an outcome, which is not settled yet
    STARTED_ACKED = 3  #: as STARTED, but at most once: the broker has forgotten the job, or is about to
    ENDED_ACKED = 4  #: as ENDED, of such a job
    LOST = 5  #: its lease is lost: another worker may have it, and nothing of it is recorded here


#: The members by name: on the way of each job a look-up in the enumeration costs more than the comparison.
RECEIVED, STARTED, ENDED, STARTED_ACKED, ENDED_ACKED, LOST = JobState


class Execution(msgspec.Struct, gc=False, eq=False):
    """A delivery and everything that is learnt about it. The steps fill it in, in this order.

    :param decode: reads its envelope: the codec's.
    :param received, started_at: by the event loop's clock; ``started_at`` and ``seconds`` only if an event is wanted.
    :param marker: where its starts are counted.
    :param trail: as it was sent, with the crashes that were found since.
    :param marked: how many starts were counted when the job was inspected; ``found`` is what its marker had.
    :param starts: what the marker will have when the job starts, if it is as ``expected`` until then.
    :param seconds: how long its function ran.
    :param beyond: of an envelope with a newer format: the error that says so, then what a feature makes of it; of any
        job: what a feature settles beside its outcome. A function that returns it has no result of its own.
    :param clear_at: the newest request to cancel under which the job may start; None if that is not known.
    """

    delivery: Delivery
    source: Source
    received: float
    pool: Pool | None = None
    decode: Callable[[bytes], Envelope] = decode_envelope
    state: JobState = RECEIVED
    envelope: Envelope = UNDECODED
    trail: Trail = NOTHING_YET
    task: Task[..., Any] | None = None
    arguments: Any = None
    marker: str | None = None
    marked: int = 0
    found: Starts = NO_STARTS
    starts: Starts = NO_STARTS
    expected: Expect = ABSENT
    key: Acquired | None = None
    started_at: float = 0.0
    seconds: float | None = None
    clear_at: Version | None = None
    beyond: Any = None

    @property
    def id(self) -> str:
        """The job's id; ``"?"`` if its bytes cannot be decoded."""
        return self.envelope.id if self.envelope is not UNDECODED else self._decoded.id

    @property
    def extra(self) -> dict[str, Any]:
        """For log records, as attributes."""
        envelope = self._decoded
        return {**self.labels, "correlation_id": envelope.correlation_id, "parent_id": envelope.parent_id}

    @property
    def timeout(self) -> float | None:
        """Seconds that one attempt may take: the call's own, or the task's."""
        if self.envelope.timeout is not None or self.task is None:
            return self.envelope.timeout
        return self.task.options.timeout

    @property
    def acked_early(self) -> bool:
        """Whether the broker has forgotten it already, because it may run at most once."""
        return self.state in (STARTED_ACKED, ENDED_ACKED)

    @property
    def labels(self) -> dict[str, Any]:
        """For events: which job, and which attempt at it."""
        envelope = self._decoded
        trail = self.trail
        if self.envelope is UNDECODED and envelope is not UNDECODED:
            trail = _trail_of(self.delivery)
        return {
            "job_id": envelope.id,
            "task": envelope.task,
            "queue": self.delivery.queue,
            "attempt": trail.attempts + 1,
        }

    @property
    def _decoded(self) -> Envelope:
        """The envelope, also of a job that was never performed: one that is given back or lost is named, too (C19)."""
        if self.envelope is not UNDECODED:
            return self.envelope
        try:
            return self.decode(self.delivery.envelope)
        except NewerFormat as error:
            return msgspec.structs.replace(UNDECODED, id=error.job_id, task=error.task)
        except Exception:  # noqa: BLE001 - a codec of the user's may raise anything, and performing has reported it
            return UNDECODED


def _trail_of(delivery: Delivery) -> Trail:
    try:
        return decode_trail(delivery.trail)
    except MalformedEnvelope:
        return NOTHING_YET


class Slot:
    """One of the coroutines that run jobs, one job at a time, as long as the worker lives.

    A job's code runs in a task of its own, so that what it leaves behind reaches neither the slot nor the next job.
    """

    __slots__ = ("context", "deadline", "dropped", "isolation", "job", "outcome", "scope", "scope_is_used_up", "why")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()  #: around what the worker does for a job, before and after the job's own code
        self.scope_is_used_up = False  #: it was cancelled
        self.isolation = new_isolation()  #: runs the job's own code
        self.context: Context | None = None  #: of the job whose function runs
        self.dropped: list[Any] = []  #: what that function has left open; ``aclose`` closes it
        self.job: Execution | None = None
        self.deadline: float | None = None
        self.why: Why | None = None  #: the reason for which the job is interrupted
        self.outcome: Outcome | None = None  #: what the job's code came to, in case that its task is cancelled then

    async def close_dropped(self) -> None:
        """Close what the function has left open; log what cannot be closed."""
        while self.dropped:
            left = self.dropped.pop()
            try:
                await left.aclose()
            except* GeneratorExit:  # what closes a generator comes out of a task group inside of it
                pass
            except* Exception:
                log.exception("job %s left %s open, and it cannot be closed", self.job and self.job.id, left)

    def interrupt(self, why: Why) -> None:
        """End what runs here, for this reason; the first reason counts."""
        if self.job is not None and self.why is None:
            self.why = why
            if not self.isolation.cancel():
                self.scope_is_used_up = True
                self.scope.cancel()
