"""Jobs as messages, and names as tokens of subjects.

The body is the envelope, followed by the trail if there is one; ``Tc-Trail`` says how long the trail is. So a shell
script can enqueue with the envelope alone. Headers are ours only: nothing that a user wrote becomes one.

    Tc-Trail        bytes of the trail at the end of the body
    Tc-Handed       how often the job was handed out without a verdict before this copy was made
    Tc-Delay        seconds, where the server has no schedules of its own
    Tc-Copy         the number of the job that this one replaces
    Tc-Reason       bytes of the reason behind the trail (dead letters)
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote, unquote

import msgspec

from taskcore.connections.nats import number_of, plain_token

__all__ = ["Packed", "at", "job_token", "letter", "queue_of", "queue_token", "travels", "unpack"]

LATEST = datetime(2200, 1, 1, tzinfo=UTC).timestamp()  #: what is later than that is not meant

REASON_ROOM = 512  #: bytes of a reason that are kept in any case
LENGTHS_ROOM = 128  #: bytes for the lengths of a letter's parts

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def queue_token(queue: str) -> str:
    """Return a queue's name as one token of a subject and part of a stream's name."""
    return quote(queue, safe="").replace("~", "%7E").replace(".", "~")


def queue_of(token: str) -> str:
    """Return the queue's name behind such a token."""
    return unquote(token.replace("~", "."))


def job_token(job_id: str) -> str:
    """Return a job's id as one token: itself, or its hash if it cannot be one."""
    return plain_token(job_id, _PLAIN)


class Packed(msgspec.Struct, frozen=True, gc=False):
    """The parts of a body."""

    envelope: bytes
    trail: bytes = b""
    handed: int = 0
    reason: bytes = b""


def travels(headers: bytes) -> bool:
    """Say whether anything travels beside the envelope."""
    return b"\r\nTc-" in headers


def unpack(body: bytes, headers: bytes) -> Packed:
    """Return the envelope and what travels beside it; what does not fit is part of the envelope."""
    if not travels(headers):
        return Packed(body)
    trail, reason = number_of(headers, b"Tc-Trail"), number_of(headers, b"Tc-Reason")
    handed = number_of(headers, b"Tc-Handed")
    end = len(body) - trail - reason
    if end < 0:
        return Packed(body, handed=handed)
    return Packed(body[:end], body[end : end + trail], handed, body[end + trail :])


def letter(packed: Packed, headers: bytes, room: int) -> tuple[bytes, bytes]:
    """Return the body and the headers of a dead letter that fits into a message.

    What is too large loses the trail first, then the end of the reason, and last the end of the envelope: only another
    program's message can have so many bytes that none is left for a reason.

    :param headers: what else stands in the headers.
    :param room: bytes that the server takes, headers included.
    """
    room -= len(headers) + LENGTHS_ROOM
    envelope, reason = packed.envelope[: room - REASON_ROOM], packed.reason
    trail = packed.trail if len(envelope) + len(packed.trail) + REASON_ROOM <= room else b""
    if len(envelope) < len(packed.envelope):
        reason = b"too large for a dead letter: of its %d bytes the first are kept; %b" % (len(packed.envelope), reason)
    reason = reason[: room - len(envelope) - len(trail)]
    lengths = b"Tc-Trail: %d\r\nTc-Reason: %d\r\n" % (len(trail), len(reason))
    return envelope + trail + reason, lengths + headers


def at(moment: float) -> str:
    """Return a moment, in seconds since the epoch, as a schedule says it."""
    return datetime.fromtimestamp(min(moment, LATEST), UTC).strftime("@at %Y-%m-%dT%H:%M:%S.%fZ")
