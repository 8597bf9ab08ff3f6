"""The wire: one connection of nats-py, with a way of its own for what arrives and what leaves.

nats-py connects, encrypts, authenticates and pings. What arrives goes from its parser straight to our handlers, as
bytes: no task and no queue for each subscription, and nothing that a stranger puts into subjects or headers can raise
in the reading loop, which would leave the client deaf. What leaves is written in one piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from nats.aio.client import Client
from nats.errors import Error as NatsError

from taskcore.connections.nats.address import Address, Host
from taskcore.connections.nats.credentials import read_credentials
from taskcore.connections.nats.reader import Reader
from taskcore.toolkit.logging import logger

__all__ = ["Answer", "Handler", "Parcel", "Wire", "connect", "frame", "headers_of"]

log = logger("taskcore.nats")
logging.getLogger("nats.aio.client").addHandler(logging.NullHandler())

CONNECTING = 3.0  #: seconds for one server to take a connection
CLOSING = 1.0  #: seconds in which a connection has to be closed

#: subject, reply subject, body, headers as they are on the wire
Handler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]


class Parcel(NamedTuple):
    """What is sent: ``headers`` as lines, each with its end, or nothing."""

    subject: bytes
    body: bytes
    headers: bytes = b""


class Answer(NamedTuple):
    """What came back: the body, and the headers as they were on the wire."""

    body: bytes
    headers: bytes

    @property
    def status(self) -> bytes:
        """``b"503"`` where nobody listens; empty for an ordinary answer."""
        return self.headers[9:12] if self.headers.startswith(b"NATS/1.0 ") else b""


def frame(parcel: Parcel, reply: bytes = b"") -> bytes:
    """One parcel as bytes for the wire."""
    subject, body, headers = parcel
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
    size = len(headers) + 12
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (subject, reply, size, size + len(body), headers, body)


def headers_of(raw: bytes) -> dict[bytes, bytes]:
    """Headers by name; of a name that is there twice the first counts."""
    found: dict[bytes, bytes] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


class Wire(Client):
    """One connection; it ends for good with the first trouble, and a new one takes its place."""

    def __init__(self, *, encrypted: bool) -> None:
        super().__init__()
        self.handlers: dict[int, Handler] = {}
        self.ended = asyncio.Event()
        self.why: BaseException | None = None
        self._encrypted = encrypted
        self._ps = Reader(self)

    @property
    def alive(self) -> bool:
        """Whether it can be written to."""
        return self.is_connected and not self.ended.is_set()

    @property
    def info(self) -> dict[str, Any]:
        """What the server said about itself."""
        return self._server_info

    def subscribe_raw(self, subject: bytes, number: int, handler: Handler) -> None:
        """Hear this subject; ``number`` is the caller's."""
        self.handlers[number] = handler
        self.write(b"SUB %b  %d\r\n" % (subject, number))

    def unsubscribe_raw(self, number: int) -> None:
        """Ask the server for no more; what is on its way still comes to the handler."""
        self.write(b"UNSUB %d\r\n" % number)

    def write(self, data: bytes) -> None:
        """Write at once, in one piece."""
        transport: Any = self._transport
        transport.write(data)

    async def written(self, *, until: float) -> None:
        """Wait while too much is waiting to leave, at most until this time of the loop's."""
        transport: Any = self._transport
        if transport._io_writer.transport.get_write_buffer_size():  # noqa: SLF001 - a time limit costs more than a look
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await transport.drain()

    async def broke(self, error: OSError) -> None:
        """Writing failed; its reader may not have noticed yet, and gets its turn now."""
        self.why = self.why or error
        self.ended.set()
        await asyncio.sleep(0)

    def take(self, number: int, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        """What arrives, from our reader; an exception here would end nats-py's reading loop for ever."""
        handler = self.handlers.get(number)
        if handler is not None:
            try:
                handler(subject, reply, body, headers)
            except Exception:
                log.exception("could not take in what came on %r", subject)

    def _connect_command(self) -> bytes:
        """The first thing that we send, credentials included: never in plain text where TLS was asked for."""
        transport: Any = self._transport
        if self._encrypted and transport._io_writer.get_extra_info("ssl_object") is None:  # noqa: SLF001
            raise NatsError("the server offers no TLS here, and the URL says tls://")
        return super()._connect_command()

    async def abandon(self) -> None:
        """Close, whatever state it is in."""
        self.ended.set()
        transport: Any = self._transport
        try:
            with contextlib.suppress(Exception):  # the peer may be gone, frozen or talking nonsense: we leave anyway
                async with asyncio.timeout(CLOSING):
                    await self.close()
        finally:
            for writer in (getattr(transport, "_io_writer", None), getattr(transport, "_bare_io_writer", None)):
                if writer is not None:
                    writer.transport.abort()
            await asyncio.sleep(0)


async def connect(address: Address, host: Host, *, name: str) -> Wire:
    """A connection to one server.

    :raises OSError, NatsError, TimeoutError: there is none; whatever the library raises.
    """
    wire = Wire(encrypted=address.encrypted)

    async def remember(error: Exception) -> None:
        wire.why = error
        log.debug("%s: %s", host.text, error)

    async def ended() -> None:
        wire.ended.set()

    callback: Callable[[], Awaitable[None]] = ended
    options: dict[str, Any] = {
        "servers": [f"nats://{host.text}"],
        "name": name,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        "connect_timeout": CONNECTING,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "pending_size": 0,
        "error_cb": remember,
        "disconnected_cb": callback,
        "closed_cb": callback,
        "tls": address.tls(),
        "tls_hostname": host.name,
        "token": address.token,
        "user_credentials": read_credentials(address.creds) if address.creds else None,
        "nkeys_seed": address.nkey,
    }
    if host.user is not None and host.password is not None:
        options |= {"user": host.user, "password": host.password}
    elif host.user is not None:
        options["token"] = host.user
    try:
        async with asyncio.timeout(CONNECTING):
            await wire.connect(**options)
    except BaseException:
        await wire.abandon()
        raise
    return wire
