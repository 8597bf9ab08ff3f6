"""One queue of a source: a channel with a consumer, what is buffered, and what is held.

The broker pushes, and what it has pushed no other worker can get. So the consumer asks for as many messages as its
source was asked for. When the source is no longer asked, the consumer stops, and buffered messages are returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from itertools import takewhile

import msgspec
from aio_pika.abc import AbstractChannel

from taskcore.backend import Delivery
from taskcore.backends.rabbitmq.layout import job_queue
from taskcore.backends.rabbitmq.messages import natural, split
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.admin_channel import AdminChannel
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.toolkit.logging import logger

__all__ = ["Consumer", "Receipt"]

log = logger("taskcore.backends.rabbitmq")

MAX_CREDIT = 2_000  #: messages that a consumer asks for at most
MAX_PREFETCH = 65_535  #: what the protocol can say
STOP_CHECKS, STOP_CHECK_PAUSE = 50, 0.005  #: before a consumer stops although more messages may come; seconds

DELIVERY_COUNT, EARLIER = b"x-delivery-count", b"tc-before"


class Receipt(msgspec.Struct, eq=False):
    """A delivery that was handed out; valid while the channel that it came through is open.

    :param state: HELD, SETTLING (its verdict is being carried out), or OVER.
    :param settle_by: ACK; or without a copy: REQUEUE, or DEAD_LETTER.
    """

    consumer: Consumer
    tag: int
    expires: float
    properties: frames.Properties
    state: int = 0
    settle_by: int = 0

    HELD, SETTLING, OVER = range(3)
    ACK, REQUEUE, DEAD_LETTER = range(3)

    def is_held(self, now: float) -> bool:
        """Return whether its lease lasts and no verdict is being carried out."""
        return self.state == Receipt.HELD and not self.consumer.is_closed and self.expires > now


class Consumer(FilteredChannel):
    """A channel that consumes one queue.

    :param news: set when a message came, or the channel is closed.
    :param counts: whether the broker counts redeliveries of this kind of queue.
    """

    def __init__(
        self,
        connection: FilteredConnection,
        channel: AbstractChannel,
        queue: str,
        admin: AdminChannel,
        news: asyncio.Event,
        *,
        counts: bool,
    ) -> None:
        self.queue = queue
        self.buffer: deque[tuple[int, bytes, bytes, bool]] = deque()
        self.unsettled: dict[int, Receipt | None] = {}  # by tag, in the order of delivery; None while buffered
        self.prefetch = 0
        self.is_consuming = False
        self.may_settle = asyncio.Event()
        self.may_settle.set()
        self._admin = admin
        self._news = news
        self._counts = counts
        super().__init__(connection, channel)

    @property
    def credit(self) -> int:
        """How many more messages the broker may push."""
        return self.prefetch - len(self.unsettled) if self.is_consuming else 0

    # ── consuming ──

    async def start(self, limit: int) -> None:
        """Begin to consume, with room for so many jobs beside the unsettled ones."""
        await self.stop()
        self.prefetch = min(len(self.unsettled) + min(limit, MAX_CREDIT), MAX_PREFETCH)
        await self.consume(job_queue(self.queue), self.prefetch)
        self.is_consuming = not self.is_closed

    async def stop(self) -> None:
        """Stop consuming; held jobs stay held. Nothing is settled meanwhile.

        The broker takes back what it pushed and this process did not get when the stop arrives, and counts it. So first
        wait until there is no room for more, or no more messages are ready.
        """
        if not self.is_consuming:
            return
        self.may_settle.clear()
        try:
            for _ in range(STOP_CHECKS):
                if self.credit < 1 or not await self._admin.count(job_queue(self.queue)):
                    break
                await asyncio.sleep(STOP_CHECK_PAUSE)
            await self.sync(self.prefetch)  # what was on its way is here now
            self.is_consuming = False
            await self.stop_consuming(job_queue(self.queue))
        finally:
            self.may_settle.set()

    def on_message(self, tag: int, properties: bytes, body: bytes, *, redelivered: bool) -> None:
        """Buffer a delivery."""
        self.unsettled[tag] = None
        self.buffer.append((tag, properties, body, redelivered))
        self._news.set()

    def on_cancel(self) -> None:
        """Note that the broker ended the consumer."""
        log.warning("RabbitMQ stopped the consumer of queue %s; consuming again. Was the queue deleted?", self.queue)
        self.is_consuming = False
        self._news.set()

    def on_close(self, why: str) -> None:
        """Forget everything that came through the closed channel: other workers get it."""
        log.debug("queue %s: channel closed: %s", self.queue, why)
        self.buffer.clear()
        self.unsettled.clear()
        self.is_consuming = False
        self._news.set()

    # ── handing out, settling ──

    def hand_out(self, expires: float) -> Delivery:
        """Return the next buffered message, held from now on."""
        tag, raw, body, redelivered = self.buffer.popleft()
        properties = frames.read_properties(raw)
        redeliveries = natural(properties, DELIVERY_COUNT) if self._counts else int(redelivered)
        redeliveries += natural(properties, EARLIER)
        receipt = self.unsettled[tag] = Receipt(self, tag, expires, properties)
        envelope, trail, _ = split(properties, body)
        return Delivery(self.queue, envelope, trail, redeliveries, receipt)

    def settle(self, ended: Iterable[Receipt]) -> None:
        """Settle these in one write: one ack for all up to the first that stays, one for each behind it."""
        number, done = self.number, set[int]()
        packed: list[bytes] = []
        for receipt in ended:
            receipt.state = Receipt.OVER
            if receipt.settle_by == Receipt.ACK:
                done.add(receipt.tag)
            else:
                self.unsettled.pop(receipt.tag, None)
                packed.append(frames.nack(number, receipt.tag, requeue=receipt.settle_by == Receipt.REQUEUE))
        first = list(takewhile(done.__contains__, self.unsettled))
        if first:
            packed.append(frames.ack(number, first[-1], multiple=len(first) > 1))
        packed += [frames.ack(number, tag, multiple=False) for tag in sorted(done.difference(first))]
        for tag in done:
            self.unsettled.pop(tag, None)
        self.write(b"".join(packed))

    def expire(self, receipt: Receipt) -> None:
        """End a lease: the broker may hand the job out again, and counts it; on a closed channel it already did."""
        receipt.state = Receipt.OVER
        self.unsettled.pop(receipt.tag, None)
        if not self.is_closed:
            self.write(frames.nack(self.number, receipt.tag))
