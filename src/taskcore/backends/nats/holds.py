"""Holds: what proves a lease. Our own clock judges it, and ends it before the server does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskcore.backend import Delivery
from taskcore.backends.nats.packing import unpack

if TYPE_CHECKING:
    from taskcore.backends.nats.shelves import Shelf

__all__ = ["Arrival", "Hold", "deliver", "guard_of"]


def guard_of(lease: float) -> float:
    """Seconds that the server's lease is longer than ours: a verdict on its way is not overtaken by its end."""
    return min(max(lease / 8, 0.1), 2.0)


class Arrival:
    """One delivery as it came: not looked at any closer than needed."""

    __slots__ = ("body", "handed", "headers", "number", "reply", "shelf", "subject", "until")

    def __init__(self, shelf: Shelf, subject: bytes, reply: bytes, body: bytes, headers: bytes, until: float) -> None:
        self.shelf = shelf
        self.subject = subject
        self.reply = reply
        self.body = body
        self.headers = headers
        self.until = until
        tokens = reply.split(b".")
        first = 4 if len(tokens) == 9 else 6  # $JS.ACK.[domain.account.]stream.consumer.handed.number.…  # noqa: PLR2004
        self.handed = int(tokens[first])
        self.number = int(tokens[first + 1])


class Hold:
    """A lease on one job.

    :param number: the job's number in its stream; each copy has a new one.
    :param until: when it is over by our own clock.
    :param stored: nanoseconds since the epoch at which this copy was stored, by the server's clock.
    :param over: settled, or known to be lost.
    """

    __slots__ = ("base", "generation", "handed", "number", "over", "reply", "shelf", "subject", "until", "written")

    def __init__(self, arrival: Arrival, base: int) -> None:
        self.shelf = arrival.shelf
        self.generation = arrival.shelf.generation
        self.subject = arrival.subject
        self.reply = arrival.reply
        self.number = arrival.number
        self.handed = arrival.handed
        self.base = base
        self.until = arrival.until
        self.written = False
        self.over = False

    @property
    def token(self) -> str:
        """The job's own token, the last of its subject."""
        return self.subject.rpartition(b".")[2].decode("utf-8", "surrogateescape")

    @property
    def redeliveries(self) -> int:
        """How often the job was handed out before without a verdict."""
        return self.base + self.handed - 1

    @property
    def void(self) -> bool:
        """Whether the consumer that leased it is gone."""
        return self.generation != self.shelf.generation


def deliver(arrival: Arrival) -> Delivery:
    """What is handed out."""
    packed = unpack(arrival.body, arrival.headers) if arrival.headers else None
    if packed is None:
        hold = Hold(arrival, 0)
        return Delivery(arrival.shelf.names.queue, arrival.body, b"", hold.handed - 1, hold)
    hold = Hold(arrival, packed.handed)
    return Delivery(arrival.shelf.names.queue, packed.envelope, packed.trail, hold.redeliveries, hold)
