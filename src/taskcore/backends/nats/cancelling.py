"""Withdrawing: taking a waiting job back while somebody may be taking it.

JetStream can delete a job, but does not say whether it was handed out a moment before. Whoever deletes one and cannot
be sure tells all workers of the queue its number. A worker that has it in hand says so. One that has it only waiting
drops it, and one to which it is still on its way drops it when it comes: it does not exist any more. The one that has
it in hand stores it again if it is to be retried or given back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskcore.connections.nats import Message, NatsLink, encode_message

if TYPE_CHECKING:
    from taskcore.backends.nats.consumer import PullConsumer

__all__ = ["ASKING", "CancelListener", "is_held"]

ASKING = 0.3  #: seconds in which a worker that has the job says so
REMEMBERED = 10_000  #: numbers that a worker remembers


class CancelListener:
    """A worker's subscription for withdrawals of one queue."""

    def __init__(self, link: NatsLink, consumer: PullConsumer) -> None:
        self._link = link
        self._consumer = consumer
        self._subscription = link.subscribe(consumer.stream.names.withdrawn.encode(), self._take)

    def close(self) -> None:
        """Hear no more."""
        self._link.discard(self._subscription)

    def _take(self, _: bytes, reply: bytes, body: bytes, __: bytes) -> None:
        if not body.isdigit():
            return
        number = int(body)
        for arrival in self._consumer.waiting:
            if arrival.number == number:
                self._consumer.waiting.remove(arrival)
                return
        self._consumer.withdrawn[number] = (
            None  # before the answer: a timer that receipts it moves it no more from now on
        )
        if number in self._consumer.recent:
            self._consumer.stream.deleted.append(number)
            self._link.send_now(encode_message(Message(reply, b"held")))
        if len(self._consumer.withdrawn) > REMEMBERED:
            self._consumer.withdrawn.popitem(last=False)


async def is_held(link: NatsLink, subject: str, number: int) -> bool:
    """Tell all workers that this job was deleted; True if one of them has it in hand."""
    held = asyncio.Event()
    inbox = link.new_inbox()

    def heard(_: bytes, __: bytes, body: bytes, ___: bytes) -> None:
        if body == b"held":
            held.set()

    subscription = link.subscribe(inbox, heard)
    try:
        await link.send(encode_message(Message(subject.encode(), b"%d" % number), inbox))
        try:
            async with asyncio.timeout(ASKING):
                await held.wait()
        except TimeoutError:
            return False
        return True
    finally:
        link.discard(subscription)
