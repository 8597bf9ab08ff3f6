"""Holds: what proves a lease. Our own clock judges it, and ends it before the server does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskcore.backend import Delivery
from taskcore.backends.nats.messages import travels, unpack

if TYPE_CHECKING:
    from taskcore.backends.nats.layout import QueueStream

__all__ = ["Receipt", "guard_of"]


def guard_of(lease: float) -> float:
    """Seconds that the server's lease is longer than ours: a verdict on its way is not overtaken by its end."""
    return min(max(lease / 8, 0.1), 2.0)


class Receipt:
    """A lease on one job, from the moment in which it came.

    :param until: when it is over by our own clock.

    Beside what came: ``number`` is the job's in its stream, each copy has a new one; ``handed`` counts how often the
    server handed it out; ``over`` says that it is settled, or known to be lost.
    """

    __slots__ = (
        "base",
        "body",
        "generation",
        "handed",
        "headers",
        "number",
        "over",
        "reply",
        "stream",
        "subject",
        "until",
        "written",
    )

    def __init__(
        self, stream: QueueStream, subject: bytes, reply: bytes, body: bytes, headers: bytes, until: float
    ) -> None:
        self.stream = stream
        self.generation = stream.generation
        self.subject = subject
        self.reply = reply
        self.body = body
        self.headers = headers
        self.until = until
        tokens = reply.split(b".")
        first = 4 if len(tokens) == 9 else 6  # $JS.ACK.[domain.account.]stream.consumer.handed.number.…  # noqa: PLR2004
        self.handed = int(tokens[first])
        self.number = int(tokens[first + 1])
        self.base = 0  # how often copies before this one were handed out
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
        return self.generation != self.stream.generation

    def deliver(self) -> Delivery:
        """What is handed out."""
        body = self.body
        if not travels(self.headers):
            return Delivery(self.stream.names.queue, body, b"", self.handed - 1, self)
        packed = unpack(body, self.headers)
        self.base = packed.handed
        return Delivery(self.stream.names.queue, packed.envelope, packed.trail, self.redeliveries, self)
