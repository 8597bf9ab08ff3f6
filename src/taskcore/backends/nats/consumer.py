"""PullConsumer: our own loop over JetStream's pull requests, for one queue of one source; and what it receives.

Requests overlap: while one is being answered the next is on its way, and together they never ask for more than the
source was asked for. Their answers come to one subject of ours: jobs, which have a reply subject of JetStream, and
status lines, which have none. (A job may carry any headers, ``Status: 404`` too; that makes it no status line.)

    404 · 408    the request is over; 408 says how much of it was left
    409          the request is over: consumer deleted, leader changed, server going down, too many requests
    503          no server listens: the consumer is gone, or its leader is
    100          a sign of life, every few seconds

A connection may be dead without a sign: a firewall forgets it, and the server still writes to it. A job for a request
that waits there comes again only when its lease ends. So an idle consumer asks for notice instead: its request has room
for one byte, which is less than any job. When there is a job, the server answers with 409, and keeps the job.

It also hears that callers take waiting jobs of its queue back. A job that only waits is dropped, and one that is still
on its way is dropped when it comes: it does not exist any more. A worker that has handed it out says so, and stores it
again if it is to be retried or given back.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Final, NamedTuple

import msgspec

from taskcore.backend import Delivery
from taskcore.backends.nats.layout import NANO, QueueStream
from taskcore.backends.nats.messages import travels, unpack
from taskcore.connections.nats import Message, NatsLink, Subscription, encode_message, number_of

__all__ = ["SIGN_OF_LIFE", "Pace", "PullConsumer", "Receipt", "guard_of", "hand_out_in", "pace_of"]

NOTICE_TIME: Final = 30.0  #: seconds for which a request for notice waits at the server, at least …
SIGNS_PER_REQUEST: Final = 10  #: … and as long as so many signs of life take
REQUEST_TIME: Final = 1.0  #: seconds for which one for jobs does: so long, a job may go to a dead connection
ACTIVE_FOR: Final = REQUEST_TIME  #: seconds after a job or a notice, in which requests wait for jobs themselves
SIGN_OF_LIFE: Final = 2.0  #: seconds between two signs of life from a request that waits, at least …
SIGN_PER_QUEUE: Final = 0.06  #: … and for each queue of the source
LATE_HEARTBEAT: Final = 4.0  #: seconds that a sign of life may be late; and for which withdrawn jobs may still come
RECENT_LIMIT: Final = 50_000  #: jobs that a consumer remembers
CANCELLED_LIMIT: Final = 10_000  #: cancelled jobs that it remembers
_PENDING = b"Nats-Pending-Messages"


class Pace(NamedTuple):
    """How often the requests at one queue are renewed, in seconds. Many queues have to share what an idle worker costs.

    :param request: for which a request waits at the server.
    :param sign: between two signs of life from it.
    """

    request: float
    sign: float

    @property
    def silence(self) -> float:
        """Without any sign of life, after which a request is given up."""
        return self.sign + LATE_HEARTBEAT


def pace_of(queues: int) -> Pace:
    """Return a pace for one of so many queues, a little different each time: not all are to be renewed at once."""
    sign = max(SIGN_OF_LIFE, SIGN_PER_QUEUE * queues * random.uniform(0.7, 1.0))
    return Pace(max(NOTICE_TIME, SIGNS_PER_REQUEST * sign), sign)


def guard_of(lease: float) -> float:
    """Return the seconds that the server's lease is longer than ours: its end does not overtake a verdict."""
    return min(max(lease / 8, 0.1), 2.0)


def hand_out_in(seconds: float) -> bytes:
    """Return what tells the server to hand a job out again after so long."""
    return b'-NAK {"delay": %d}' % (seconds * NANO)


