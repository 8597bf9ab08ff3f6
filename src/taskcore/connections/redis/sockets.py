"""redis-py's connections, which here are cut when they are disconnected, whoever does it.

Closing a transport is polite: TLS says goodbye and waits for an answer, and what was not sent yet is to be sent first.
A server that hangs would keep the socket open, and whoever is sending waiting, without end. And redis-py disconnects
by itself after an error, so that nobody else could cut what it has closed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

__all__ = ["TcpConnection", "TlsConnection", "UnixConnection"]


class _Cut(AbstractConnection):
    """Nobody waits for the other side when it is disconnected."""

    async def disconnect(self, *arguments: Any, **named: Any) -> None:
        """Hang up; the socket is closed in the loop's next round."""
        named.pop("nowait", None)  # redis-py's wish to wait, wherever it has one
        writer: asyncio.StreamWriter | None = self._writer
        try:
            await super().disconnect(True, *arguments[1:], **named)  # noqa: FBT003 - as redis-py has it
        finally:
            if writer is not None:
                writer.transport.abort()


class TcpConnection(_Cut, Connection):
    """Plain TCP."""


class TlsConnection(_Cut, SSLConnection):
    """TLS."""


class UnixConnection(_Cut, UnixDomainSocketConnection):
    """A socket in the file system."""
