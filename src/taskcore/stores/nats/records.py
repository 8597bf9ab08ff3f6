"""How a record looks on the wire.

    <prefix>.r.<key>        stream <prefix>-store, which keeps the last write of each subject

    Tc-Ends     when its time is over: milliseconds since the epoch, by the server's clock; 0: never
    Tc-Gone     the record was deleted; this mark goes with the next write or a moment later

A version is the number of the write in the stream, which never comes again, and the end: so whoever writes under a
version knows whether its time is over, also where the server still has the record.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from typing import Any

import msgspec

from taskcore.connections.nats import Answer, Message, parse_headers
from taskcore.connections.nats.answers import stored_in
from taskcore.errors import BrokerUnavailable
from taskcore.store import Record, Version

__all__ = [
    "Found",
    "ends_at",
    "key_token",
    "read_answer",
    "read_stored",
    "tombstone",
    "version_of",
    "wanted_of",
    "write_message",
]

_PLAIN = re.compile(r"[A-Za-z0-9_/-]{1,200}")
TOMB = 2  #: seconds for which a mark stays where the server can take it away by itself


class Found(msgspec.Struct, frozen=True):
    """What lies under a key: a record, or the mark of a deleted one."""

    number: int
    ends: int
    gone: bool
    value: bytes

    def alive(self, now: float) -> bool:
        """Whether it is a record whose time is not over."""
        return not self.gone and (not self.ends or now * 1000 < self.ends)

    @property
    def record(self) -> Record:
        """As the seam knows it."""
        return Record(self.value, version_of(self.number, self.ends))


def key_token(key: str) -> str:
    """A key as one token of a subject: itself, or its hash if it cannot be one."""
    if _PLAIN.fullmatch(key):
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return "~" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def version_of(number: int, ends: int) -> str:
    """The version of a write."""
    return f"{number}.{ends}"


def wanted_of(version: Version) -> tuple[int, int]:
    """The number and the end in a version; -1 if it is none of ours."""
    number, _, ends = str(version).partition(".")
    return (int(number), int(ends)) if number.isdigit() and ends.isdigit() else (-1, 0)


def ends_at(now: float, keep: float | None) -> int:
    """The moment at which a record that is written now ends."""
    return 0 if keep is None else max(math.ceil((now + min(keep, 1e10)) * 1000), 1)


def write_message(
    subject: bytes, value: bytes, *, ends: int, keep: float | None, expected: int | None, native: bool
) -> Message:
    """One write.

    :param expected: the number of the write that has to be the last; 0: none, None: any.
    :param native: whether the server takes records away by itself.
    """
    headers = b"Tc-Ends: %d\r\n" % ends
    if expected is not None:
        headers += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expected
    if native and keep is not None:
        headers += b"Nats-TTL: %ds\r\n" % (math.ceil(min(keep, 1e9)) + 1)
    return Message(subject, value, headers)


def tombstone(subject: bytes, *, expected: int, native: bool) -> Message:
    """The mark of a deleted record, in its place."""
    headers = b"Tc-Gone: 1\r\nNats-Expected-Last-Subject-Sequence: %d\r\n" % expected
    return Message(subject, b"", headers + (b"Nats-TTL: %ds\r\n" % TOMB if native else b""))


def read_answer(answer: Answer) -> Found | None:
    """What a direct question was answered with.

    :raises BrokerUnavailable: nobody can say at the moment.
    """
    if answer.status == b"404":
        return None
    if answer.status or not answer.headers:
        raise BrokerUnavailable(
            "the store cannot say what is there", facts=[answer.headers[:60].decode("ascii", "replace")]
        )
    headers = parse_headers(answer.headers)
    return _found(headers, int(headers.get(b"Nats-Sequence", b"0")), answer.body)


def read_stored(answer: dict[str, Any]) -> Found | None:
    """What the stream's leader answered.

    :raises BrokerUnavailable: it cannot say at the moment.
    """
    stored = stored_in(answer)
    if stored is None:
        return None
    headers = parse_headers(base64.b64decode(stored.get("hdrs") or ""))
    return _found(headers, int(stored["seq"]), base64.b64decode(stored.get("data") or ""))


def _found(headers: dict[bytes, bytes], number: int, value: bytes) -> Found:
    ends = headers.get(b"Tc-Ends", b"0")
    return Found(number, int(ends) if ends.isdigit() else 0, b"Tc-Gone" in headers, value)
