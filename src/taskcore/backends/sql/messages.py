"""What both databases share: proofs of leases, verdicts as columns, ids of letters."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

from taskcore.backend import (
    DUPLICATE,
    STORED,
    Delivery,
    Features,
    Letter,
    Outgoing,
    Place,
    Published,
    QueueStats,
    Refused,
    VerdictRefused,
)
from taskcore.backends.limits import too_large
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict

__all__ = [
    "ACKED", "ACK_EFFECT", "BATCH_JOBS", "BURIED", "DEDUP_WINDOW", "FEATURES", "LONGEST_DELAY", "PLACE_NAMES",
    "RELEASED", "RETRIED", "Effect", "KnownCounts", "Receipt", "TicketedSource", "answers_of", "effect_of",
    "letter_number", "letter_of", "publish_parts", "read_ticket", "row_number", "stats_of",
]  # fmt: skip

BATCH_JOBS: Final = 1_000  #: jobs in one transaction
BATCH_BYTES: Final = 16 * 1024 * 1024  #: bytes of new jobs in one transaction
DEDUP_WINDOW: Final = 60.0  #: seconds for which the id of an ended job is remembered
LONGEST_DELAY: Final = 200 * 365.25 * 86_400.0  #: seconds; the calendar of a database ends somewhere
LONG_QUEUE: Final = 20_000  #: jobs and dead letters, above which a count is remembered: for so many times …
COUNT_SHARE: Final = 20.0  #: … as long as it took
LARGEST_JOB: Final = 256 * 1024 * 1024  #: bytes; both databases copy a value a few times, and end at a gigabyte
LARGEST_NUMBER: Final = 2**63  #: no number of a row reaches it

#: Publishes some jobs in one transaction.
Publish: TypeAlias = Callable[[Sequence[Outgoing]], Awaitable[Sequence[Published]]]

#: What every database can do with our tables.
FEATURES: Final = partial(
    Features,
    survives_worker=True,
    survives_broker=True,
    delay="native",
    dedup="native",
    dedup_window=DEDUP_WINDOW,
    fencing="native",
    redeliveries="native",
    remove="native",
    locate="native",
    dead_letters="native",
    atomic_retry=True,
    peek="native",
)
PLACE_NAMES: Final[Mapping[str, Place]] = {"ready": "ready", "scheduled": "scheduled", "leased": "leased"}

#: The kinds of verdicts, as the statements take them.
ACKED, RELEASED, RETRIED, BURIED = range(4)


class Receipt(NamedTuple):
    """The proof of a lease: the job's id, and the token of the statement that leased it."""

    job: str
    token: int


class Effect(NamedTuple):
    """A verdict as the statements take it."""

    kind: int
    after: float = 0.0
    trail: bytes = b""
    reason: str = ""

    @property
    def returns(self) -> bool:
        """Whether the job is handed out again."""
        return self.kind in {RELEASED, RETRIED}


ACK_EFFECT: Final = Effect(ACKED)


def effect_of(delivery: Delivery, verdict: Verdict) -> Effect:
    """Return what a statement has to do.

    :raises VerdictRefused: the job would be too large with its new trail.
    """
    match verdict:
        case Ack():
            return ACK_EFFECT
        case Reschedule(after=after, trail=trail):
            size = len(delivery.envelope) + len(trail)
            if size > LARGEST_JOB:
                raise VerdictRefused(f"with its errors it has {size:,} bytes, and this broker takes {LARGEST_JOB:,}")
            return Effect(RETRIED, min(max(after, 0.0), LONGEST_DELAY), trail)
        case Release():
            return Effect(RELEASED)
        case Bury(reason=reason, trail=trail):
            return Effect(BURIED, 0.0, trail, _plain(reason))
        case _:
            assert_never(verdict)


