"""Crashing: a process dies exactly at a crash point of :mod:`taskcore.toolkit.failpoints`.

    with crash_at("settle.ended"):          the next time the point is passed, SimulatedCrash leaves the operation
        await step_worker.settle(conclusion)
    with passing() as names:                which points an operation passes
        await step_worker.work(job)
    with exit_at("settle.ended"):           the process really ends: for children that a test starts

SimulatedCrash is a BaseException: no ``except Exception`` on its way may survive it, because nothing survives a crash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from taskcore.toolkit.failpoints import arm

__all__ = ["CRASHED", "SimulatedCrash", "crash_at", "exit_at", "passing"]

CRASHED = 86  #: exit status of a process that ended at a crash point


class SimulatedCrash(BaseException):
    """The process died at this point; everything in memory is gone, everything durable stays."""

    def __init__(self, point: str) -> None:
        super().__init__(point)
        self.point = point


@contextmanager
def crash_at(
    point: str | None = None, *, visit: int | None = 1, among: Collection[str] | None = None
) -> Iterator[None]:
    """Die at the ``visit``-th visit of this point, or of any point if none is named; ``visit=None``: nowhere.

    :param among: only these points count; None: all.
    """

    def die(name: str) -> None:
        raise SimulatedCrash(name)

    with _armed(None if visit is None else _at(point, visit, die, among)):
        yield


@contextmanager
def exit_at(point: str, *, visit: int = 1) -> Iterator[None]:
    """End the process for real, without any cleaning up."""
    with _armed(_at(point, visit, lambda _: os._exit(CRASHED))):
        yield


@contextmanager
def passing() -> Iterator[list[str]]:
    """Collect the points that are passed meanwhile, in order."""
    names: list[str] = []
    with _armed(names.append):
        yield names


@contextmanager
def _armed(fuse: Callable[[str], None] | None) -> Iterator[None]:
    arm(fuse)
    try:
        yield
    finally:
        arm(None)


def _at(
    point: str | None, visit: int, die: Callable[[str], None], among: Collection[str] | None = None
) -> Callable[[str], None]:
    left = visit

    def fuse(name: str) -> None:
        nonlocal left
        if point in (None, name) and (among is None or name in among):
            left -= 1
            if left == 0:
                die(name)

    return fuse
