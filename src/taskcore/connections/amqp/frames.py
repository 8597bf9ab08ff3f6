"""AMQP 0-9-1 frames, as far as they are on the way of every job: packed and read by hand.

A client library makes an object of each frame, of each property and of each header, and gives up the connection when
somebody's header cannot be decoded. Here a job is a few bytes around a body, and what cannot be decoded is skipped:

    type  channel  size  payload  0xCE        type 1: a method, 2: the properties of a message, 3: a part of its body

Only the layout of the protocol is used, nothing of any library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

__all__ = [
    "ACK",
    "BLOCKED",
    "BODY",
    "CANCEL",
    "CHANNEL_CLOSE",
    "DELIVER",
    "END",
    "HEAD",
    "HEARTBEAT",
    "METHOD",
    "NACK",
    "PROPERTIES",
    "QOS_OK",
    "RETURN",
    "UNBLOCKED",
    "Properties",
    "Value",
    "ack",
    "cancel",
    "frames",
    "method_frame",
    "nack",
    "publisher",
    "qos",
    "read_properties",
    "reject",
    "short",
]

Value: TypeAlias = str | int | bytes

METHOD, PROPERTIES, BODY = 1, 2, 3  #: types of frames
END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
HEAD: Final = struct.Struct(">BHI")  #: type, channel, size

#: Methods that the fast path meets: class and method in one number.
CHANNEL_CLOSE: Final = 20 << 16 | 40
CANCEL: Final = 60 << 16 | 30
QOS_OK: Final = 60 << 16 | 11
RETURN: Final = 60 << 16 | 50
DELIVER: Final = 60 << 16 | 60
ACK: Final = 60 << 16 | 80
NACK: Final = 60 << 16 | 120
BLOCKED: Final = 10 << 16 | 60
UNBLOCKED: Final = 10 << 16 | 61

PERSISTENT: Final = b"\x02"
HAS_HEADERS, HAS_MODE, HAS_ID = 1 << 13, 1 << 12, 1 << 7


# ── packing ──────────────────────────────────────────────────────────────────────────────────────


def short(text: str) -> bytes:
    """A short string; names of queues and exchanges have at most 255 bytes."""
    data = text.encode()
    return bytes((len(data),)) + data


def method_frame(channel: int, payload: bytes) -> bytes:
    """A frame with one method."""
    return HEAD.pack(1, channel, len(payload)) + payload + END


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """The delivery is done; with ``multiple`` all before it too."""
    return method_frame(channel, struct.pack(">HHQB", 60, 80, tag, multiple))


def reject(channel: int, tag: int, *, back: bool) -> bytes:
    """The delivery goes back to its queue, and counts as one that came to nothing; or to where the dead go."""
    return method_frame(channel, struct.pack(">HHQB", 60, 90, tag, back))


def nack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """The delivery goes back to its queue."""
    return method_frame(channel, struct.pack(">HHQB", 60, 120, tag, 2 | multiple))


def qos(channel: int, prefetch: int) -> bytes:
    """How many unsettled deliveries consumers may have that start from now on; it is always answered."""
    return method_frame(channel, struct.pack(">HHIHB", 60, 10, 0, prefetch, 0))


def cancel(channel: int, consumer: str) -> bytes:
    """Stop consuming; not answered."""
    return method_frame(channel, struct.pack(">HH", 60, 30) + short(consumer) + b"\x01")


class publisher:  # noqa: N801 - a function with two things prepared
    """Packs messages for one place: persistent, mandatory.

    :param frame_max: bytes of the largest frame that the server takes.
    """

    __slots__ = ("_before", "_channel", "_part")

    def __init__(self, channel: int, exchange: str, key: str, frame_max: int) -> None:
        method = struct.pack(">HHH", 60, 40, 0) + short(exchange) + short(key) + b"\x01"
        self._before = method_frame(channel, method)
        self._channel = channel
        self._part = frame_max - HEAD.size - 1

    def pack(self, message_id: bytes, headers: Mapping[str, Value], body: bytes) -> bytes:
        """All frames of one message."""
        flags = HAS_MODE | HAS_ID | (HAS_HEADERS if headers else 0)
        properties = struct.pack(">HHQH", 60, 0, len(body), flags)
        if headers:
            properties += _table(headers)
        properties += PERSISTENT + bytes((len(message_id),)) + message_id
        head, channel = HEAD.pack, self._channel
        parts = [self._before, head(2, channel, len(properties)), properties, END]
        if len(body) <= self._part:
            if body:
                parts += (head(3, channel, len(body)), body, END)
        else:
            for start in range(0, len(body), self._part):
                part = body[start : start + self._part]
                parts += (head(3, channel, len(part)), part, END)
        return b"".join(parts)


def _table(headers: Mapping[str, Value]) -> bytes:
    rows: list[bytes] = []
    for name, value in headers.items():
        rows.append(short(name))
        if isinstance(value, int):
            rows.append(b"l" + struct.pack(">q", value))
        else:
            data = value.encode() if isinstance(value, str) else value
            rows.append(b"S" + struct.pack(">I", len(data)) + data)
    whole = b"".join(rows)
    return struct.pack(">I", len(whole)) + whole


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


class Properties:
    """What is known about a message besides its body; of foreign ones as much as can be read.

    :ivar headers: whole numbers, and strings as bytes; what else there is is left out.
    :ivar message_id: as bytes, because nobody promises that it is text.
    """

    __slots__ = ("headers", "message_id")

    def __init__(self) -> None:
        self.headers: dict[bytes, int | bytes] = {}
        self.message_id = b""


def read_properties(payload: bytes) -> Properties:
    """The properties in a frame of type 2; never an error, whatever is in it."""
    found = Properties()
    with suppress(struct.error, IndexError):  # shorter than it says: what was read so far is all there is
        _read(payload, found)
    return found


def _read(payload: bytes, found: Properties) -> None:
    [flags] = struct.unpack_from(">H", payload, 12)
    at = 14
    if flags & 1:  # more flags follow, which no version of the protocol defines
        return
    for bit in (15, 14):  # content type, content encoding
        if flags >> bit & 1:
            at += 1 + payload[at]
    if flags & HAS_HEADERS:
        [size] = struct.unpack_from(">I", payload, at)
        at += 4
        _read_table(payload, at, at + size, found.headers)
        at += size
    at += bool(flags & HAS_MODE) + (flags >> 11 & 1)  # delivery mode, priority
    for bit in (10, 9, 8):  # correlation id, reply to, expiration
        if flags >> bit & 1:
            at += 1 + payload[at]
    if flags & HAS_ID:
        found.message_id = payload[at + 1 : at + 1 + payload[at]]


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
        elif kind in _LONG:
            [size] = struct.unpack_from(">I", data, at)
            at += 4
            if kind == b"S":
                found[name] = data[at : at + size]
            elif name == DEATHS:
                found |= _first_death(data, at, at + size)
            at += size
        elif kind in _SIZES:
            at += _SIZES[kind]
        else:
            return  # a kind that nobody has heard of: where the next one begins cannot be known


DEATHS: Final = b"x-death"


def _first_death(data: bytes, at: int, end: int) -> dict[bytes, int | bytes]:
    """Why and when the broker itself moved the message, from the first table in its list."""
    inside: dict[bytes, int | bytes] = {}
    if at < end and data[at : at + 1] == b"F":
        [size] = struct.unpack_from(">I", data, at + 1)
        _read_table(data, at + 5, at + 5 + size, inside)
    return {b"x-death." + name: value for name, value in inside.items()}


_NUMBERS: Final = {
    b"b": struct.Struct(">b"), b"B": struct.Struct(">B"), b"s": struct.Struct(">h"), b"u": struct.Struct(">H"),
    b"I": struct.Struct(">i"), b"i": struct.Struct(">I"), b"l": struct.Struct(">q"), b"L": struct.Struct(">Q"),
    b"T": struct.Struct(">Q"), b"t": struct.Struct(">?"),
}  # fmt: skip
_LONG: Final = frozenset((b"S", b"A", b"F", b"x"))
_SIZES: Final = {b"f": 4, b"d": 8, b"D": 5, b"V": 0}


def frames(data: bytes | bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Every whole frame at the beginning of the data: its type, its channel, where its payload begins and ends."""
    at, size = 0, len(data)
    while size - at >= HEAD.size:
        kind, channel, length = HEAD.unpack_from(data, at)
        end = at + HEAD.size + length
        if end >= size:
            return
        yield kind, channel, at + HEAD.size, end
        at = end + 1