def _plain(text: str) -> str:
    """Return the text without what a database does not take."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\\0")


async def publish_parts(batch: Sequence[Outgoing], publish: Publish) -> list[Published]:
    """Publish jobs, some in each transaction; refuse those that are too large.

    :raises BrokerUnavailable: surely none of them was stored.
    """
    answers: list[Published] = []
    for part in _parts(batch):
        size = _size(part[0])
        if size > LARGEST_JOB:  # which is alone in its part
            answers.append(too_large(size, LARGEST_JOB))
            continue
        try:
            answers += await publish(part)
        except BrokerUnavailable as error:
            if not answers:
                raise
            answers += [Refused(error.what)] * len(part)
    return answers


def _parts(batch: Sequence[Outgoing]) -> list[Sequence[Outgoing]]:
    if len(batch) <= BATCH_JOBS and sum(map(_size, batch)) <= BATCH_BYTES:
        return [batch] if batch else []
    parts: list[list[Outgoing]] = [[]]
    size = 0
    for job in batch:
        size += _size(job)
        if parts[-1] and (len(parts[-1]) >= BATCH_JOBS or size > BATCH_BYTES):
            parts.append([])
            size = _size(job)
        parts[-1].append(job)
    return [*parts]


def _size(job: Outgoing) -> int:
    return len(job.envelope) + len(job.trail)


def answers_of(batch: Sequence[Outgoing], stored: set[str]) -> list[Published]:
    """Answer each job of a batch; of an id that comes twice, the first one was stored.

    :param stored: the ids of the rows that were written; it is emptied.
    """
    answers: list[Published] = []
    for job in batch:
        answers.append(STORED if job.id in stored else DUPLICATE)
        stored.discard(job.id)
    return answers


def letter_number(letter_id: str | None) -> int | None:
    """Return the row of a letter; None if this cannot be the id of one of ours."""
    if letter_id is None or not (letter_id.isascii() and letter_id.isdigit()):
        return None
    number = int(letter_id)
    return number if number < LARGEST_NUMBER else None


def row_number(letter_id: str) -> int:
    """Return the row of a letter of ours, by which letters are in order; zero for other ids."""
    return letter_number(letter_id) or 0


def letter_of(row: Sequence[Any]) -> Letter:
    """Make a dead letter of its row."""
    number, queue, envelope, trail, reason, when = row
    return Letter(id=str(number), queue=queue, envelope=envelope, trail=trail, reason=reason, when=when)


def stats_of(row: Sequence[Any]) -> QueueStats:
    """Make the counts of a queue."""
    ready, leased, scheduled, dead, oldest = row
    age = None if oldest is None else max(oldest, 0.0)
    return QueueStats(ready=ready, leased=leased, scheduled=scheduled, dead=dead, oldest=age)


class KnownCounts:
    """The counts of long queues: jobs are counted one by one, for a small share of the time at most."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[QueueStats, float]] = {}

    async def of(self, queue: str, count: Callable[[str], Awaitable[QueueStats]]) -> QueueStats:
        """Return how full a queue is: what was counted last, if it was long and that was not long ago."""
        found, until = self._known.get(queue, (None, 0.0))
        began = time.monotonic()
        if found is not None and began < until:
            return found
        found = await count(queue)
        self.forget(queue)
        if found.unfinished + (found.dead or 0) > LONG_QUEUE:
            now = time.monotonic()
            self._known[queue] = (found, now + (now - began) * COUNT_SHARE)
        return found

    def forget(self, queue: str) -> None:
        """Count the queue anew the next time."""
        self._known.pop(queue, None)


class TicketedSource:
    """A source whose leases another thread, or another process, can extend; the database alone knows when they end."""

    def ticket(self, delivery: Delivery) -> bytes:
        """Return what an extender needs to know of this lease."""
        receipt: Receipt = delivery.receipt
        return f"{receipt.token} {receipt.job}".encode()

    def extended(self, batch: Sequence[Delivery], at: float) -> None:
        """Do nothing."""

    def stood_still(self, seconds: float) -> None:
        """Do nothing: after each claim that took long its source extends the leases itself."""


def read_ticket(ticket: bytes) -> Receipt:
    """Return the lease that a ticket names."""
    token, _, job = ticket.decode().partition(" ")
    return Receipt(job, int(token))
