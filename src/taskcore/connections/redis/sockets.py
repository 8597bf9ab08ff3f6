"""redis-py's connections, made to abort their transport when they are disconnected.

A polite close waits: TLS says goodbye and expects an answer, and bytes that were not sent yet are to be sent first. A
server that hangs would keep the socket open, and its sender waiting, without end. redis-py disconnects by itself after
an error, so only its own ``disconnect`` can be made to abort.

This module and ``is_closed`` stand below redis-py's public API: see docs/adr/0007-redis-py-below-its-client.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

__all__ = ["TcpConnection", "TlsConnection", "UnixConnection", "is_closed"]


class _Aborting(AbstractConnection):
    """Does not wait for the server when it is disconnected."""

    async def disconnect(self, *arguments: Any, **named: Any) -> None:
        """Abort the transport; the loop closes the socket in its next round."""
        named.pop("nowait", None)  # redis-py's option to wait, wherever it has one
        writer: asyncio.StreamWriter | None = self._writer
        try:
            await super().disconnect(True, *arguments[1:], **named)  # noqa: FBT003 - redis-py's signature
        finally:
            if writer is not None:
                writer.transport.abort()


class TcpConnection(_Aborting, Connection):
    """Plain TCP."""


class TlsConnection(_Aborting, SSLConnection):
    """TLS."""


class UnixConnection(_Aborting, UnixDomainSocketConnection):
    """A socket in the file system."""


def is_closed(connection: AbstractConnection) -> bool:
    """Tell whether the server has closed the connection, as far as has arrived; redis-py looks only when it reads."""
    reader: asyncio.StreamReader | None = getattr(connection, "_reader", None)
    return reader is None or reader.at_eof() or reader.exception() is not None
