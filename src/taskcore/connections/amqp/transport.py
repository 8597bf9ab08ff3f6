"""One connection to RabbitMQ, with a tap in it.

The client library makes the connection: handshake, TLS, heartbeats, channels, declaring. Every byte that the server
sends comes past a tap before the library sees it. Frames of jobs on a *lane* (deliveries, confirms, returned messages)
are read here and never reach the library, which would make several objects and a task of each, and would end the
connection at the first header that it cannot decode.

    server ──▶ tap ──▶ lane: deliveries, confirms, returns      fast, and nothing in a message can break it
                └────▶ library: everything else
    server ◀── one stream for both; each writes whole frames only

Nothing of the library is used but what it documents: a factory for its transport, channels, and their numbers.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any, Protocol

import aiormq
import aiormq.connection

from taskcore.connections.amqp import frames as amqp
from taskcore.toolkit.logging import logger

__all__ = ["Hearer", "Lane", "Wire"]

log = logger("taskcore.rabbitmq")

CHUNK = 1 << 18  #: bytes read at once
GOODBYE = 2.0  #: seconds for closing politely
SWALLOWED = 1.0  #: seconds after which the library hears that the server is alive, if nothing else came for it


class Hearer(Protocol):
    """Whoever uses a lane. Nothing in here may raise or wait."""

    def delivered(self, tag: int, properties: bytes, body: bytes, *, again: bool) -> None:
        """A message came. ``again``: it was delivered before, to somebody."""

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """The server has a message that was published, or all up to it; or it refused them."""

    def returned(self, properties: bytes, why: str) -> None:
        """A message that was published has nowhere to go; its confirm follows."""

    def cancelled(self) -> None:
        """The server has ended a consumer of the lane: its queue is gone, or moves."""

    def closed(self, why: str) -> None:
        """The lane is closed, for whatever reason; called once."""


class Wire:
    """An open connection. Not to be made directly: ``await Wire.open(…)``."""

    _connection: aiormq.Connection
    _writer: asyncio.StreamWriter

    def __init__(self, heartbeat: int) -> None:
        self.why = ""  #: why it is closed
        self.blocked = ""  #: why the server takes no messages at the moment
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.is_closed = False
        self._heartbeat = heartbeat
        self._lanes: dict[int, Lane] = {}
        self._aside = asyncio.StreamReader(limit=1 << 24)
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = self._passed = asyncio.get_running_loop().time()
        self._greeted = False

    @classmethod
    async def open(cls, url: str, host: str, port: int, context: ssl.SSLContext | None, *, heartbeat: int) -> Wire:
        """Connect; raises whatever the library raises.

        :param url: as the library reads it.
        """
        wire = cls(heartbeat)
        connection = aiormq.Connection(url, transport_factory=_Tap(wire, host, port, context))
        try:
            await connection.connect()
        except BaseException:
            wire._lose("the handshake failed")
            raise
        wire._connection = connection
        wire._start(wire._watch())
        return wire

    @property
    def server(self) -> dict[str, Any]:
        """What the server says about itself, as text where it is text."""
        properties: dict[str, Any] = dict(self._connection.server_properties)
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in properties.items()}

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that the server takes."""
        return int(self._connection.connection_tune.frame_max or 131_072)

    async def channel(self) -> Any:
        """A channel of the library, for declaring and the like."""
        return await self._connection.channel(publisher_confirms=False)

    async def lane(self, hearer: Hearer, *, confirms: bool = False) -> Lane:
        """A channel whose messages are ours."""
        channel = await self._connection.channel(publisher_confirms=confirms)
        lane = Lane(self, channel, hearer)
        if self.is_closed:
            raise ConnectionError(self.why)
        self._lanes[lane.number] = lane
        return lane

    def write(self, data: bytes) -> None:
        """Send whole frames.

        :raises ConnectionError: the connection is closed.
        """
        if self.is_closed:
            raise ConnectionError(self.why)
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the server has taken most of what was sent."""
        await self._writer.drain()

    async def close(self) -> None:
        """Say goodbye if the server listens, and be gone in any case."""
        self._lose("we closed it")
        # The library waits until all is sent, also when it is cancelled; only a transport that is cut ends that.
        patience = asyncio.get_running_loop().call_later(GOODBYE, self._writer.transport.abort)
        try:
            async with asyncio.timeout(2 * GOODBYE):
                await self._connection.close()
        except (TimeoutError, OSError, aiormq.AMQPError) as error:
            log.debug("closing a connection to RabbitMQ politely failed: %r", error)
        finally:
            patience.cancel()
            self._writer.transport.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self, why: str) -> None:
        """Hang up at once: nobody knows what the server has done, so it shall take everything back."""
        self._lose(why)
        self._writer.transport.abort()

    # ── the tap ──

    def _attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> asyncio.StreamReader:
        """The transport is there: from now on we read, and pass on to the library what is the library's."""
        self._writer = writer
        self._start(self._pump(reader))
        return self._aside

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader) -> None:
        loop, rest = asyncio.get_running_loop(), b""
        why = "the server hung up"
        try:
            while data := await reader.read(CHUNK):
                self._heard = loop.time()
                rest = self._split(rest + data if rest else data)
        except OSError as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            self._aside.feed_eof()
            self._lose(why)

    def _split(self, data: bytes) -> bytes:
        """Every frame to whom it belongs; what is left is the beginning of the next one."""
        if not self._greeted:
            if data.startswith(b"AMQP"):  # it speaks another version of the protocol, says so, and hangs up
                self._aside.feed_data(data)
                return b""
            self._greeted = True
        done = 0
        lanes = self._lanes
        for kind, channel, start, end in amqp.frames(data):
            lane = lanes.get(channel)
            if lane is None or not lane.take(kind, data[start:end]):
                if channel == 0 and kind == amqp.METHOD:
                    self._notice(data[start:end])
                self._aside.feed_data(data[start - amqp.HEAD.size : end + 1])
                self._passed = self._heard
            done = end + 1
        if self._heard - self._passed > SWALLOWED:
            # The server sends no heartbeats while it sends frames; the library must not think that nothing comes.
            self._aside.feed_data(amqp.HEARTBEAT)
            self._passed = self._heard
        return data[done:]

    def _notice(self, payload: bytes) -> None:
        [method] = struct.unpack_from(">I", payload)
        if method == amqp.BLOCKED:
            self.blocked = payload[5 : 5 + payload[4]].decode(errors="replace")
            self.unblocked.clear()
        elif method == amqp.UNBLOCKED:
            self.blocked = ""
            self.unblocked.set()

    async def _watch(self) -> None:
        """A connection that says nothing for two heartbeats is lost, whatever the operating system believes."""
        loop = asyncio.get_running_loop()
        while not self.is_closed:
            silent = loop.time() - self._heard
            if silent > 2 * self._heartbeat:
                self.abort(f"the server said nothing for {silent:.0f} s")
            await asyncio.sleep(self._heartbeat / 4)

    def _lose(self, why: str) -> None:
        if self.is_closed:
            return
        self.is_closed, self.why = True, why
        self.unblocked.set()
        for lane in list(self._lanes.values()):
            lane.lose(why)

    def forget(self, number: int) -> None:
        """A lane is closed."""
        self._lanes.pop(number, None)