class Receipt(msgspec.Struct, eq=False):
    """Proves the lease on one job; our own clock judges it, and ends it before the server does.

    :param until: the end of the lease by our own clock.
    :param number: the job's in its stream; each copy has a new one.
    :param handed: how often the server handed it out.
    :param base: how often it did so with copies before this one.
    :param over: the job is settled, or known to be lost.
    """

    consumer: PullConsumer
    stream: QueueStream
    generation: int
    subject: bytes
    reply: bytes
    body: bytes
    headers: bytes
    until: float
    number: int = 0
    handed: int = 0
    base: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        tokens = self.reply.split(b".")
        first = 4 if len(tokens) == 9 else 6  # $JS.ACK.[domain.account.]stream.consumer.handed.number.…  # noqa: PLR2004
        self.handed = int(tokens[first])
        self.number = int(tokens[first + 1])

    @property
    def token(self) -> bytes:
        """The job's own token, the last of its subject."""
        return self.subject.rpartition(b".")[2]

    @property
    def stored_at(self) -> float:
        """When it was stored, in seconds since the epoch by the server's clock."""
        tokens = self.reply.split(b".")
        return int(tokens[7 if len(tokens) == 9 else 9]) / NANO  # noqa: PLR2004 - as above

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
        if not travels(self.headers):
            return Delivery(self.stream.queue, self.body, b"", self.handed - 1, self)
        packed = unpack(self.body, self.headers)
        self.base = packed.handed
        return Delivery(self.stream.queue, packed.envelope, packed.trail, self.redeliveries, self)

    def frame(self, word: bytes) -> bytes:
        """Return the bytes that tell the server what is to become of the job."""
        return b"PUB %b  %d\r\n%b\r\n" % (self.reply, len(word), word)


