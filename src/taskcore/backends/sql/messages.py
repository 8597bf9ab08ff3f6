"""What both databases share: proofs of leases, verdicts as columns, ids of letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, assert_never

from taskcore.backend import DUPLICATE, STORED, Delivery, Outgoing, Published
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict

__all__ = [
    "ACKED", "ACK_EFFECT", "BURIED", "DEDUP_WINDOW", "LONGEST_DELAY", "RELEASED", "RETRIED", "TOO_LARGE", "Effect",
    "Receipt", "answers_of", "effect_of", "letter_number", "read_ticket", "row_number", "ticket_of",
]  # fmt: skip

TOO_LARGE: Final = "SQLite refuses the job: a value is too large"
DEDUP_WINDOW: Final = 60.0  #: seconds for which the id of an ended job is remembered
LONGEST_DELAY: Final = 200 * 365.25 * 86_400.0  #: seconds; the calendar of a database ends somewhere
LARGEST_NUMBER: Final = 2**63  #: no number of a row reaches it

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


def effect_of(verdict: Verdict) -> Effect:
    """Return what a statement has to do."""
    match verdict:
        case Ack():
            return ACK_EFFECT
        case Reschedule(after=after, trail=trail):
            return Effect(RETRIED, min(max(after, 0.0), LONGEST_DELAY), trail)
        case Release():
            return Effect(RELEASED)
        case Bury(reason=reason, trail=trail):
            return Effect(BURIED, 0.0, trail, reason)
        case _:
            assert_never(verdict)


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


def ticket_of(delivery: Delivery) -> bytes:
    """Return what an extender needs to know of a lease."""
    receipt: Receipt = delivery.receipt
    return f"{receipt.token} {receipt.job}".encode()


def read_ticket(ticket: bytes) -> Receipt:
    """Return the lease that a ticket names."""
    token, _, job = ticket.decode().partition(" ")
    return Receipt(job, int(token))
