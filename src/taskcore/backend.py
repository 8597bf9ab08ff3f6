"""Seam 1: queues with leases. What a broker adapter has to do, and nothing about how.

An adapter receives and returns bytes. It never looks into an envelope, never runs a task, never decides about a retry:
it gets a verdict and carries it out in its broker's own way. Every verb takes a batch, which makes it fast. Three small
protocols:

    Backend     publish · consume                     4 verbs in all: publish, receive, settle, extend
    Source      receive · settle · extend             one consumer's hold on some queues
    Admin       for people and for cancelling: counts, purge, remove, dead letters

What only some brokers can is in taskcore.toolkit.capabilities (docs/adr/0011).

Rules for every adapter:
  * No exception of a client library leaves it: only BrokerUnavailable (nothing was done) and programming errors.
  * Every call ends within a time limit of its own, whatever the broker does (C22).
  * Waiting for work never polls faster than a few times a second, and needs no new traffic to find expired leases.
  * Times are seconds from now on the *broker's* clock; a worker's clock is never compared with another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, Self, TypeAlias

import msgspec

from taskcore.lifecycle import Verdict
from taskcore.toolkit.values import PublicValue

__all__ = [
    "Admin", "Backend", "Delivery", "Duplicate", "Features", "Letter", "LetterWalk", "Outgoing", "Place", "Published",
    "QueueStats", "Refused", "Source", "Stored", "Support", "Uncertain", "VerdictRefused",
]  # fmt: skip


# ── what goes in ─────────────────────────────────────────────────────────────────────────────────


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One job on its way to the broker.

    :param delay: seconds from now, on the broker's clock, before it may be handed out (C16).
    """

    queue: str
    id: str
    envelope: bytes
    trail: bytes = b""
    delay: float = 0.0


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Durable, as far as the broker's own settings go."""


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """A job with this id is there, or was there lately; nothing was stored again."""


class Refused(msgspec.Struct, frozen=True):
    """Surely not stored, and why; ``fix`` says what to do, where that is not to wait for room."""

    why: str
    fix: str = ""


class Uncertain(msgspec.Struct, frozen=True):
    """It may or may not be stored; publishing the same id again is safe."""

    why: str


Published: TypeAlias = Stored | Duplicate | Refused | Uncertain

STORED = Stored()
DUPLICATE = Duplicate()


# ── what comes out ───────────────────────────────────────────────────────────────────────────────


