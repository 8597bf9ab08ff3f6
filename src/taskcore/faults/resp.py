"""One command to a Redis on this machine, without a client library: what sets of servers need to be put together."""

from __future__ import annotations

from typing import Any

import anyio

from taskcore.errors import BrokerUnavailable
from taskcore.faults.sockets import HOST, connect, receive, send

__all__ = ["ErrorReply", "command"]

EOL = b"\r\n"


class ErrorReply(RuntimeError):
    """The server answered with an error; the text is its own."""


async def command(port: int, *parts: str | bytes | int, within: float = 5.0) -> Any:
    """Return the server's answer: bytes, int, None, or a list of these. Simple strings are bytes too.

    :raises ErrorReply: it answered with an error.
    :raises BrokerUnavailable: it did not answer within so many seconds.
    """
    words = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    question = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    try:
        with anyio.fail_after(within):
            answer, _ = await _exchange(port, question)
    except OSError as error:  # a TimeoutError is one
        raise BrokerUnavailable(f"no answer to {parts[0]!r} from port {port}: {error}") from error
    if isinstance(answer, ErrorReply):
        raise answer
    return answer


async def _exchange(port: int, question: bytes) -> tuple[Any, int]:
    with await connect(HOST, port) as connection:
        await send(connection, question)
        data = b""
        while chunk := await receive(connection):
            data += chunk
            try:
                return _read(data, 0)
            except _Incomplete:
                continue
    raise ConnectionResetError("it hung up")


class _Incomplete(Exception):
    """There is more to come."""


def _read(data: bytes, start: int) -> tuple[Any, int]:
    """Read the reply that begins at ``start``, and where the next one begins."""
    end = data.find(EOL, start)
    if end < 0:
        raise _Incomplete
    kind, line, after = data[start : start + 1], data[start + 1 : end], end + len(EOL)
    if kind == b"$":
        return _read_bytes(data, after, int(line))
    if kind == b"*":
        items = []
        for _ in range(int(line)):
            item, after = _read(data, after)
            items.append(item)
        return items, after
    if kind == b"-":
        return ErrorReply(line.decode(errors="replace")), after
    return int(line) if kind == b":" else line, after


def _read_bytes(data: bytes, start: int, length: int) -> tuple[bytes | None, int]:
    if length < 0:
        return None, start
    end = start + length
    if len(data) < end + len(EOL):
        raise _Incomplete
    return data[start:end], end + len(EOL)
