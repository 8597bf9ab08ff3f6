"""RawConnection: one connection to one server; it ends for good with the first trouble, and another takes its place."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any, Final, cast

import msgspec

from taskcore.connections.nats.address import Host, NatsAddress
from taskcore.connections.nats.login import BadLogin, connect_line
from taskcore.connections.nats.protocol import PING, PONG, Handler, Parser, ProtocolError, encode_subscription
from taskcore.toolkit.logging import logger

__all__ = ["CONNECT_TIMEOUT", "RawConnection"]

log = logger("taskcore.connections.nats")

CONNECT_TIMEOUT: Final = 3.0  #: seconds for one server to take a connection
CLOSE_TIMEOUT: Final = 1.0  #: seconds for what was written last to leave


class RawConnection(asyncio.Protocol):
    """One connection. What arrives goes straight to the handlers, as bytes: no task and no queue stand between."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}  #: what the server said about itself
        self.handlers: dict[int, Handler] = {}
        self._future = asyncio.get_running_loop().create_future
        self.ended: asyncio.Future[None] = self._future()
        self.why = ""  #: what ended it
        self._parser = Parser(self._take_message, self._take_line)
        self._transport: asyncio.Transport | None = None
        self._greeted: asyncio.Future[bool] = self._future()
        self._pongs: deque[asyncio.Future[bool]] = deque()
        self._room: asyncio.Future[None] | None = None  # while too much waits to leave

    @property
    def alive(self) -> bool:
        """Whether it can be written to."""
        return not self.ended.done()

    # ── writing ──

    def write(self, data: bytes) -> None:
        """Write at once, in one piece."""
        if self._transport is not None and not self.ended.done():
            self._transport.write(data)

    async def written(self, *, until: float) -> None:
        """Wait while too much waits to leave, at most until this time of the loop's."""
        if self._room is not None:
            await asyncio.wait([self._room], timeout=until - asyncio.get_running_loop().time())

    def subscribe(self, subject: bytes, number: int, handler: Handler) -> None:
        """Let the messages of a subject come to a handler; ``number`` is the caller's."""
        self.handlers[number] = handler
        self.write(encode_subscription(subject, number))

    def unsubscribe(self, number: int) -> None:
        """Ask the server for no more; what is on its way still comes to the handler."""
        self.write(b"UNSUB %d\r\n" % number)

    async def ping(self, timeout: float) -> bool:
        """Go to the server and back: all that it sent before has arrived then. False if it does not answer."""
        if self.ended.done():
            return False
        pong: asyncio.Future[bool] = self._future()
        self._pongs.append(pong)
        self.write(PING)
        done, _ = await asyncio.wait([pong], timeout=timeout)
        return bool(done) and pong.result()

    # ── arriving ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; a server that sends no NATS ends the connection."""
        if self.ended.done():
            return
        try:
            self._parser.feed(data)
        except ProtocolError as error:
            self.why = f"the server sends no NATS: {error}"
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake every waiter: nothing comes any more."""
        self.why = self.why or (str(exc) if exc is not None else "the server closed it")
        self._end()
        self.resume_writing()
        for waiter in (*self._pongs, self._greeted):
            if not waiter.done():
                waiter.set_result(False)

    def pause_writing(self) -> None:
        """Let ``written`` wait."""
        self._room = self._room or self._future()

    def resume_writing(self) -> None:
        """Let ``written`` go on."""
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def _take_message(self, number: int, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        handler = self.handlers.get(number)
        if handler is not None:
            try:
                handler(subject, reply, body, headers)
            except Exception:
                log.exception("could not take a message on %r; the connection stays", subject)

    def _take_line(self, verb: bytes, rest: bytes) -> None:
        if verb == b"PING":
            self.write(PONG)
        elif verb == b"PONG":
            if self._pongs and not (pong := self._pongs.popleft()).done():
                pong.set_result(True)
        elif verb == b"INFO":
            self._take_info(rest)
        elif verb == b"-ERR":
            self._take_error(rest.decode("utf-8", "replace").strip("'"))

    def _take_info(self, rest: bytes) -> None:
        try:
            info = msgspec.json.decode(rest, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"its INFO is not JSON: {error}") from None
        self.info = info
        if not self._greeted.done():
            self._greeted.set_result(True)

    def _take_error(self, text: str) -> None:
        """Remember why; the server closes the connection itself, unless only a subject was forbidden."""
        if text.lower().startswith("permissions violation"):
            log.warning("NATS refuses a subject: %s. See docs/backends/nats.md for the permissions of a worker.", text)
        else:
            self.why = text

    # ── opening and closing ──

    async def open(self, address: NatsAddress, host: Host, *, name: str) -> None:
        """Connect, encrypt, log in.

        :raises OSError, BadLogin, TimeoutError: the server does not take this connection.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._open(address, host, name)
        except BaseException:
            self.abort()
            raise

    async def _open(self, address: NatsAddress, host: Host, name: str) -> None:
        context = address.tls()
        first = context if address.tls_first else None
        await asyncio.get_running_loop().create_connection(
            lambda: self, host.name, host.port, ssl=first, server_hostname=host.name if first else None
        )
        if not await self._greeted:
            raise BadLogin(self.why)
        offered = bool(self.info.get("tls_required") or self.info.get("tls_available"))
        if first is None and (self.info.get("tls_required") or (address.encrypted and offered)):
            await self._encrypt(context or ssl.create_default_context(), host)
        elif first is None and address.encrypted:
            raise BadLogin("the server offers no TLS here, and the URL says tls://")
        self.write(connect_line(address, host, self.info, name=name))
        if not await self.ping(CONNECT_TIMEOUT):
            raise BadLogin(self.why or "it did not answer the login")

    async def _encrypt(self, context: ssl.SSLContext, host: Host) -> None:
        if not self._parser.is_between or self._transport is None:
            raise BadLogin("something stands between: it sent more than the server's INFO before TLS")
        loop = asyncio.get_running_loop()
        self._transport = cast(
            "asyncio.Transport", await loop.start_tls(self._transport, self, context, server_hostname=host.name)
        )

    async def close(self) -> None:
        """Let what was written leave, then close; without it, if the server does not take it in time."""
        try:
            if self._transport is not None:
                self._transport.close()
                await asyncio.wait([self.ended], timeout=CLOSE_TIMEOUT)
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever state it is in."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
