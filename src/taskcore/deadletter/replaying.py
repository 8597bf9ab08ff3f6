"""Replaying: from a dead letter to the new job that takes its place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from taskcore.backend import Outgoing
from taskcore.deadletter.letters import DeadLetter
from taskcore.envelope import EnvelopeCodec, Trail, encode_trail
from taskcore.toolkit.values import PublicValue

__all__ = ["ReplayWith", "next_job"]


class ReplayWith(PublicValue, frozen=True, kw_only=True):
    """Replay a letter, with changes.

    :param delay: seconds until its job may start. A slow replay is one with growing delays: the pass itself is quick.
    :param args: the arguments of the new job; None: the old ones. The worker checks them, as those of any job.
    """

    delay: float = 0.0
    args: Mapping[str, Any] | None = None


def next_job(letter: DeadLetter, changes: ReplayWith, codec: EnvelopeCodec, now: float) -> Outgoing | None:
    """Make the job that replays a letter; None if the letter does not hold an envelope."""
    old = letter.envelope
    if old is None:
        return None
    job_id = _next_incarnation(letter)
    envelope = msgspec.structs.replace(
        old,
        id=job_id,
        args=old.args if changes.args is None else msgspec.Raw(msgspec.json.encode(changes.args)),
        enqueued_at=now,
        deadline=None,
        correlation_id=old.correlation_id or old.id,
    )
    trail = Trail(replay_of=old.id, replays=letter.trail.replays + 1)
    return Outgoing(letter.queue, job_id, codec.encode(envelope), encode_trail(trail), changes.delay)


def _next_incarnation(letter: DeadLetter) -> str:
    """Derive an id from the letter, a UUID of version 8: repeating a replay repeats the id."""
    digest = hashlib.blake2b(f"{letter.queue}/{letter.id}/{letter.when}".encode(), digest_size=16).digest()
    return str(UUID(int=UUID(bytes=digest).int & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62))
