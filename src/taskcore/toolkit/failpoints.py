"""Failpoints: the moments between two durable writes, by name.

An operation that writes more than once names the moments in between: ``failpoint("settle.ended")``. In production that
is one comparison. The test kit arms a hook, kills the worker at each failpoint of each operation, and checks that no
job was lost, doubled or forgotten. An operation that writes once has no failpoints.

    enqueue.claimed     the key is claimed, the job is not published
    enqueue.published   the job is published, the key's record does not say so
    examine.marked      the start is marked, the function has not started
    hold.taken          the key is acquired, the function has not started
    once.forgotten      at most once: the broker has forgotten the job, the function has not started
    run.returned        the function has returned, nothing is recorded
    settle.committed    the key's outcome is committed, the job's outcome is not stored
    settle.ended        the job's outcome is stored, the broker does not know of it
    settle.settled      the broker has settled the job, the start marker is not cleared
    cancel.marked       the cancellation is recorded, the job is not removed
    cancel.removed      the job is removed, its outcome is not stored

Adapters add their own, such as ``redis.retry.copied``, where one of their operations needs more than one write.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FAILPOINTS", "arm", "failpoint"]

#: Every failpoint of the core; the crash sweep visits each of them and refuses an unknown one.
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

_hook: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Name the moment between two durable writes that an operation has reached."""
    if _hook is not None:
        _hook(name)


def arm(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` at every failpoint from now on; None disarms. For the test kit: its errors leave the operation."""
    global _hook  # noqa: PLW0603 - one switch for the whole process, because a crash ends the whole process
    _hook = hook
