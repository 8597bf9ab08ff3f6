"""NATS' client protocol, without any input or output: bytes in, events out, and back.

    INFO {…}                                    what the server says about itself; again when that changes
    MSG subject number [reply] size             a message, its body behind the line
    HMSG subject number [reply] headers size    the same with headers; both sizes are of bytes, the second of the whole
    PING · PONG · +OK · -ERR 'why'

A parser takes what arrives, in whatever pieces. A message goes to one function, each other line to another one. Bytes
that are not NATS raise ProtocolError; a line and a message have a largest size, so memory is bounded.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "LINE_LIMIT", "PING", "PONG", "SIZE_LIMIT", "Handler", "Message", "Parser", "ProtocolError", "Reply",
    "encode_message", "encode_subscription", "header_of", "number_of", "plain_token", "size_of",
]  # fmt: skip

LINE_LIMIT: Final = 65_536  #: bytes of a line; an INFO that lists a thousand servers has half of that
SIZE_LIMIT: Final = 65 * 1024 * 1024  #: bytes of a message; a server's max_payload is 64 MiB at most
HEADERS_FRAME: Final = 12  #: bytes around the headers
PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"

_CR, _LF = b"\r\n"
_VERBS: Final = frozenset({b"INFO", b"PING", b"PONG", b"+OK", b"-ERR"})

#: subject, reply subject, body, headers as they are on the wire
Handler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]


class ProtocolError(Exception):
    """The peer sends bytes that are not NATS, or too many of them."""


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


class Message(NamedTuple):
    """A message to be sent: ``headers`` as lines, each with its end, or nothing."""

    subject: bytes
    body: bytes
    headers: bytes = b""


def plain_token(text: str, plain: re.Pattern[str]) -> str:
    """Return a text as one token of a subject: itself if it is plain, else its hash."""
    if plain.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return "~" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def size_of(message: Message) -> int:
    """Return the bytes that a server counts against its max_payload."""
    return len(message.body) + (len(message.headers) + HEADERS_FRAME if message.headers else 0)


def encode_message(message: Message, reply: bytes = b"") -> bytes:
    """Return one message as bytes for the wire."""
    subject, body, headers = message
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
    size = len(headers) + HEADERS_FRAME
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (subject, reply, size, size + len(body), headers, body)


def encode_subscription(subject: bytes, number: int) -> bytes:
    """Return the line that asks for the messages of a subject; they come with this number."""
    return b"SUB %b  %d\r\n" % (subject, number)


# ── what arrives ─────────────────────────────────────────────────────────────────────────────────


class Reply(NamedTuple):
    """The reply to a request: the body, and the headers as they were on the wire."""

    body: bytes
    headers: bytes

    @property
    def status(self) -> bytes:
        """``b"503"`` where no subscriber exists; empty for an ordinary answer, and for a message of a stream."""
        if not self.headers.startswith(b"NATS/1.0 ") or b"Nats-Sequence:" in self.headers:
            return b""
        return self.headers[9:12]


def header_of(headers: bytes, name: bytes) -> bytes:
    """Return the value of a header, empty if there is none; of a name that is there twice the first counts."""
    return headers.partition(b"\r\n%b:" % name)[2].partition(b"\r\n")[0].strip()


def number_of(headers: bytes, name: bytes) -> int:
    """Return the whole number in a header; 0 if there is none."""
    text = header_of(headers, name)
    return int(text) if text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004 - more digits than 64 bits have


class Parser:
    """Takes the bytes that a server sends apart.

    :param on_message: called with number, subject, reply subject, body and headers of each message.
    :param on_line: called with the verb and the rest of each other line.
    """

    def __init__(
        self,
        on_message: Callable[[int, bytes, bytes, bytes, bytes], None],
        on_line: Callable[[bytes, bytes], None],
    ) -> None:
        self._on_message = on_message
        self._on_line = on_line
        self._pieces: list[bytes] = []  # what is not whole yet
        self._size = 0  # the bytes in them …
        self._needed = 0  # … and how many there have to be before another look is worth it

    @property
    def is_between(self) -> bool:
        """Whether everything that came was whole."""
        return not self._size

    def feed(self, data: bytes) -> None:
        """Take what arrived; call back for all that is whole.

        :raises ProtocolError: it is not NATS; nothing may be fed after that.
        """
        if self._pieces:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return
            data = b"".join(self._pieces)
            self._pieces = []
        self._size = 0
        rest = self._parse(data)
        if rest:
            self._pieces = [rest]
            self._size = len(rest)

    def _parse(self, data: bytes) -> bytes:
        """Take apart all that is whole; return the rest. It runs for every message, so it is written for speed."""
        place, whole, on_message = 0, len(data), self._on_message
        while place < whole:
            end = data.find(b"\r\n", place, place + LINE_LIMIT)
            if end < 0:
                if whole - place >= LINE_LIMIT:
                    raise ProtocolError(f"a line has more than {LINE_LIMIT:,} bytes")
                self._needed = whole - place + 1
                break
            words = data[place:end].split()
            verb = words[0] if words else b""
            if verb != b"MSG" and verb != b"HMSG":  # noqa: PLR1714 - quicker than a set
                self._take_line(data[place:end])
                place = end + 2
                continue
            try:
                number, size = int(words[2]), int(words[-1])
                head, fixed = (0, 4) if verb == b"MSG" else (int(words[-2]), 5)
            except (ValueError, IndexError):
                raise ProtocolError(f"this is not a message: {data[place:end][:80]!r}") from None
            count = len(words)
            if not (fixed <= count <= fixed + 1 and 0 <= head <= size <= SIZE_LIMIT):
                raise ProtocolError(f"this is not a message, or one of an impossible size: {data[place:end][:80]!r}")
            start = end + 2
            stop = start + size
            if stop + 2 > whole:
                self._needed = stop + 2 - place
                break
            if data[stop] != _CR or data[stop + 1] != _LF:
                raise ProtocolError("a message does not end where its size says")
            reply = words[3] if count > fixed else b""
            if head:
                on_message(number, words[1], reply, data[start + head : stop], data[start : start + head])
            else:
                on_message(number, words[1], reply, data[start:stop], b"")
            place = stop + 2
        return data[place:]

    def _take_line(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        if verb not in _VERBS:
            raise ProtocolError(f"this is not NATS: {line[:80]!r}")
        self._on_line(verb, rest.strip())
