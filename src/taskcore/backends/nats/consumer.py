"""PullConsumer: our own loop over JetStream's pull requests, for one queue of one source; and what it receives.

Requests overlap: while one is being answered the next is on its way, and together they never ask for more than the
source was asked for. Their answers come to one subject of ours: jobs, which have a reply subject of JetStream, and
status lines, which have none. (A job may carry any headers, ``Status: 404`` too; that makes it no status line.)

    404 · 408    the request is over; 408 says how much of it was left
    409          the request is over: consumer deleted, leader changed, server going down, too many requests
    503          no server listens: the consumer is gone, or its leader is
    100          a sign of life, every few seconds
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count
from typing import Final

from taskcore.backend import Delivery
from taskcore.backends.nats.layout import NANO, QueueStream
from taskcore.backends.nats.messages import number_at, travels, unpack
from taskcore.connections.nats import Message, NatsLink, Subscription, encode_message
from taskcore.toolkit.logging import logger

__all__ = ["SIGN_OF_LIFE", "CancelListener", "PullConsumer", "Receipt", "guard_of"]

log = logger("taskcore.backends.nats")

REQUEST_TIME: Final = 30.0  #: seconds for which a request waits at the server
SIGN_OF_LIFE: Final = 2.0  #: seconds between two signs of life from a request that waits
SILENCE: Final = 3 * SIGN_OF_LIFE  #: seconds without any, after which it is given up
RECENT_LIMIT: Final = 50_000  #: jobs that a consumer remembers
CANCELLED_LIMIT: Final = 10_000  #: cancelled jobs that it remembers
_PENDING = b"Nats-Pending-Messages"


def guard_of(lease: float) -> float:
    """Return the seconds that the server's lease is longer than ours: its end does not overtake a verdict."""
    return min(max(lease / 8, 0.1), 2.0)


class Receipt:
    """Proves the lease on one job; our own clock judges it, and ends it before the server does.

    :param until: the end of the lease by our own clock.

    Beside what came: ``number`` is the job's in its stream, each copy has a new one; ``handed`` counts how often the
    server handed it out; ``base`` how often it did so with copies before this one; ``over`` says that the job is
    settled, or known to be lost.
    """

    __slots__ = (
        "base", "body", "generation", "handed", "headers", "number", "over", "reply", "stream", "subject", "until",
    )  # fmt: skip

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
        self.base = 0
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
        """Return the delivery of this receipt."""
        body = self.body
        if not travels(self.headers):
            return Delivery(self.stream.names.queue, body, b"", self.handed - 1, self)
        packed = unpack(body, self.headers)
        self.base = packed.handed
        return Delivery(self.stream.names.queue, packed.envelope, packed.trail, self.redeliveries, self)


