"""Dying at a crash point, in one task of many: checks run side by side, and only one of them is to die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from taskcore.conformance.clauses import ClauseViolated
from taskcore.testing.crash_points import SimulatedCrash
from taskcore.toolkit import failpoints as points

__all__ = ["dying_at"]


_point: ContextVar[str | None] = ContextVar("taskcore.dying_at", default=None)
_doomed = 0  # how many blocks are armed


@contextmanager
def dying_at(name: str) -> Iterator[None]:
    """End the block at this crash point, as if the process had been killed there.

    :raises ClauseViolated: it never came there.
    """
    global _doomed  # noqa: PLW0603 - there is one fuse for the whole process
    token = _point.set(name)
    if not _doomed:
        points.arm(_burn)
    _doomed += 1
    try:
        yield
    except SimulatedCrash:
        return
    finally:
        _point.reset(token)
        _doomed -= 1
        if not _doomed:
            points.arm(None)
    raise ClauseViolated(f"the crash point {name} was never reached")


def _burn(name: str) -> None:
    if _point.get() == name:
        raise SimulatedCrash(name)