class PullConsumer:
    """Receives the jobs of one queue.

    :param name: the consumer on the server.
    :param arrived: called when there is news: a job, the end of a request, trouble.
    :param lease: seconds, from the arrival; less while what is read came earlier.
    :param pace: of its requests.
    :param greeting: told to the server about each arrival, if its own lease is not the wanted one.
    :param notices: ask for notice while there are no jobs.
    """

    def __init__(
        self,
        link: NatsLink,
        stream: QueueStream,
        *,
        name: str,
        arrived: Callable[[], None],
        lease: float,
        pace: Pace,
        greeting: bytes = b"",
        notices: bool = False,
    ) -> None:
        self.stream = stream
        self.greeting = greeting
        self.waiting: deque[Receipt] = deque()
        self.asked = 0  #: jobs that may still come
        self.probing = False  #: a request that does not wait is on its way
        self.noticed = False  #: notice came: there are jobs that were not asked for yet
        self.absent = False  #: the server says that there is no consumer
        self.crowded = False  #: or that too many requests wait
        self.recent: deque[int] = deque(maxlen=RECENT_LIMIT)  #: numbers of the jobs that came
        self.cancelled: OrderedDict[int, None] = OrderedDict()  #: numbers of jobs that were taken back
        self._link = link
        self._arrived = arrived
        self.lease = lease
        self._pace = pace
        self._subject = f"{link.address.api}CONSUMER.MSG.NEXT.{stream.name}.{name}".encode()
        self._subscription: Subscription | None = None
        self._cancelling = link.subscribe(stream.withdrawn.encode(), self._take_cancelled)
        self._inbox = b""
        self._requests = count(1)
        self._probe = self._notice = b""
        self._notices = notices
        self._last_sign = 0.0
        self._active = -inf  # when a job came last, or notice came
        self._clock = asyncio.get_running_loop().time
        link.on_lost.append(self._forget_requests)

    @property
    def is_lost(self) -> bool:
        """Whether it has to be looked for: the server says it is gone, or shows no sign of life."""
        return self.absent or (self.asked > 0 and self._clock() - self._last_sign > self._pace.silence)

    @property
    def awaits_notice(self) -> bool:
        """Whether it has asked for notice."""
        return bool(self._notice)

    @property
    def busy(self) -> bool:
        """Whether jobs have come, or may still come."""
        return bool(self.asked or self.waiting)

    def pull(self, number: int, *, wait: bool) -> None:
        """Ask for so many more jobs, if there is a connection.

        :param wait: let the server wait until there are some; else it says at once that there are none.
        """
        self.noticed = False
        if self._subscription is None:
            self._inbox = self._link.new_inbox()
            self._subscription = self._link.subscribe(self._inbox + b".*", self._take)
        request = b"%b.%x" % (self._inbox, next(self._requests))
        notice = wait and self._notices and self._clock() - self._active > ACTIVE_FOR
        times = self._pace.request * NANO, self._pace.sign * NANO
        if notice:
            number = 1
            body = b'{"batch":1,"max_bytes":1,"expires":%d,"idle_heartbeat":%d}' % times
        elif wait and self._notices:
            body = b'{"batch":%d,"expires":%d}' % (number, REQUEST_TIME * NANO)
        elif wait:
            body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (number, *times)
        else:
            body = b'{"batch":%d,"no_wait":true}' % number
        if not self._link.send_now(encode_message(Message(self._subject, body), request)):
            return
        if not wait:
            self.probing = True
            self._probe = request
        if notice:
            self._notice = request
        if not self.asked:
            self._last_sign = self._clock()
        self.asked += number

    def rest(self) -> None:
        """Withdraw the requests. What is on its way already still arrives."""
        self.asked = 0
        self.absent = self.probing = self.noticed = False
        self._notice = b""
        if self._subscription is not None:
            self._link.unsubscribe(self._subscription)
            subscription, self._subscription = self._subscription, None
            asyncio.get_running_loop().call_later(LATE_HEARTBEAT, self._link.discard, subscription)

    def close(self) -> None:
        """Let nothing come any more."""
        self.asked = 0
        for subscription in (self._cancelling, self._subscription):
            if subscription is not None:
                self._link.discard(subscription)
        self._subscription = None
        if self._forget_requests in self._link.on_lost:
            self._link.on_lost.remove(self._forget_requests)

    def _forget_requests(self) -> None:
        """Forget the requests, which went with the connection; jobs that came stay ours as long as their leases."""
        self.asked = 0
        self.probing = False
        self._notice = b""
        self._arrived()

    def _take(self, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        now = self._last_sign = self._clock()
        if not reply.startswith(b"$JS.ACK."):
            self._take_status(subject, headers)
            return
        self._active = now
        if self.asked:
            self.asked -= 1
            if not self.asked:
                self.probing = False
        stream, until = self.stream, now + self.lease
        arrival = Receipt(self, stream, stream.generation, subject, reply, body, headers, until)
        if self.greeting:
            self._link.send_now(arrival.frame(self.greeting))
        if arrival.number not in self.cancelled:
            self.recent.append(arrival.number)
            self.waiting.append(arrival)
            self._arrived()

    def _take_status(self, subject: bytes, headers: bytes) -> None:
        status = headers[9:12]
        if status == b"100":
            return
        left = 0
        if status == b"503" or (status == b"409" and b"onsumer" in headers and b"eleted" in headers):
            self.absent = True
        elif status == b"409" and b"MaxWaiting" in headers:
            self.crowded = True
        elif _PENDING in headers:
            left = max(self.asked - number_of(headers, _PENDING), 0)
        self.asked = left
        if subject == self._notice:
            self._notice = b""
            if status == b"409" and b"MaxBytes" in headers:
                self.noticed, self._active = True, self._last_sign
        if subject == self._probe or not self.asked:
            self.probing = False
        self._arrived()

    def _take_cancelled(self, _: bytes, reply: bytes, body: bytes, __: bytes) -> None:
        """Forget a job that a caller takes back, or say that it has been handed out."""
        if not body.isdigit():
            return
        number = int(body)
        for arrival in self.waiting:
            if arrival.number == number:
                self.waiting.remove(arrival)
                self._link.send_now(encode_message(Message(reply, b"forgotten")))
                return
        self.cancelled[number] = None  # before the answer: a timer that holds the job moves it no more from now on
        if number in self.recent:
            self.stream.deleted.append(number)
            self._link.send_now(encode_message(Message(reply, b"held")))
        if len(self.cancelled) > CANCELLED_LIMIT:
            self.cancelled.popitem(last=False)