class PullConsumer:
    """Receives the jobs of one queue.

    :param arrived: called when there is news: a job, the end of a request, trouble.
    :param lease: seconds, from the arrival.
    :param greeting: told to the server about each arrival, if its own lease is not the wanted one.
    """

    def __init__(
        self,
        link: NatsLink,
        stream: QueueStream,
        *,
        consumer: str,
        arrived: Callable[[], None],
        lease: float,
        greeting: bytes | None = None,
    ) -> None:
        self.stream = stream
        self.waiting: deque[Receipt] = deque()
        self.asked = 0  #: jobs that may still come
        self.probing = False  #: a request that does not wait is on its way
        self.absent = False  #: the server says that there is no consumer
        self.crowded = False  #: or that too many requests wait
        self.recent: deque[int] = deque(maxlen=RECENT_LIMIT)  #: numbers of the jobs that came
        self.cancelled: OrderedDict[int, None] = OrderedDict()  #: numbers of jobs that were taken back
        self._link = link
        self._arrived = arrived
        self._lease = lease
        self._greeting = greeting
        self._subject = f"{link.address.api}CONSUMER.MSG.NEXT.{stream.names.stream}.{consumer}".encode()
        self._subscription: Subscription | None = None
        self._inbox = b""
        self._requests = count(1)
        self._probe = b""
        self._last_sign = 0.0
        self._clock = asyncio.get_running_loop().time
        link.on_lost.append(self._lost)

    @property
    def silent(self) -> bool:
        """Whether a request should have shown signs of life, and has not."""
        return self.asked > 0 and self._clock() - self._last_sign > SILENCE

    @property
    def busy(self) -> bool:
        """Whether jobs have come, or may still come."""
        return bool(self.asked or self.waiting)

    def pull(self, number: int, *, wait: bool) -> bool:
        """Ask for so many more jobs; False if there is no connection.

        :param wait: let the server wait until there are some; else it says at once that there are none.
        """
        if self._subscription is None:
            self._inbox = self._link.new_inbox()
            self._subscription = self._link.subscribe(self._inbox + b".*", self._take)
        request = b"%b.%x" % (self._inbox, next(self._requests))
        if wait:
            body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (number, REQUEST_TIME * NANO, SIGN_OF_LIFE * NANO)
        else:
            body = b'{"batch":%d,"no_wait":true}' % number
        if not self._link.send_now(encode_message(Message(self._subject, body), request)):
            return False
        if not wait:
            self.probing = True
            self._probe = request
        if not self.asked:
            self._last_sign = self._clock()
        self.asked += number
        return True

    def rest(self) -> None:
        """Withdraw the requests. What is on its way already still arrives."""
        self.asked = 0
        self.probing = False
        if self._subscription is not None:
            self._link.unsubscribe(self._subscription)
            subscription, self._subscription = self._subscription, None
            asyncio.get_running_loop().call_later(SILENCE, self._link.discard, subscription)

    def close(self) -> None:
        """Let nothing come any more."""
        self.asked = 0
        if self._subscription is not None:
            self._link.discard(self._subscription)
            self._subscription = None
        if self._lost in self._link.on_lost:
            self._link.on_lost.remove(self._lost)

    def _lost(self) -> None:
        """Forget the requests, which went with the connection; jobs that came stay ours as long as their leases."""
        self.asked = 0
        self.probing = False
        self._arrived()

    def _take(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        now = self._clock()
        self._last_sign = now
        if not reply.startswith(b"$JS.ACK."):
            self._take_status(subject, headers)
            return
        if self.asked:
            self.asked -= 1
            if not self.asked:
                self.probing = False
        if self._greeting is not None:
            self._link.send_now(encode_message(Message(reply, self._greeting)))
        arrival = Receipt(self.stream, subject, reply, body, headers, now + self._lease)
        if arrival.number in self.cancelled:
            return
        self.recent.append(arrival.number)
        self.waiting.append(arrival)
        self._arrived()

    def _take_status(self, subject: bytes, headers: bytes) -> None:
        status = headers[9:12]
        if status == b"100":
            return
        if status == b"503" or (status == b"409" and b"onsumer" in headers and b"eleted" in headers):
            self.absent = True
            self.asked = 0
        elif status == b"409" and b"MaxWaiting" in headers:
            self.crowded = True
            self.asked = 0
        elif _PENDING in headers:
            self.asked = max(self.asked - number_at(headers, _PENDING), 0)
        else:
            self.asked = 0
        if subject == self._probe or not self.asked:
            self.probing = False
        self._arrived()


class CancelListener:
    """Hears that callers take waiting jobs of a queue back, and says which of them its consumer has handed out.

    A job that only waits is dropped, and one that is still on its way is dropped when it comes: it does not exist any
    more. A worker that has handed it out stores it again if it is to be retried or given back.
    """

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
        number, consumer = int(body), self._consumer
        for arrival in consumer.waiting:
            if arrival.number == number:
                consumer.waiting.remove(arrival)
                return
        consumer.cancelled[number] = None  # before the answer: a timer that holds the job moves it no more from now on
        if number in consumer.recent:
            consumer.stream.deleted.append(number)
            self._link.send_now(encode_message(Message(reply, b"held")))
        if len(consumer.cancelled) > CANCELLED_LIMIT:
            consumer.cancelled.popitem(last=False)