class Delivery(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One job as it is handed out under a lease. A value: holding it is no right to settle it.

    :param redeliveries: how often it was handed out before without any verdict (a lease that ran out).
    :param receipt: the adapter's own; proves the lease.
    """

    queue: str
    envelope: bytes
    trail: bytes
    redeliveries: int
    receipt: Any


class VerdictRefused(Exception):
    """The broker never takes what a verdict leaves behind; nothing of its batch was changed. The text says why."""


class Source(Protocol):
    """One consumer's hold on some queues. Its verbs may be called from several tasks at once."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Receive at least one and at most ``limit`` deliveries, each leased to this source.

        Waits until there is one. Cancelling it loses nothing: deliveries taken in that moment are handed out again, at
        the latest when their leases end.

        :raises BrokerUnavailable: the broker cannot be reached.
        """
        ...

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Carry out the verdicts; returns the deliveries whose lease was lost, for which nothing was changed (C7).

        :raises BrokerUnavailable: perhaps none, some or all were carried out; settling again is safe. One of the class
            :class:`taskcore.backends.limits.NoRoom` names the deliveries that are held, for lack of room.
        :raises VerdictRefused: a job is too large to be kept with its new trail, now or ever; it can still be buried.
        """
        ...

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Start the leases anew, at full length; returns the deliveries whose lease was lost before.

        :raises BrokerUnavailable: leases are as they were.
        """
        ...


class Backend(Protocol):
    """A broker. Opened with ``async with``; between that and its end all verbs work, outside of it none."""

    @property
    def features(self) -> Features:
        """What this broker does by itself, what the adapter emulates, and what cannot be had."""
        ...

    @property
    def admin(self) -> Admin:
        """Counts, purging, removing, dead letters."""
        ...

    async def __aenter__(self) -> Self:
        """Connect, and check what is there.

        :raises BrokerUnavailable: it cannot be reached, or is not what it should be.
        """
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect; nothing durable is lost by it."""
        ...

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs; one answer for each, in order. What is answered Stored is durable when this returns (C1).

        :raises BrokerUnavailable: surely none of them was stored.
        """
        ...

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[Source]:
        """Make a source on these queues, earlier queues first; ``lease`` is in seconds.

        Leaving the context gives back nothing by itself: unsettled deliveries return when their lease ends.
        """
        ...


# ── for people ───────────────────────────────────────────────────────────────────────────────────


class QueueStats(PublicValue, frozen=True, kw_only=True):
    """How full a queue is. None says that the broker cannot tell; a 0 is a fact.

    :param leased: where the broker cannot tell, those that this connection holds; None if it holds none.
    :param oldest: the age in seconds of the oldest ready job; None if there is none, too.
    :param parked: how many of the scheduled jobs wait for a worker that knows their task, as workers told the store
        lately; None without a store. Only ``app.stats`` fills it in.
    """

    ready: int
    leased: int | None
    scheduled: int | None
    dead: int
    oldest: float | None = None
    parked: int | None = None

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended, as far as the broker can tell."""
        return self.ready + (self.leased or 0) + (self.scheduled or 0)


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as the broker keeps it: the bytes as they came, and why. ``when`` in seconds since the epoch."""

    id: str
    queue: str
    envelope: bytes
    trail: bytes
    reason: str
    when: float


Place: TypeAlias = Literal["ready", "scheduled", "leased"]


class LetterWalk(Protocol):
    """One pass over the dead letters that a queue has now; letters buried meanwhile are left to the next pass.

    It costs as much as it reads. Some brokers hide a letter from all others until the pass is left, so a caller does
    not wait inside of it; a pass that is cut by a cancellation hides none.
    """

    async def page(self, limit: int) -> Sequence[Letter]:
        """Return the next letters, roughly oldest first and at most ``limit``; none at the end."""
        ...

    async def drop(self, letters: Sequence[Letter]) -> int:
        """Forget letters of this pass; returns how many were still there."""
        ...

    async def replay(self, batch: Sequence[tuple[Letter, Outgoing]]) -> Sequence[Published]:
        """Publish jobs and drop their letters, as ``Admin.replay``; one answer for each, in order."""
        ...


class Admin(Protocol):
    """What people and cancelling need. Each call ends within a time limit of its own.

    All of them raise BrokerUnavailable if the broker cannot be reached.
    """

    async def queues(self) -> Sequence[str]:
        """List the queues that exist."""
        ...

    async def stats(self, queues: Sequence[str]) -> Sequence[QueueStats]:
        """Return how full each queue is, in order; zeros for one that does not exist. The cost grows with no count."""
        ...

    async def purge(self, queue: str) -> int:
        """Forget all ready and scheduled jobs of the queue; returns how many. Running ones and dead letters stay."""
        ...

    async def delete(self, queue: str) -> None:
        """Forget the queue itself and everything in it, dead letters included; nothing brings it back."""
        ...

    async def remove(self, queue: str, job_id: str) -> bool:
        """Forget one ready or scheduled job; True if it was there, so that it will never be handed out."""
        ...

    async def letters(self, queue: str, *, limit: int, after: str | None = None) -> Sequence[Letter]:
        """Return a page of dead letters, oldest first: behind ``after``, a letter's id that may be gone by now."""
        ...

    def walk(self, queue: str) -> AbstractAsyncContextManager[LetterWalk]:
        """Begin a pass over the dead letters of a queue."""
        ...

    async def locate(self, queue: str, job_id: str) -> Place | None:
        """Find where a job is now; None if it is in none of these places (ended, unknown), or the broker cannot say."""
        ...

    async def letter(self, letter_id: str) -> Letter | None:
        """Return one dead letter."""
        ...

    async def replay(self, letter_id: str, job: Outgoing) -> Published:
        """Publish the job and drop the letter; in one step where the broker can, else in this order."""
        ...

    async def drop(self, letter_id: str) -> bool:
        """Forget a dead letter; False if there is none of that id."""
        ...


# ── what a broker can do, as data ────────────────────────────────────────────────────────────────

Support: TypeAlias = Literal["native", "emulated", "absent"]


class Features(PublicValue, frozen=True, kw_only=True):
    """What differs from broker to broker. Every field appears in the docs' table and switches checks of the suite.

    :param durability: what an answered job survives, in one sentence.
    :param survives_worker: jobs outlive the worker process that holds them (C1).
    :param survives_broker: jobs outlive a killed and restarted broker process.
    :param delay: handing out later (C16); ``delay_error`` is the δ of C16 and C17 in seconds.
    :param dedup: publishing an id again is noticed, for ``dedup_window`` seconds after the job's end (C2).
    :param fencing: settling under a lost lease changes nothing (C7).
    :param redeliveries: the broker counts hand-outs without a verdict (C5, C12). Absent: a delivery says only whether
        there was one, so crashes are counted with a store's help, and without a key two holders may have one fence.
    :param remove: a waiting job can be taken back, so that cancelling needs no look-up before each start (C14).
    :param locate: a job's place can be looked up by its id.
    :param counts: every job of a queue is counted, wherever it is, and purged. Absent: ready and dead ones only; held
        ones are told as far as this connection holds them, scheduled ones and ages not at all.
    :param dead_letters: dead letters can be read one by one, replayed and dropped (C13).
    :param atomic_retry: the retry copy and the end of the old one are one step.
    :param pushes: the broker sends jobs to a source before they are asked for. A job may then count as handed out
        although no caller got it, and a poisonous one may be given up one start early (C12).
    :param peek: jobs that wait can be looked at without taking them: its admin is one that ``Peeks``.
    :param new_queue: seconds for which the first job of a new queue waits, until the queue itself is durable.
    """

    broker: str
    durability: str
    survives_worker: bool
    survives_broker: bool
    delay: Support
    delay_error: float
    dedup: Support
    dedup_window: float
    fencing: Support
    redeliveries: Support
    remove: Support
    locate: Support
    dead_letters: Support
    atomic_retry: bool
    counts: Support = "native"
    peek: Support = "absent"
    pushes: bool = False
    new_queue: float = 0.0
