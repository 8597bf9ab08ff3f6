"""AMQP 0-9-1 frames on the path of every job, packed and parsed by hand.

    type  channel  size  payload  0xCE        type 1: a method, 2: the properties of a message, 3: a part of its body

A client library makes an object of every frame, property and header, and closes the connection at a header that it
cannot decode. Here a job is a few bytes around a body, and what cannot be decoded is skipped. This module knows the
protocol only; it imports no client library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec

__all__ = [
    "BODY", "FRAME_END", "FRAME_HEAD", "HEARTBEAT", "METHOD", "PROPERTIES", "HeaderValue", "MessagePacker", "Method",
    "Properties", "ack", "cancel", "method_frame", "nack", "qos", "read_properties", "short_string",
    "split_frames",
]  # fmt: skip

HeaderValue: TypeAlias = str | int | bytes

METHOD, PROPERTIES, BODY = 1, 2, 3  #: types of frames
FRAME_HEAD: Final = struct.Struct(">BHI")  #: type, channel, size
FRAME_END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class Method:
    """The methods that the filter meets: class and method in one number."""

    BLOCKED: Final = 10 << 16 | 60
    UNBLOCKED: Final = 10 << 16 | 61
    CHANNEL_CLOSE: Final = 20 << 16 | 40
    QOS_OK: Final = 60 << 16 | 11
    CANCEL: Final = 60 << 16 | 30
    RETURN: Final = 60 << 16 | 50
    DELIVER: Final = 60 << 16 | 60
    ACK: Final = 60 << 16 | 80
    NACK: Final = 60 << 16 | 120


PERSISTENT: Final = b"\x02"
HAS_HEADERS, HAS_DELIVERY_MODE, HAS_MESSAGE_ID = 1 << 13, 1 << 12, 1 << 7


# ── packing ──────────────────────────────────────────────────────────────────────────────────────


def short_string(text: str) -> bytes:
    """Pack a short string; names of queues and exchanges have at most 255 bytes."""
    data = text.encode()
    return bytes((len(data),)) + data


def method_frame(channel: int, payload: bytes) -> bytes:
    """Pack one method."""
    return FRAME_HEAD.pack(METHOD, channel, len(payload)) + payload + FRAME_END


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Pack ``basic.ack``: of one delivery, or of it and all before it."""
    return method_frame(channel, struct.pack(">HHQB", 60, 80, tag, multiple))


def nack(channel: int, tag: int, *, multiple: bool = False, requeue: bool = True) -> bytes:
    """Pack ``basic.nack``: return a delivery, or it and all before it, to the queue as failed; or dead-letter it."""
    return method_frame(channel, struct.pack(">HHQB", 60, 120, tag, multiple | requeue << 1))


def qos(channel: int, prefetch: int) -> bytes:
    """Pack ``basic.qos``: the limit of unsettled deliveries for consumers that start later. It is always answered."""
    return method_frame(channel, struct.pack(">HHIHB", 60, 10, 0, prefetch, 0))


def cancel(channel: int, consumer: str) -> bytes:
    """Pack ``basic.cancel`` that is not answered."""
    return method_frame(channel, struct.pack(">HH", 60, 30) + short_string(consumer) + b"\x01")


class MessagePacker:
    """Packs persistent, mandatory messages for one exchange and routing key.

    :param frame_max: bytes of the largest frame that the server takes.
    """

    __slots__ = ("_channel", "_max_part", "_publish")

    def __init__(self, channel: int, exchange: str, key: str, frame_max: int) -> None:
        method = struct.pack(">HHH", 60, 40, 0) + short_string(exchange) + short_string(key) + b"\x01"
        self._publish = method_frame(channel, method)
        self._channel = channel
        self._max_part = frame_max - FRAME_HEAD.size - 1

    def pack(self, message_id: bytes, headers: Mapping[str, HeaderValue], body: bytes) -> bytes:
        """Pack all frames of one message."""
        flags = HAS_DELIVERY_MODE | HAS_MESSAGE_ID | (HAS_HEADERS if headers else 0)
        properties = struct.pack(">HHQH", 60, 0, len(body), flags)
        if headers:
            properties += _table(headers)
        properties += PERSISTENT + bytes((len(message_id),)) + message_id
        head, channel, size = FRAME_HEAD.pack, self._channel, self._max_part
        parts = [self._publish, head(PROPERTIES, channel, len(properties)), properties, FRAME_END]
        if len(body) <= size:
            if body:
                parts += (head(BODY, channel, len(body)), body, FRAME_END)
        else:
            for start in range(0, len(body), size):
                part = body[start : start + size]
                parts += (head(BODY, channel, len(part)), part, FRAME_END)
        return b"".join(parts)


