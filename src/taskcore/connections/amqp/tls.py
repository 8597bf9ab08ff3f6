"""TLS from bytes to bytes. Its state belongs to a lock and not to an event loop, so a thread can write, too."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

__all__ = ["TLSLayer"]

READ_BYTES = 1 << 18  #: bytes


class TLSLayer:
    """The state of one connection; its user holds a lock around each call, and sends all that ``encrypt`` returns.

    :param host: whom the server's certificate must name.
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = b""

    async def shake_hands(self, reader: asyncio.StreamReader, transport: asyncio.WriteTransport) -> None:
        """Agree with the server; raises the errors of ``ssl``.

        :raises ConnectionResetError: the server closed the connection meanwhile.
        """
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                return
            finally:  # an error leaves an alert for the server
                transport.write(self._outgoing.read())
            data = await reader.read(READ_BYTES)
            if not data:
                raise ConnectionResetError("the server closed the connection during the TLS handshake")
            self._incoming.write(data)

    def encrypt(self, data: bytes | bytearray | memoryview = b"") -> bytes:
        """Return what is to be sent now; with nothing to encrypt, what the protocol itself has to say."""
        if data:
            self._object.write(data)
        unsent, self._unsent = self._unsent, b""
        return unsent + self._outgoing.read()

    def keep(self, unsent: bytes) -> None:
        """Keep the rest of what could not be sent; it comes first the next time."""
        self._unsent = unsent

    def decrypt(self, data: bytes) -> bytes:
        """Return what has arrived; b"" if a record is incomplete."""
        self._incoming.write(data)
        parts: list[bytes] = []
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):  # the server's last word; its socket ends, too
            while part := self._object.read(READ_BYTES):
                parts.append(part)
        return b"".join(parts)

    def farewell(self) -> bytes:
        """Return the last record of an orderly end."""
        with suppress(ssl.SSLError):  # the server's own farewell is not waited for
            self._object.unwrap()
        return self.encrypt()
