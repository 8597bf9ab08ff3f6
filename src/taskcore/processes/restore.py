"""Restoring a process between two jobs: what a function changes in its process does not reach the next one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TypeVar

__all__ = ["restored", "run_in_own_context"]

T = TypeVar("T")


def run_in_own_context(function: Callable[..., T], *args: object) -> T:
    """Call the function with a copy of the context, so that the context variables which it sets end with it."""
    return copy_context().run(function, *args)


@contextmanager
def restored() -> Iterator[None]:
    """Put back the working directory, the mask of new files, signal handlers and timers when the body ends."""
    handlers = {number: signal.getsignal(number) for number in _CATCHABLE}
    directory, mask = _working_directory(), os.umask(0)
    os.umask(mask)
    try:
        yield
    finally:
        signal.alarm(0)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None: not made by Python
                signal.signal(number, handler)
        os.umask(mask)
        if directory is not None and _working_directory() != directory:
            with suppress(OSError):  # it was deleted meanwhile
                os.chdir(directory)


_CATCHABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a path to go back to
    except FileNotFoundError:
        return None
