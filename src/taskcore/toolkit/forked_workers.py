"""Copies of a worker: a function that forks makes one, which must not work on with its parent's connections.

The copy belongs to the function, until it returns to the worker or waits in the event loop. There it ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary

import anyio

from taskcore.toolkit.forks import CallInLoop, in_each_copy
from taskcore.toolkit.logging import logger

__all__ = ["end_copies", "end_copy"]

log = logger("taskcore.worker")


class Halts(Protocol):
    """What keeps jobs from starting while ``over`` is not None."""

    over: anyio.Event | None
    at_end: Callable[[], None]


_watched: WeakKeyDictionary[Halts, Callable[[], bool]] = WeakKeyDictionary()


def end_copies(halts: Halts, in_job: Callable[[], bool]) -> None:
    """End each copy of this process in which a function of a worker returns, or waits.

    :param in_job: tells whether a job runs here; else the program forks, and its copy may go on.
    """
    _watched[halts] = in_job


def end_copy() -> None:
    """End this process, which is a copy."""
    log.error("a function forked, and its copy came back to the worker: it ends here. End it by os._exit()")
    os._exit(1)


def _mark_copy(call_soon: CallInLoop | None) -> None:
    forked = [halts for halts, in_job in _watched.items() if in_job()]
    for halts in forked:
        halts.over, halts.at_end = anyio.Event(), end_copy
    if forked and call_soon is not None:
        call_soon(end_copy)


in_each_copy(_mark_copy)
