"""Jobs as messages, and names as subjects.

The body is the envelope, followed by the trail if there is one; ``Tc-Trail`` says how long the trail is. So a shell
script can enqueue with the envelope alone. Headers are ours only: nothing that a user wrote becomes one.

    Tc-Trail        bytes of the trail at the end of the body
    Tc-Handed       how often the job was handed out without a verdict before this copy was made
    Tc-Delay        seconds, where the server has no schedules of its own
    Tc-Copy         the number of the job that this one replaces
    Tc-Reason       bytes of the reason behind the trail (dead letters)
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

import msgspec

__all__ = ["Names", "Packed", "at", "job_token", "number_at", "queue_of", "queue_token", "travels", "unpack"]

LONGEST = 100 * 365 * 86_400.0  #: seconds; what is later than that is not meant

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def queue_token(queue: str) -> str:
    """Return a queue's name as one token of a subject and part of a stream's name."""
    return quote(queue, safe="").replace("~", "%7E").replace(".", "~")


def queue_of(token: str) -> str:
    """Return the queue's name behind such a token."""
    return unquote(token.replace("~", "."))


def job_token(job_id: str) -> str:
    """Return a job's id as one token: itself, or its hash if it cannot be one."""
    if _PLAIN.fullmatch(job_id):
        return job_id
    digest = hashlib.sha256(job_id.encode("utf-8", "surrogatepass")).digest()
    return "~" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Names:
    """The names that the parts of one queue have."""

    __slots__ = (
        "dead", "dead_stream", "either", "either_bytes", "queue", "ready", "ready_bytes", "scheduled", "stream",
        "withdrawn",
    )  # fmt: skip

    def __init__(self, prefix: str, queue: str) -> None:
        token = queue_token(queue)
        self.queue = queue
        self.stream = f"{prefix}-q-{token}"
        self.dead_stream = f"{prefix}-d-{token}"
        self.ready = f"{prefix}.q.{token}."
        self.scheduled = f"{prefix}.s.{token}."
        self.either = f"{prefix}.*.{token}."
        self.ready_bytes, self.either_bytes = self.ready.encode(), self.either.encode()
        self.dead = f"{prefix}.d.{token}."
        self.withdrawn = f"{prefix}.withdrawn.{token}"


class Packed(msgspec.Struct, frozen=True, gc=False):
    """The parts of a body."""

    envelope: bytes
    trail: bytes
    handed: int
    reason: bytes = b""


def travels(headers: bytes) -> bool:
    """Say whether anything travels beside the envelope."""
    return b"\r\nTc-" in headers


def unpack(body: bytes, headers: bytes) -> Packed:
    """Return the envelope and what travels beside it; what does not fit is part of the envelope."""
    if not travels(headers):
        return Packed(body, b"", 0)
    trail, reason = number_at(headers, b"Tc-Trail"), number_at(headers, b"Tc-Reason")
    handed = number_at(headers, b"Tc-Handed")
    if trail + reason > len(body):
        return Packed(body, b"", handed)
    end = len(body) - trail - reason
    return Packed(body[:end], body[end : end + trail], handed, body[end + trail :])


def number_at(headers: bytes, name: bytes) -> int:
    """Return the whole number in a header of ours; 0 if there is none."""
    start = headers.find(b"\r\n" + name + b": ")
    if start < 0:
        return 0
    start += len(name) + 4
    text = headers[start : headers.find(b"\r\n", start)]
    return int(text) if text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004 - more digits than 64 bits have


def at(now: datetime, delay: float) -> str:
    """Return the moment so many seconds later, as a schedule says it."""
    moment = min(now + timedelta(seconds=min(delay, LONGEST)), datetime(2200, 1, 1, tzinfo=UTC))
    return moment.astimezone(UTC).strftime("@at %Y-%m-%dT%H:%M:%S.%fZ")
