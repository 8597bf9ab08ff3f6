"""Copies of a worker: a function that forks makes one, which must not work on with its parent's connections.

The copy belongs to the function, until it returns to the worker or waits in the event loop. There it ends.
"""

from __future__ import annotations

import os
from weakref import WeakSet

import anyio

from taskcore.envelope import running
from taskcore.toolkit.forks import CallSoon, in_each_copy
from taskcore.toolkit.logging import logger
from taskcore.worker.quarantine import Quarantine

__all__ = ["end_copies", "end_copy"]

log = logger("taskcore.worker")

_watched: WeakSet[Quarantine] = WeakSet()


def end_copies(quarantine: Quarantine) -> None:
    """End each copy of this process in which a function of this worker returns, or waits."""
    _watched.add(quarantine)


def end_copy() -> None:
    """End this process, which is a copy."""
    log.error("a function forked, and its copy came back to the worker: it ends here. End it by os._exit()")
    os._exit(1)


def _mark_copy(call_soon: CallSoon | None) -> None:
    if running.get(None) is None:
        return  # the program forks, not a job
    for quarantine in _watched:
        quarantine.over, quarantine.at_end = anyio.Event(), end_copy
    if call_soon is not None:
        call_soon(end_copy)


in_each_copy(_mark_copy)