class _Tap(aiormq.connection.TransportFactory):
    """What the library asks for a transport."""

    def __init__(self, wire: Wire, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._wire = wire
        self._host, self._port, self._context = host, port, context

    async def create(self, url: Any, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:  # noqa: ARG002
        """A connection whose reading end is ours."""
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, limit=CHUNK)
        return self._wire._attach(reader, writer), writer  # noqa: SLF001 - one thing in two classes


class Lane:
    """A channel whose messages are ours. ``channel`` is the library's, for consuming and cancelling."""

    def __init__(self, wire: Wire, channel: Any, hearer: Hearer) -> None:
        self.wire = wire
        self.channel = channel
        self.number: int = channel.number
        self.is_closed = False
        self.why = ""
        self._hearer = hearer
        self._method = b""  # of the message that is being read
        self._code = 0
        self._properties = b""
        self._missing = -1  # bytes of its body that are still to come; -1: its properties are
        self._parts: list[bytes] = []
        self._answers: list[asyncio.Future[None]] = []

    def write(self, data: bytes) -> None:
        """Send whole frames on this channel.

        :raises ConnectionError: the channel is closed.
        """
        if self.is_closed:
            raise ConnectionError(self.why)
        self.wire.write(data)

    async def sync(self, within: float, prefetch: int = 0) -> None:
        """Come back when the server has done all that was sent on this channel before.

        :param prefetch: for consumers that start from now on.
        :raises ConnectionError: the channel is closed, or was meanwhile.
        :raises TimeoutError: no answer; we hang up then, because nobody knows what was done.
        """
        answer = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        try:
            self.write(amqp.qos(self.number, prefetch))
            async with asyncio.timeout(within):
                await answer
        except TimeoutError:
            self.wire.abort("no answer in time")
            raise
        finally:
            if not answer.done():
                answer.cancel()  # its place in the row stays: answers come in order

    async def close(self) -> None:
        """Close the channel; what it has not settled goes back to the queues."""
        self.lose("we closed it")
        try:
            async with asyncio.timeout(GOODBYE):
                await self.channel.close()
        except (TimeoutError, OSError, aiormq.AMQPError) as error:
            log.debug("closing a channel of RabbitMQ failed: %r", error)

    def lose(self, why: str) -> None:
        """It is gone: nothing that came through it may be used any more."""
        if self.is_closed:
            return
        self.is_closed, self.why = True, why
        self.wire.forget(self.number)
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(ConnectionError(why))
                answer.exception()
        self._answers.clear()
        self._hearer.closed(why)

    def take(self, kind: int, payload: bytes) -> bool:
        """A frame on this channel; False if it is the library's."""
        if kind == amqp.BODY:
            self._parts.append(payload)
            self._missing -= len(payload)
        elif kind == amqp.PROPERTIES:
            self._properties = payload
            [self._missing] = struct.unpack_from(">Q", payload, 4)
        else:
            return self._take_method(payload)
        if not self._missing:
            self._take_message()
        return True

    def _take_method(self, payload: bytes) -> bool:
        [code] = struct.unpack_from(">I", payload)
        if code in {amqp.DELIVER, amqp.RETURN}:
            self._code, self._method, self._missing = code, payload, -1
        elif code in {amqp.ACK, amqp.NACK}:
            tag, bits = struct.unpack_from(">QB", payload, 4)
            self._hearer.confirmed(tag, multiple=bool(bits & 1), stored=code == amqp.ACK)
        elif code == amqp.QOS_OK:
            if self._answers and not (answer := self._answers.pop(0)).done():
                answer.set_result(None)
        else:
            if code == amqp.CANCEL:
                self._hearer.cancelled()
            if code == amqp.CHANNEL_CLOSE:
                self.lose("the server closed the channel: " + payload[7 : 7 + payload[6]].decode(errors="replace"))
            return False
        return True

    def _take_message(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        method, properties = self._method, self._properties
        self._parts, self._missing = [], -1
        if self._code == amqp.RETURN:
            self._hearer.returned(properties, method[7 : 7 + method[6]].decode(errors="replace"))
            return
        tag, again = struct.unpack_from(">QB", method, 5 + method[4])  # behind the name of the consumer
        self._hearer.delivered(tag, properties, body, again=bool(again))