def _table(headers: Mapping[str, HeaderValue]) -> bytes:
    rows: list[bytes] = []
    for name, value in headers.items():
        rows.append(short_string(name))
        if isinstance(value, int):
            rows.append(b"l" + struct.pack(">q", value))
        else:
            data = value.encode() if isinstance(value, str) else value
            rows.append(b"S" + struct.pack(">I", len(data)) + data)
    table = b"".join(rows)
    return struct.pack(">I", len(table)) + table


# ── parsing ──────────────────────────────────────────────────────────────────────────────────────


class Properties(msgspec.Struct):
    """The readable properties of a message.

    :param headers: integers, and strings as bytes; other kinds are left out.
    :param message_id: as bytes, because a foreign id need not be text.
    """

    headers: dict[bytes, int | bytes] = {}
    message_id: bytes = b""


def read_properties(payload: bytes) -> Properties:
    """Parse the payload of a properties frame; never fails, and keeps what it read before a malformed part."""
    found = Properties()
    with suppress(struct.error, IndexError):  # the payload is shorter than its own sizes say
        [flags] = struct.unpack_from(">H", payload, 12)
        at = 14
        if flags & 1:  # more flags follow, which no version of the protocol defines
            return found
        for bit in (15, 14):  # content type, content encoding
            if flags >> bit & 1:
                at += 1 + payload[at]
        if flags & HAS_HEADERS:
            [size] = struct.unpack_from(">I", payload, at)
            at += 4
            _read_table(payload, at, at + size, found.headers)
            at += size
        at += bool(flags & HAS_DELIVERY_MODE) + (flags >> 11 & 1)  # delivery mode, priority
        for bit in (10, 9, 8):  # correlation id, reply to, expiration
            if flags >> bit & 1:
                at += 1 + payload[at]
        if flags & HAS_MESSAGE_ID:
            found.message_id = payload[at + 1 : at + 1 + payload[at]]
    return found


def _read_table(data: bytes, at: int, end: int, found: dict[bytes, int | bytes]) -> None:
    while at < end:
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        kind = data[at : at + 1]
        at += 1
        if kind in _NUMBERS:
            number = _NUMBERS[kind]
            [found[name]] = number.unpack_from(data, at)
            at += number.size
        elif kind in _SIZED:
            [size] = struct.unpack_from(">I", data, at)
            at += 4
            if kind == b"S":
                found[name] = data[at : at + size]
            elif name == DEATHS:
                found |= _first_death(data, at, at + size)
            at += size
        elif kind in _FIXED_SIZES:
            at += _FIXED_SIZES[kind]
        else:
            return  # an unknown kind has an unknown size


DEATHS: Final = b"x-death"


def _first_death(data: bytes, at: int, end: int) -> dict[bytes, int | bytes]:
    """Read why and when the broker itself moved the message: the first table in its list."""
    first: dict[bytes, int | bytes] = {}
    if at < end and data[at : at + 1] == b"F":
        [size] = struct.unpack_from(">I", data, at + 1)
        _read_table(data, at + 5, at + 5 + size, first)
    return {b"x-death." + name: value for name, value in first.items()}


_NUMBERS: Final = {
    b"b": struct.Struct(">b"), b"B": struct.Struct(">B"), b"s": struct.Struct(">h"), b"u": struct.Struct(">H"),
    b"I": struct.Struct(">i"), b"i": struct.Struct(">I"), b"l": struct.Struct(">q"), b"L": struct.Struct(">Q"),
    b"T": struct.Struct(">Q"), b"t": struct.Struct(">?"),
}  # fmt: skip
_SIZED: Final = frozenset((b"S", b"A", b"F", b"x"))
_FIXED_SIZES: Final = {b"f": 4, b"d": 8, b"D": 5, b"V": 0}


def split_frames(data: bytes | bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Find each complete frame at the start of the data: type, channel, start and end of its payload."""
    at, size = 0, len(data)
    while size - at >= FRAME_HEAD.size:
        kind, channel, length = FRAME_HEAD.unpack_from(data, at)
        end = at + FRAME_HEAD.size + length
        if end >= size:
            return
        yield kind, channel, at + FRAME_HEAD.size, end
        at = end + 1
