"""Pulling: our own loop over JetStream's pull requests, for one queue of one source.

Requests overlap: while one is being answered the next is on its way, and together they never ask for more than the
source was asked for. Their answers come to one subject of ours: jobs, which have a reply subject of JetStream, and
status lines, which have none. (A job may carry any headers, ``Status: 404`` too; that makes it no status line.)

    404 · 408    the request is over; 408 says how much of it was left
    409          the request is over: consumer deleted, leader changed, server going down, too many requests
    503          nobody listens: the consumer is gone, or its leader is
    100          a sign of life, every few seconds
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count

from taskcore.backends.nats.layout import NANO, QueueStream
from taskcore.backends.nats.messages import number_at
from taskcore.backends.nats.receipts import Receipt
from taskcore.connections.nats import Message, NatsLink, Subscription, encode_message
from taskcore.toolkit.logging import logger

__all__ = ["PullConsumer"]

log = logger("taskcore.backends.nats")

PATIENCE = 30.0  #: seconds for which a request waits at the server
SIGN_OF_LIFE = 2.0  #: seconds between two signs of life from a request that waits
SILENCE = 3 * SIGN_OF_LIFE  #: seconds without any, after which it is given up
RECENT = 50_000  #: jobs that a consumer remembers
_PENDING = b"Nats-Pending-Messages"


class PullConsumer:
    """Where the jobs of one queue come out.

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
        self.crowded = False  #: or that too many wait
        self.recent: deque[int] = deque(maxlen=RECENT)  #: numbers of the jobs that came
        self.withdrawn: OrderedDict[int, None] = OrderedDict()  #: numbers of jobs that were taken back
        self._link = link
        self._arrived = arrived
        self._lease = lease
        self._greeting = greeting
        self._subject = f"{link.address.api}CONSUMER.MSG.NEXT.{stream.names.stream}.{consumer}".encode()
        self._subscription: Subscription | None = None
        self._inbox = b""
        self._requests = count(1)
        self._probe = b""
        self._signs = 0.0
        self._clock = asyncio.get_running_loop().time
        link.on_lost.append(self._lost)

    @property
    def silent(self) -> bool:
        """Whether a request should have shown signs of life, and has not."""
        return self.asked > 0 and self._clock() - self._signs > SILENCE

    @property
    def busy(self) -> bool:
        """Whether jobs have come, or may still come."""
        return bool(self.asked or self.waiting)

    def pull(self, number: int, *, wait: bool) -> bool:
        """Ask for so many more jobs; False if there is no connection.

        :param wait: let the server wait until there are some; else it says at once that there are none.
        """
        subscription = self._subscription
        if subscription is None:
            self._inbox = self._link.new_inbox()
            subscription = self._subscription = self._link.subscribe(self._inbox + b".*", self._take)
        request = b"%b.%x" % (self._inbox, next(self._requests))
        if wait:
            body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (number, PATIENCE * NANO, SIGN_OF_LIFE * NANO)
        else:
            body = b'{"batch":%d,"no_wait":true}' % number
        if not self._link.send_now(encode_message(Message(self._subject, body), request)):
            return False
        if not wait:
            self.probing = True
            self._probe = request
        if not self.asked:
            self._signs = self._clock()
        self.asked += number
        return True

    def rest(self) -> None:
        """Withdraw what was asked for. What is on its way already still arrives."""
        self.asked = 0
        self.probing = False
        if self._subscription is not None:
            self._link.unsubscribe(self._subscription)
            subscription, self._subscription = self._subscription, None
            asyncio.get_running_loop().call_later(SILENCE, self._link.discard, subscription)

    def close(self) -> None:
        """Nothing may come any more."""
        self.asked = 0
        if self._subscription is not None:
            self._link.discard(self._subscription)
            self._subscription = None
        if self._lost in self._link.on_lost:
            self._link.on_lost.remove(self._lost)

    def _lost(self) -> None:
        """With the connection went all requests; what has arrived is ours as long as its lease."""
        self.asked = 0
        self.probing = False
        self._arrived()

    def _take(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        now = self._clock()
        self._signs = now
        if not reply.startswith(b"$JS.ACK."):
            self._status(subject, headers)
            return
        if self.asked:
            self.asked -= 1
            if not self.asked:
                self.probing = False
        if self._greeting is not None:
            self._link.send_now(encode_message(Message(reply, self._greeting)))
        arrival = Receipt(self.stream, subject, reply, body, headers, now + self._lease)
        if arrival.number in self.withdrawn:
            return
        self.recent.append(arrival.number)
        self.waiting.append(arrival)
        self._arrived()

    def _status(self, subject: bytes, headers: bytes) -> None:
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
