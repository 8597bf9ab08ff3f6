"""A job as a message, and back.

    body       envelope, then trail, then reason, without separators; a foreign message is all envelope
    headers    tc-trail, tc-reason    bytes of these two at the end of the body
               tc-id                  the job's id
               tc-before              redeliveries of earlier copies, which releasing must not forget
               tc-of                  the message that this one is a copy of
               tc-when                dead letters: when it died, in microseconds since the epoch
    id         of this one message: two copies of a job have two

Reading never fails, whatever a foreign message holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from taskcore.backend import Outgoing
from taskcore.backends.rabbitmq import layout
from taskcore.connections.amqp.frames import HeaderValue, Properties

__all__ = ["RabbitMessage", "job_id_of", "message_of", "natural", "split", "timestamp", "with_delay"]


class RabbitMessage(msgspec.Struct, frozen=True, gc=False):
    """One message to be published: its destination and its content."""

    exchange: str
    key: str
    headers: Mapping[str, HeaderValue]
    body: bytes

    @property
    def queue(self) -> str:
        """The queue of the job, whatever way the message takes to it."""
        return self.key if self.exchange else self.key.removeprefix(layout.dead_queue(""))


def message_of(job: Outgoing, *, before: int = 0, copy_of: bytes = b"", reason: bytes | None = None) -> RabbitMessage:
    """Turn a job into a message for its queue, now or later; with a reason into a dead letter.

    :param before: redeliveries of earlier copies.
    :param copy_of: the id of the message that this is a copy of.
    """
    headers: dict[str, HeaderValue] = {"tc-id": job.id}
    if job.trail:
        headers["tc-trail"] = len(job.trail)
    if before:
        headers["tc-before"] = before
    if copy_of:
        headers["tc-of"] = copy_of
    body = job.envelope + job.trail if job.trail else job.envelope
    if reason is not None:
        headers["tc-when"] = timestamp()
        if reason:
            headers["tc-reason"] = len(reason)
        return RabbitMessage("", layout.dead_queue(job.queue), headers, body + reason)
    if job.delay <= 0:
        return RabbitMessage(layout.JOBS, job.queue, headers, body)
    headers |= layout.delay_route(layout.delay_units(min(job.delay, layout.MAX_DELAY)))
    return RabbitMessage(layout.SCHEDULE, job.queue, headers, body)


def with_delay(message: RabbitMessage) -> RabbitMessage:
    """Send a message for its queue through the shortest delay."""
    if message.exchange != layout.JOBS:
        return message
    return RabbitMessage(layout.SCHEDULE, message.key, {**message.headers, **layout.delay_route(1)}, message.body)


_latest = 0


def timestamp() -> int:
    """Return the time in microseconds since the epoch; never the same twice in one process."""
    global _latest  # noqa: PLW0603 - one clock for the whole process
    _latest = max(time.time_ns() // 1000, _latest + 1)
    return _latest


def split(properties: Properties, body: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a body into envelope, trail and reason."""
    trail, reason = natural(properties, b"tc-trail"), natural(properties, b"tc-reason")
    end = len(body) - trail - reason
    if end == len(body) or end < 0:
        return body, b"", b""
    return body[:end], body[end : end + trail], body[end + trail :]


def job_id_of(properties: Properties) -> str:
    """Return the id of a job; "" if a foreign message has none."""
    job_id = properties.headers.get(b"tc-id", b"")
    return job_id.decode(errors="replace") if isinstance(job_id, bytes) else ""


def natural(properties: Properties, name: bytes) -> int:
    """Return a header that is a positive integer, else 0."""
    value = properties.headers.get(name, 0)
    return value if isinstance(value, int) and value > 0 else 0
