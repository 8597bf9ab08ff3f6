"""One queue of a source: its channel, its consumer, what is buffered, and what is held.

The broker pushes, and what it has pushed no other worker can get. So the consumer asks for as many messages as its
source was asked for. When the source is no longer asked, the consumer stops, and buffered messages are returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from aio_pika.abc import AbstractChannel

from taskcore.backend import Delivery
from taskcore.backends.rabbitmq.layout import job_queue
from taskcore.backends.rabbitmq.messages import natural, split
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.toolkit.logging import logger

__all__ = ["Consumer", "Receipt"]

log = logger("taskcore.backends.rabbitmq")

MAX_CREDIT = 2_000  #: messages that a consumer asks for at most
MAX_PREFETCH = 65_535  #: what the protocol can say
STOP_CHECKS, STOP_CHECK_PAUSE = 50, 0.005  #: before a consumer stops although more messages may come; seconds

DELIVERY_COUNT, EARLIER, JOB_ID = b"x-delivery-count", b"tc-before", b"tc-id"


class Receipt:
    """A delivery that was handed out; valid while the channel that it came through is open.

    ``state``: HELD, SETTLING (its verdict is being carried out), or OVER.
    ``settle_by``: ACK; or without a copy: REQUEUE, or DEAD_LETTER.
    """

    __slots__ = ("channel", "consumer", "expires", "job_id", "message_id", "redeliveries", "settle_by", "state", "tag")

    HELD, SETTLING, OVER = range(3)
    ACK, REQUEUE, DEAD_LETTER = range(3)

    def __init__(
        self, consumer: Consumer, tag: int, expires: float, properties: frames.Properties, counted: int
    ) -> None:
        self.consumer = consumer
        self.channel = consumer.channel
        self.tag = tag
        self.expires = expires
        self.redeliveries = natural(properties, EARLIER) + counted
        self.message_id = properties.message_id
        job_id = properties.headers.get(JOB_ID, b"")
        self.job_id = job_id.decode(errors="replace") if isinstance(job_id, bytes) else ""
        self.state = Receipt.HELD
        self.settle_by = Receipt.ACK

    @property
    def is_alive(self) -> bool:
        """Whether the channel that it came through is still open."""
        return self.channel is not None and not self.channel.is_closed

    def is_held(self, now: float) -> bool:
        """Return whether its lease lasts and no verdict is being carried out."""
        return self.state == Receipt.HELD and self.is_alive and self.expires > now


class _ConsumerChannel(FilteredChannel):
    """Passes a channel's events to its consumer."""

    def __init__(self, connection: FilteredConnection, channel: AbstractChannel, consumer: Consumer) -> None:
        self._consumer = consumer
        super().__init__(connection, channel)

    def on_message(self, tag: int, properties: bytes, body: bytes, *, redelivered: bool) -> None:
        """Buffer a delivery."""
        self._consumer.on_message(tag, properties, body, redelivered=redelivered)

    def on_cancel(self) -> None:
        """Note that the broker ended the consumer."""
        self._consumer.on_cancel()

    def on_close(self, why: str) -> None:
        """Note that everything that came through the channel is lost."""
        log.debug("queue %s: channel closed: %s", self._consumer.queue, why)
        if self._consumer.channel is self:
            self._consumer.on_close()


