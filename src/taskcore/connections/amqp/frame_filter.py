"""The frame filter: job messages bypass the client library (docs/adr/0008-frames-below-aio-pika.md).

aio-pika connects, logs in, sends heartbeats, opens channels, declares and consumes. Every byte from the server passes
this filter first. It takes the message frames of a filtered channel (deliveries, confirms, returned messages) and
passes everything else on. The library would create several objects and a task for each message, and close the
connection at the first header that it cannot decode.

    server ──▶ filter ──▶ filtered channel: deliveries, confirms, returned messages
                  └─────▶ aio-pika: everything else
    server ◀── one stream with two writers; each writes complete frames only

A third writer is a thread that keeps the connection alive while the event loop stands still: ``beat``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aio_pika
import aiormq
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError

from taskcore.connections.amqp import frames
from taskcore.connections.amqp.address import Address
from taskcore.connections.amqp.tls import TLSLayer
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

if TYPE_CHECKING:
    from taskcore.connections.amqp.channel import FilteredChannel

__all__ = ["FilteredConnection"]

log = logger("taskcore.connections.amqp")

READ_SIZE = 1 << 18  #: bytes
CLOSE_TIMEOUT = 2.0  #: seconds for closing in order
CHECKS_PER_HEARTBEAT = 4  #: looks for a sign of the server in one heartbeat
HEARTBEAT_GAP = 1.0  #: seconds without a frame for the library, after which it gets a heartbeat


class _SharedWriter(asyncio.StreamWriter):
    """A writer that another thread can keep from writing, and may write past.

    :ivar tls: encrypts what is written, after its handshake; None without TLS.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()
        self.unsent: bytearray | memoryview = bytearray(1)  # see FilteredConnection.unsent
        self.tls: TLSLayer | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with self.lock:
            super().write(data if self.tls is None else self.tls.encrypt(data))
            self.unsent[0] = self.transport.get_write_buffer_size() > 0

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(data))

    def write_past(self, known: socket.socket, data: bytes) -> None:
        """Send from another thread, if nothing waits to leave, or the data could be written into a frame."""
        with self.lock:
            if self.transport.get_write_buffer_size():
                return
            record, sent = data if self.tls is None else self.tls.encrypt(data), 0
            with suppress(OSError):
                sent = known.send(record)
            if self.tls is not None:
                self.tls.keep(record[sent:])

    def decrypt(self, data: bytes) -> bytes:
        """Decrypt what was read; send what the protocol itself has to say to that."""
        with self.lock:
            if self.tls is None:
                return data
            data = self.tls.decrypt(data)
            if answer := self.tls.encrypt():
                super().write(answer)
        return data

    def close(self) -> None:
        with self.lock:
            if self.tls is not None and not self.transport.is_closing():
                super().write(self.tls.farewell())
        super().close()


