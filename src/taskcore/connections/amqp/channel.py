"""Channels whose message frames are read here: see the frame filter."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from itertools import count

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError

from taskcore.connections.amqp import frames
from taskcore.connections.amqp.frame_filter import CLOSE_TIMEOUT, FilteredConnection
from taskcore.connections.amqp.frames import Method
from taskcore.toolkit.logging import logger
from taskcore.toolkit.timeouts import waking_timeout

__all__ = ["FilteredChannel"]

log = logger("taskcore.connections.amqp")

MESSAGES = frozenset((Method.DELIVER, Method.RETURN))  #: methods that properties and a body follow
CONFIRMS = frozenset((Method.ACK, Method.NACK))


class FilteredChannel:
    """A channel whose message frames are read here; subclasses override the events that they need.

    Events must neither raise nor wait. ``channel`` is aio-pika's, for consuming and cancelling.
    """

    def __init__(self, connection: FilteredConnection, channel: AbstractChannel) -> None:
        self.connection = connection
        self.channel = channel
        self.number: int = channel.number or 0
        self.is_closed = False
        self.lost_why = ""
        self.consumer = ""  # the tag of the consumer that was started last
        self._numbers = count(1)
        self._method = b""  # of the message that is being read
        self._code = 0
        self._properties = b""
        self._missing = -1  # bytes of its body that are still to come; -1 before its properties
        self._parts: list[bytes] = []
        self._answers: deque[asyncio.Future[None]] = deque()  # of ``sync``, in the order of its calls
        connection.add(self)

    # ── events ──

    def on_message(self, tag: int, properties: bytes, body: bytes, *, redelivered: bool) -> None:
        """Take a delivery."""

    def on_confirm(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Take the server's answer to one published message, or to all up to it."""

    def on_return(self, properties: bytes) -> None:
        """Take back a published message that no queue is bound for; its confirm follows."""

    def on_cancel(self) -> None:
        """Note that the server ended a consumer: its queue was deleted or moves."""

    def on_close(self, why: str) -> None:
        """Note that the channel is closed; called once."""

    # ── verbs ──

    def write(self, data: bytes) -> None:
        """Send complete frames.

        :raises ConnectionError: the channel is closed.
        """
        if self.is_closed:
            raise ConnectionError(self.lost_why)
        self.connection.write(data)

    async def sync(self, prefetch: int = 0) -> None:
        """Return when the server has handled everything that was sent on this channel before.

        :param prefetch: the limit for consumers that start later.
        :raises ConnectionError: the channel is or was closed.
        :raises TimeoutError: no answer came, so the connection was cut: what the server did is unknown.
        """
        answer = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        try:
            self.write(frames.qos(self.number, prefetch))
            async with waking_timeout(self.connection.timeout):
                await answer
        except TimeoutError:
            self.connection.abort("no answer in time")
            raise
        finally:
            answer.cancel()  # its place stays: answers come in the order of the calls

    async def consume(self, queue: str, prefetch: int) -> None:
        """Start a consumer with room for so many deliveries, which come to ``on_message``."""
        await self.sync(prefetch)
        self.consumer = f"jobs {next(self._numbers):09}"  # what returns, returns in the order of these texts
        await (await self.channel.get_queue(queue, ensure=False)).consume(_bypassed, consumer_tag=self.consumer)

    async def stop_consuming(self, queue: str) -> None:
        """Stop the consumer that was started last; its deliveries stay unsettled."""
        await (await self.channel.get_queue(queue, ensure=False)).cancel(self.consumer)

    async def close(self) -> None:
        """Close the channel; the server requeues what is unsettled."""
        self.lose("it was closed by this process")
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.channel.close()
        except (TimeoutError, OSError, AMQPError) as error:
            log.debug("a channel of RabbitMQ could not be closed in order: %r", error)

    def lose(self, why: str) -> None:
        """End the channel's use: no delivery of it may be settled any more."""
        if self.is_closed:
            return
        self.is_closed, self.lost_why = True, why
        self.connection.remove(self)
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(ConnectionError(why))
                answer.exception()
        self._answers.clear()
        self.on_close(why)

    # ── frames ──

    def take(self, kind: int, payload: bytes) -> bool:
        """Read a frame of this channel; False if it is for the library."""
        if kind == frames.BODY:
            self._parts.append(payload)
            self._missing -= len(payload)
        elif kind == frames.PROPERTIES:
            self._properties = payload
            [self._missing] = struct.unpack_from(">Q", payload, 4)
        else:
            return self._take_method(payload)
        if not self._missing:
            self._take_message()
        return True

    def _take_method(self, payload: bytes) -> bool:
        [code] = struct.unpack_from(">I", payload)
        if code in MESSAGES:
            self._code, self._method, self._missing = code, payload, -1
        elif code in CONFIRMS:
            tag, bits = struct.unpack_from(">QB", payload, 4)
            self.on_confirm(tag, multiple=bool(bits & 1), stored=code == Method.ACK)
        elif code == Method.QOS_OK:
            if self._answers and not (answer := self._answers.popleft()).done():
                answer.set_result(None)
        else:
            if code == Method.CANCEL:
                self.on_cancel()
            if code == Method.CHANNEL_CLOSE:
                self.lose("the server closed the channel: " + payload[7 : 7 + payload[6]].decode(errors="replace"))
            return False
        return True

    def _take_message(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        method, properties = self._method, self._properties
        self._parts, self._missing = [], -1
        if self._code == Method.RETURN:
            self.on_return(properties)
            return
        tag, redelivered = struct.unpack_from(">QB", method, 5 + method[4])  # behind the consumer's name
        self.on_message(tag, properties, body, redelivered=bool(redelivered))


async def _bypassed(_: object) -> None:
    """Stand in as the library's callback: the filter takes the deliveries."""