class Consumer:
    """Consumes one queue.

    :param counts: whether the broker counts redeliveries of this kind of queue.
    :param notify: called when a message came, or the channel is closed.
    :param count_ready: counts the ready messages of a queue.
    """

    def __init__(
        self,
        queue: str,
        *,
        counts: bool,
        notify: Callable[[], None],
        count_ready: Callable[[str], Awaitable[int | None]],
    ) -> None:
        self.queue = queue
        self.channel: FilteredChannel | None = None
        self.buffer: deque[tuple[int, bytes, bytes, bool]] = deque()
        self.unsettled: dict[int, Receipt | None] = {}  # by tag, in the order of delivery; None while buffered
        self.prefetch = 0
        self.is_consuming = False
        self.may_settle = asyncio.Event()
        self.may_settle.set()
        self._counts = counts
        self._notify = notify
        self._count_ready = count_ready
        self._starts = 0

    @property
    def is_open(self) -> bool:
        """Whether it has an open channel."""
        return self.channel is not None and not self.channel.is_closed

    @property
    def credit(self) -> int:
        """How many more messages the broker may push."""
        return self.prefetch - len(self.unsettled) if self.is_consuming and self.is_open else 0

    @property
    def needs_credit(self) -> bool:
        """Whether it must be started, or started again with more room."""
        return self.credit < 1

    # ── consuming ──

    async def start(self, connection: FilteredConnection, limit: int, timeout: float) -> None:
        """Begin to consume, with room for so many jobs beside the unsettled ones."""
        channel = self.channel
        if channel is None or channel.is_closed or channel.connection is not connection:
            channel = self.channel = _ConsumerChannel(connection, await connection.channel(), self)
            self.is_consuming = False
        if self.is_consuming:
            await self.stop(timeout)
        self.prefetch = min(len(self.unsettled) + min(limit, MAX_CREDIT), MAX_PREFETCH)
        await channel.sync(timeout, self.prefetch)
        self._starts += 1
        await channel.consume(job_queue(self.queue), f"jobs {self._starts}")
        self.is_consuming = channel is self.channel and not channel.is_closed

    async def stop(self, timeout: float) -> None:
        """Stop consuming; held jobs stay held. Nothing is settled meanwhile.

        The broker takes back what it pushed and this process did not get when the stop arrives, and counts it. So first
        wait until there is no room for more, or no more messages are ready.
        """
        channel = self.channel
        if not self.is_consuming or channel is None or channel.is_closed:
            return
        self.may_settle.clear()
        try:
            for _ in range(STOP_CHECKS):
                if self.credit < 1 or not await self._count_ready(job_queue(self.queue)):
                    break
                await asyncio.sleep(STOP_CHECK_PAUSE)
            await channel.sync(timeout, self.prefetch)  # what was on its way is here now
            self.is_consuming = False
            await channel.stop_consuming(job_queue(self.queue), f"jobs {self._starts}")
        finally:
            self.may_settle.set()

    async def close(self) -> None:
        """Close the channel; the broker requeues what is unsettled."""
        if self.channel is not None:
            await self.channel.close()

    def on_message(self, tag: int, properties: bytes, body: bytes, *, redelivered: bool) -> None:
        """Buffer a delivery."""
        self.unsettled[tag] = None
        self.buffer.append((tag, properties, body, redelivered))
        self._notify()

    def on_cancel(self) -> None:
        """Note that the broker ended the consumer."""
        log.warning("RabbitMQ stopped the consumer of queue %s; consuming again. Was the queue deleted?", self.queue)
        self.is_consuming = False
        self._notify()

    def on_close(self) -> None:
        """Forget everything that came through the closed channel: other workers get it."""
        self.buffer.clear()
        self.unsettled.clear()
        self.is_consuming = False
        self._notify()

    # ── handing out, settling ──

    def hand_out(self, expires: float) -> Delivery:
        """Return the next buffered message, held from now on."""
        tag, raw, body, redelivered = self.buffer.popleft()
        properties = frames.read_properties(raw)
        counted = natural(properties, DELIVERY_COUNT) if self._counts else int(redelivered)
        receipt = self.unsettled[tag] = Receipt(self, tag, expires, properties, counted)
        envelope, trail, _ = split(properties, body)
        return Delivery(self.queue, envelope, trail, receipt.redeliveries, receipt)

    def pack_settlement(self, ended: Iterable[Receipt]) -> bytes:
        """Return the frames that settle these: one ack for all up to the first that stays, one for each behind it."""
        if self.channel is None:
            return b""
        number, done = self.channel.number, set[int]()
        packed: list[bytes] = []
        for receipt in ended:
            if receipt.settle_by == Receipt.ACK:
                done.add(receipt.tag)
            else:
                self.unsettled.pop(receipt.tag, None)
                packed.append(frames.reject(number, receipt.tag, requeue=receipt.settle_by == Receipt.REQUEUE))
        first: list[int] = []
        for tag in self.unsettled:
            if tag not in done:
                break
            first.append(tag)
        if first:
            packed.append(frames.ack(number, first[-1], multiple=len(first) > 1))
        packed += [frames.ack(number, tag, multiple=False) for tag in sorted(done.difference(first))]
        for tag in done:
            self.unsettled.pop(tag, None)
        return b"".join(packed)

    def requeue(self, receipt: Receipt) -> None:
        """Return an expired delivery: the broker may hand it out again, and counts it."""
        self.unsettled.pop(receipt.tag, None)
        if receipt.is_alive and self.channel is not None:
            self.channel.write(frames.reject(self.channel.number, receipt.tag, requeue=True))
