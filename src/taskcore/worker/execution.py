"""What a worker has in hand: a delivery from the moment it was received until it is settled."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import msgspec

from taskcore.backend import Delivery, Source
from taskcore.envelope import NOTHING_YET, Envelope, Trail, decode_envelope
from taskcore.errors import MalformedEnvelope
from taskcore.records.keys import Acquired
from taskcore.task import Task
from taskcore.worker.pools import Pool

__all__ = ["Execution", "Slot"]

Why = Literal["timeout", "lost", "shutdown"]

#: Stands where an envelope could not be read (yet).
UNDECODED = Envelope(v=0, id="?", task="?", args=msgspec.Raw(b"null"), enqueued_at=0.0)


class Execution(msgspec.Struct, gc=False, eq=False):
    """A delivery and everything that was learnt about it. Steps fill it in, in this order."""

    delivery: Delivery
    source: Source
    received: float
    pool: Pool | None = None
    envelope: Envelope = UNDECODED
    trail: Trail = NOTHING_YET
    task: Task[..., Any] | None = None
    arguments: Any = None
    marker: str | None = None
    crashes: int = 0
    first_lost: bool = False
    key: Acquired | None = None
    alone: bool = False
    started: bool = False
    finished: bool = False
    lost: bool = False
    acked_early: bool = False

    @property
    def id(self) -> str:
        """The job's id; ``"?"`` if its bytes cannot be read."""
        return self.envelope.id if self.envelope is not UNDECODED else self._name.id

    @property
    def history(self) -> Trail:
        """The trail, with what was found out about crashes since it was written."""
        if self.crashes == self.trail.crashes and self.first_lost == self.trail.first_lost:
            return self.trail
        return msgspec.structs.replace(self.trail, crashes=self.crashes, first_lost=self.first_lost)

    @property
    def labels(self) -> dict[str, Any]:
        """For events."""
        envelope = self.envelope if self.envelope is not UNDECODED else self._name
        return {"job_id": envelope.id, "task": envelope.task, "queue": self.delivery.queue}

    @property
    def _name(self) -> Envelope:
        """The envelope of a job that was never performed: whoever gives it back or loses it says which it was (C19)."""
        try:
            return decode_envelope(self.delivery.envelope)
        except MalformedEnvelope:
            return UNDECODED


class Slot:
    """One of the coroutines that run jobs, one job at a time, as long as the worker lives."""

    __slots__ = ("deadline", "job", "scope", "wake", "why")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.job: Execution | None = None
        self.wake: anyio.Event | None = None
        self.deadline: float | None = None
        self.why: Why | None = None

    def interrupt(self, why: Why) -> None:
        """End what runs here, for this reason; the first reason counts."""
        if self.job is not None and self.why is None:
            self.why = why
            self.scope.cancel()