class FilteredConnection(aiormq.TransportFactory):
    """A connection of aio-pika with the filter in it; made by ``open``.

    :ivar server_properties: what the server says about itself; byte strings as text.
    :ivar frame_max: bytes of the largest frame that the server takes.
    :ivar timeout: seconds that one call may take.
    :ivar lost_why: why it is closed.
    :ivar socket: the connection once more, for another thread or process; None when it is lost.
    :ivar blocked_why: why the server takes no messages at the moment.
    """

    server_properties: Mapping[str, Any]
    frame_max: int
    _aio_pika: aio_pika.Connection
    _writer: _SharedWriter

    def __init__(self, address: Address, node: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self.is_closed = False
        self.lost_why = ""
        self.blocked_why = ""
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.timeout = address.timeout
        self.socket: socket.socket | None = None
        self._node, self._context = node, context
        self._heartbeat = address.heartbeat
        self._channels: dict[int, FilteredChannel] = {}
        self._library_reader = asyncio.StreamReader(limit=1 << 24)
        self._tasks = TaskSet("RabbitMQ connection")
        self._last_read = self._last_passed = asyncio.get_running_loop().time()

    @classmethod
    async def open(
        cls, address: Address, node: tuple[str, int], context: ssl.SSLContext | None, *, name: str
    ) -> FilteredConnection:
        """Connect to a node and log in; raises the library's errors.

        :param name: of the connection, in the server's own tools.
        """
        filtered = cls(address, node, context)
        connection = aio_pika.Connection(make_url(address.library_url(*node, name)))
        connection.kwargs["transport_factory"] = filtered
        try:
            await connection.connect()
        except BaseException:
            filtered._lose("the handshake failed")
            await connection.close()
            raise
        transport: Any = connection.transport
        properties: dict[str, Any] = transport.connection.server_properties
        filtered.server_properties = {
            name: value.decode() if isinstance(value, bytes) else value for name, value in properties.items()
        }
        filtered.frame_max = int(transport.connection.connection_tune.frame_max or 131_072)
        filtered._aio_pika = connection
        filtered._tasks.start(filtered._watch_silence())
        return filtered

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:  # noqa: ARG002
        """Open the transport for the library, and put the filter in front of its reader."""
        reader, loop = asyncio.StreamReader(limit=READ_SIZE), asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(lambda: asyncio.StreamReaderProtocol(reader), *self._node)
        self._writer = _SharedWriter(transport, protocol, reader, loop)
        if self._context is not None:
            tls = TLSLayer(self._context, self._node[0])
            try:
                await tls.shake_hands(reader, transport)
            except BaseException:
                transport.close()
                raise
            self._writer.tls = tls
        own = transport.get_extra_info("socket")
        self.socket = socket.fromfd(own.fileno(), own.family, own.type)
        self._tasks.start(self._read(reader))
        return self._library_reader, self._writer

    def beat(self) -> None:
        """Send a heartbeat from another thread, past the event loop, which stands still."""
        if (known := self.socket) is not None:
            self._writer.write_past(known, frames.HEARTBEAT)

    def wake_up(self) -> None:
        """Note that the event loop stood still: that nothing was read meanwhile says nothing about the server."""
        self._last_read = asyncio.get_running_loop().time()
        self._library_reader.feed_data(frames.HEARTBEAT)

    @property
    def unsent(self) -> bytearray | memoryview:
        """One byte: 1 if a part of what was written last has not left this process."""
        return self._writer.unsent

    @unsent.setter
    def unsent(self, byte: bytearray | memoryview) -> None:
        self._writer.unsent = byte

    async def channel(self, *, confirms: bool = False) -> aio_pika.abc.AbstractChannel:
        """Open a channel of aio-pika."""
        channel = self._aio_pika.channel(publisher_confirms=confirms)
        await channel.initialize()
        return channel

    def add(self, channel: FilteredChannel) -> None:
        """Filter the frames of this channel from now on.

        :raises ConnectionError: the connection is closed.
        """
        self._check_open()
        self._channels[channel.number] = channel

    def remove(self, channel: FilteredChannel) -> None:
        """Stop filtering; the channel is closed."""
        self._channels.pop(channel.number, None)

    def write(self, data: bytes) -> None:
        """Send complete frames.

        :raises ConnectionError: the connection is closed, or is being closed by the server.
        """
        self._check_open()
        try:
            self._writer.write(data)
        except RuntimeError as error:  # the library has said that nothing more will come
            raise ConnectionError(f"the connection is being closed: {error}") from error

    async def drain(self) -> None:
        """Wait until the server has read most of what was sent."""
        await self._writer.drain()

    async def close(self) -> None:
        """Close in order if the server answers, else by cutting the transport."""
        self._lose("it was closed by this process")
        # The library waits until everything is sent, even when cancelled; only a cut transport ends that.
        cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut)
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT):
                await self._aio_pika.close()
        except (TimeoutError, OSError, AMQPError) as error:
            log.debug("a connection to RabbitMQ could not be closed in order: %r", error)
        finally:
            cut.cancel()
            self._cut()
            await self._tasks.cancel()

    def abort(self, why: str) -> None:
        """Cut the transport: the server's state is unknown, and a cut makes it requeue everything."""
        self._lose(why)
        self._cut()

    def _cut(self) -> None:
        """Cut the transport; a keeper process may have the socket, too, so closing it is not enough."""
        with suppress(OSError):
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._writer.transport.abort()

    def _check_open(self) -> None:
        if self.is_closed:
            raise ConnectionError(self.lost_why)

    # ── filtering ──

    async def _read(self, reader: asyncio.StreamReader) -> None:
        loop, rest = asyncio.get_running_loop(), b""
        why = "the server closed the connection"
        try:
            while data := await reader.read(READ_SIZE):
                self._last_read = loop.time()
                if plain := self._writer.decrypt(data):
                    rest = self._filter(rest + plain if rest else plain)
        except OSError as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            self._library_reader.feed_eof()
            self.abort(why)

    def _filter(self, data: bytes) -> bytes:
        """Give each frame to its reader; return the incomplete rest."""
        if data.startswith(b"AMQP"):  # no frame: the server speaks another version, names it, and closes
            self._library_reader.feed_data(data)
            return b""
        done = 0
        channels = self._channels
        for kind, number, start, end in frames.split_frames(data):
            channel = channels.get(number)
            if channel is None or not channel.take(kind, data[start:end]):
                if number == 0 and kind == frames.METHOD:
                    self._watch_blocking(data[start:end])
                self._library_reader.feed_data(data[start - frames.FRAME_HEAD.size : end + 1])
                self._last_passed = self._last_read
            done = end + 1
        if self._last_read - self._last_passed > HEARTBEAT_GAP:
            # The server sends no heartbeats between frames; without one the library takes the connection for dead.
            self._library_reader.feed_data(frames.HEARTBEAT)
            self._last_passed = self._last_read
        return data[done:]

    def _watch_blocking(self, payload: bytes) -> None:
        [method] = struct.unpack_from(">I", payload)
        if method == frames.Method.BLOCKED:
            self.blocked_why = payload[5 : 5 + payload[4]].decode(errors="replace")
            self.unblocked.clear()
        elif method == frames.Method.UNBLOCKED:
            self.blocked_why = ""
            self.unblocked.set()

    async def _watch_silence(self) -> None:
        """Cut a connection that was silent for two heartbeats, whatever the operating system says of it.

        Looks are counted, not seconds: while the loop stands still nothing is read, and that is not the server's fault.
        """
        seen, silent = self._last_read, 0
        while not self.is_closed:
            await asyncio.sleep(self._heartbeat / CHECKS_PER_HEARTBEAT)
            silent = silent + 1 if seen == self._last_read else 0
            seen = self._last_read
            if silent > 2 * CHECKS_PER_HEARTBEAT:
                self.abort(f"the server sent nothing for {2 * self._heartbeat} s")

    def _lose(self, why: str) -> None:
        if self.is_closed:
            return
        self.is_closed, self.lost_why = True, why
        if self.socket is not None:
            with self._writer.lock:
                self.socket.close()
                self.socket = None
        self.unblocked.set()
        for channel in list(self._channels.values()):
            channel.lose(why)
