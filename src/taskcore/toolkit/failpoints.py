"""Crash points: the moments between two durable writes, by name.

An operation that writes more than once says where it stands in between: ``point("settle.ended")``. In production that
is one comparison. The test kit arms a fuse and kills the worker exactly there, for each operation and each point, and
then checks that nothing was lost, doubled or forgotten. An operation that writes once has no points.

    enqueue.claimed     the key is claimed, the job is not published
    enqueue.published   the job is published, the claim does not say so
    examine.marked      the start is marked, the function has not started
    hold.taken          the key is held, the function has not started
    once.forgotten      at most once: the broker has forgotten the job, the function has not started
    run.returned        the function has returned, nothing is recorded
    settle.committed    the key's outcome is committed, the ending is not stored
    settle.ended        the ending is stored, the broker has not been told
    settle.settled      the broker has been told, the start marker is not cleared
    cancel.marked       the tombstone is up, the job is not removed
    cancel.removed      the job is removed, its ending is not stored

Adapters add their own, such as ``redis.retry.copied``, wherever a verdict takes them more than one write.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FAILPOINTS", "arm", "failpoint"]

#: Every crash point of the core; the sweep visits each of them, and an unknown one is an error there.
FAILPOINTS = (
    "enqueue.claimed",
    "enqueue.published",
    "examine.marked",
    "hold.taken",
    "once.forgotten",
    "run.returned",
    "settle.committed",
    "settle.ended",
    "settle.settled",
    "cancel.marked",
    "cancel.removed",
)

_fuse: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Say where an operation stands between two durable writes."""
    if _fuse is not None:
        _fuse(name)


def arm(fuse: Callable[[str], None] | None) -> None:
    """For the test kit: call ``fuse`` at every point from now on; None disarms. What it raises leaves the operation."""
    global _fuse  # noqa: PLW0603 - one switch for the whole process, because a crash is of the whole process
    _fuse = fuse
