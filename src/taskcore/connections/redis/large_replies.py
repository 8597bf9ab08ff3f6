"""Replies that are larger than the server sends: it ends the connection instead, at ``client-output-buffer-limit``.

What was asked together is then asked in smaller parts. For what is too large alone an error names its size and the way
out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from taskcore.connections.redis.refusals import ReplyLost

__all__ = ["SENT_ALWAYS", "UNSENT", "UNSENT_FIX", "in_parts"]

T = TypeVar("T")
R = TypeVar("R")

SENT_ALWAYS: Final = 16 * 1024  #: bytes of a reply that no limit forbids: they are in a buffer of their own
UNSENT: Final = "more than this Redis sends in one reply (client-output-buffer-limit)"
UNSENT_FIX: Final = (
    'CONFIG SET client-output-buffer-limit "normal 0 0 0", or a larger limit, and smaller payloads and results'
)


async def in_parts(read: Callable[[Sequence[T]], Awaitable[list[R]]], items: Sequence[T]) -> list[R]:
    """Read these items together; if the connection is cut, each half alone.

    :raises ReplyLost: one item alone has no reply.
    """
    try:
        return await read(items)
    except ReplyLost as lost:
        if not lost.cut or len(items) == 1:
            raise
    middle = len(items) // 2
    return [*await in_parts(read, items[:middle]), *await in_parts(read, items[middle:])]
