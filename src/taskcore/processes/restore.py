"""Restoring a process between two jobs: what a function changes in its process does not reach the next one."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from taskcore.toolkit.decimals import with_own_decimals

__all__ = ["restored", "run_in_own_context"]

T = TypeVar("T")


def run_in_own_context(function: Callable[..., T], *args: object) -> T:
    """Call the function with a copy of the context, so that the context variables which it sets end with it."""
    return with_own_decimals().run(function, *args)


@contextmanager
def restored() -> Iterator[None]:
    """Put back what the body changes of the process, when it ends."""
    with ExitStack() as exits:
        exits.enter_context(warnings.catch_warnings())
        exits.callback(_put_back_interpreter, _interpreter())
        exits.callback(_put_back_logging, logging.root.level, tuple(logging.root.handlers))
        exits.callback(_put_back_hooks, tuple(sys.path), _hooks())
        exits.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        exits.callback(random.seed)  # a seed that a job sets is not that of the next one
        exits.callback(_put_back_environment, dict(os.environ))
        exits.enter_context(_system_restored())
        yield


def _interpreter() -> tuple[Any, ...]:
    streams = [(name, getattr(sys, name), _file_of(number)) for number, name in enumerate(STREAMS)]
    settings = locale.setlocale(locale.LC_ALL), gc.isenabled(), sys.getrecursionlimit(), logging.root.manager.disable
    return streams, *settings


def _put_back_interpreter(before: tuple[Any, ...]) -> None:
    """Put back the locale, the garbage collector, the limit of recursion, what logging drops, and the streams."""
    streams, language, collects, limit, disabled = before
    with suppress(locale.Error):
        if locale.setlocale(locale.LC_ALL) != language:
            locale.setlocale(locale.LC_ALL, language)
    if gc.isenabled() != collects:
        (gc.enable if collects else gc.disable)()
    if sys.getrecursionlimit() != limit:
        sys.setrecursionlimit(limit)
    if logging.root.manager.disable != disabled:
        logging.disable(disabled)
    for number, (name, stream, file) in enumerate(streams):
        if _file_of(number) != file:
            os.dup2(_SAVED[number], number)
        if stream is not None and stream.closed:
            mode = "w" if number else "r"
            stream = os.fdopen(number, mode, buffering=1, closefd=False, errors="backslashreplace")  # noqa: PLW2901
        setattr(sys, name, stream)


def _put_back_logging(level: int, handlers: tuple[logging.Handler, ...]) -> None:
    """Put back the level and the handlers of the root logger: one of these sends records to the worker."""
    logging.root.setLevel(level)
    if tuple(logging.root.handlers) != handlers:
        logging.root.handlers[:] = handlers


def _hooks() -> tuple[Any, ...]:
    return sys.excepthook, sys.unraisablehook, sys.gettrace(), sys.getprofile()


def _put_back_hooks(path: tuple[str, ...], hooks: tuple[Any, ...]) -> None:
    """Put back where modules are found, and what is called for errors, lines and calls."""
    if tuple(sys.path) != path:
        sys.path[:] = path
    sys.excepthook, sys.unraisablehook, trace, profile = hooks
    sys.settrace(trace)
    sys.setprofile(profile)


def _put_back_environment(before: dict[str, str]) -> None:
    if os.environ != before:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
        time.tzset()


def _file_of(descriptor: int) -> tuple[int, int] | None:
    """Tell which file a descriptor stands for; None if it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


STREAMS = ("stdin", "stdout", "stderr")
#: Copies of the descriptors of the streams, from when the process began.
_SAVED = [os.dup(number) if _file_of(number) is not None else -1 for number in range(len(STREAMS))]


@contextmanager
def _system_restored() -> Iterator[None]:
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
