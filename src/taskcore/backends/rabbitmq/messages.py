"""A job as a message, and back.

    body       envelope, then trail, then reason, nothing between them; a foreign message is all envelope
    headers    tc-trail, tc-reason    how many bytes at the end of the body these two are, if they are there
               tc-id                  the job's id
               tc-before              redeliveries of earlier copies, which giving back must not forget
               tc-of                  the message that this one is a copy of
               tc-when                dead letters: when it died, in microseconds since the epoch
    id         of this one message: two copies of a job have two

Whatever stands in a message that is not ours, this file finds something in it and never fails.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from taskcore.backend import Outgoing
from taskcore.connections.amqp.frames import Properties, Value

__all__ = ["Parcel", "parcel_of", "split", "stamp", "whole_number"]

TRAIL, REASON = b"tc-trail", b"tc-reason"


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """One message on its way: where to, and what."""

    exchange: str
    key: str
    headers: Mapping[str, Value]
    body: bytes


def parcel_of(
    exchange: str, key: str, job: Outgoing, *, before: int = 0, of: bytes = b"", reason: bytes = b""
) -> Parcel:
    """A job on its way to a place.

    :param before: redeliveries that it has behind it.
    :param of: the message that this is a copy of.
    """
    headers: dict[str, Value] = {"tc-id": job.id}
    if job.trail:
        headers["tc-trail"] = len(job.trail)
    if reason:
        headers["tc-reason"] = len(reason)
    if before:
        headers["tc-before"] = before
    if of:
        headers["tc-of"] = of
    return Parcel(exchange, key, headers, job.envelope + job.trail + reason if job.trail or reason else job.envelope)


_latest = 0


def stamp() -> int:
    """Now, in microseconds since the epoch; never the same twice in one process."""
    global _latest  # noqa: PLW0603 - one clock for the whole process
    _latest = max(time.time_ns() // 1000, _latest + 1)
    return _latest


def split(properties: Properties, body: bytes) -> tuple[bytes, bytes, bytes]:
    """Envelope, trail and reason."""
    trail, reason = whole_number(properties, TRAIL), whole_number(properties, REASON)
    if not trail + reason:
        return body, b"", b""
    end = len(body) - trail - reason
    if end < 0:
        return body, b"", b""
    return body[:end], body[end : end + trail], body[end + trail :]


def whole_number(properties: Properties, name: bytes) -> int:
    """A header of ours; 0 if it is not there, or not what it should be."""
    value = properties.headers.get(name, 0)
    return value if isinstance(value, int) and value > 0 else 0
