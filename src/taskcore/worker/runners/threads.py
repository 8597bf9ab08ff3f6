"""Threads that run tasks, and that cannot keep a process alive.

A thread cannot be interrupted. The usual pools wait for their threads when the interpreter ends, so that a function
that never returns would keep a stopped worker's process for ever. These threads are daemons: what still runs in them
when the process ends is cut off, and its lease runs out.

A function that is left alone keeps its thread until it returns. :class:`ThreadRoom` bounds them: where functions hang,
a worker would otherwise gather threads until its process has no memory left.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from taskcore.toolkit.decimals import with_own_decimals
from taskcore.toolkit.forked_workers import end_copy
from taskcore.toolkit.logging import logger

__all__ = ["DaemonThreadPool", "IterationStopped", "ThreadRoom"]

log = logger("taskcore.worker")

T = TypeVar("T")

BOUND = 2  #: threads for each that may run a function at a time, those included that were left alone


class DaemonThreadPool:
    """As many threads as there are functions running; idle ones are used again."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []
        self._closed = False
        self.abandoned = 0  #: functions that run on although no caller waits for them
        self.returned = anyio.Event()  #: one of them has returned; then a new event stands here

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return what the function returns. On cancellation it is left alone, and its result is thrown away."""
        item = _WorkItem(function, args)
        thread = self._idle.pop() if self._idle else _Thread(self._back)
        thread.give(item)
        try:
            await item.ended.wait()
        except BaseException:
            if not item.ended.is_set():
                item.abandoned = True
                self.abandoned += 1
            raise
        if item.error is not None:
            raise IterationStopped(item.error) if issubclass(type(item.error), StopIteration) else item.error
        result: T = item.result
        return result

    def close(self) -> None:
        """End the idle threads now, the others when their function returns."""
        self._closed = True
        while self._idle:
            self._idle.pop().end()

    def _back(self, thread: _Thread, item: _WorkItem) -> None:
        if item.abandoned:
            self.abandoned -= 1
            self.returned.set()
            self.returned = anyio.Event()
        if self._closed:
            thread.end()
        else:
            self._idle.append(thread)


class ThreadRoom:
    """Lets functions in: so many at a time, and none while too many threads are taken by functions that never return.

    :param threads: functions that run at a time.
    """

    def __init__(self, threads: int, pool: DaemonThreadPool) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._threads = threads
        self._pool = pool
        self._inside = 0
        self._warned = False

    async def __aenter__(self) -> None:
        await self._limiter.acquire()
        try:
            while self._inside + self._pool.abandoned >= BOUND * self._threads:
                self._tell()
                await self._pool.returned.wait()
        except BaseException:
            self._limiter.release()
            raise
        self._inside += 1
        self._warned = self._warned and self._pool.abandoned > 0

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside -= 1
        self._limiter.release()

    def _tell(self) -> None:
        if not self._warned:
            self._warned = True
            log.error(
                "%d functions were left alone in their threads and still run there: no further plain function starts "
                "until one of them returns. Give them time limits of their own, or restart the worker; threads=%d",
                self._pool.abandoned,
                self._threads,
            )


class IterationStopped(Exception):
    """Stands for a StopIteration of the function, which Python lets no coroutine raise."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class _WorkItem:
    """One function to run, and what came of it."""

    __slots__ = ("abandoned", "args", "context", "done", "ended", "error", "function", "result", "token")

    def __init__(self, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self.function = function
        self.args = args
        self.context = _context()
        self.token = anyio.lowlevel.current_token()
        self.ended = anyio.Event()
        self.abandoned = False
        self.done = False  #: the function has ended, with this result or error
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function, *self.args)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller that waits, SystemExit included
            self.error = error
        self.done = True


def _context() -> Context:
    """Copy the caller's context, without the mark by which libraries see that they are called from an event loop."""
    context = with_own_decimals()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


class _Thread(threading.Thread):
    """Runs one work item after the other, whatever a function has left behind in it.

    Libraries of time limits raise errors in a thread from outside, also when the function has returned meanwhile.
    """

    def __init__(self, back: Callable[[_Thread, _WorkItem], None]) -> None:
        super().__init__(name="taskcore-task", daemon=True)
        self._item: _WorkItem | None = None  #: kept here, because such an error can come before it is taken
        self._calls: SimpleQueue[Literal["run", "end"]] = SimpleQueue()
        self._back = back
        self.start()

    def give(self, item: _WorkItem) -> None:
        """Run this item; the thread is idle."""
        self._item = item
        self._calls.put("run")

    def end(self) -> None:
        """End when the function returns that runs."""
        self._calls.put("end")

    def run(self) -> None:
        with suppress(_LoopEnded):
            while not self._is_over():
                pass

    def _is_over(self) -> bool:
        """Run items until the end, or until an error comes from outside."""
        try:
            while self._calls.get() == "run":
                self._perform()
        except _LoopEnded:
            raise
        except BaseException as error:  # noqa: BLE001 - raised in this thread, by code that is no longer in it
            _tell_late(error)
            self._perform(error)
            return False
        return True

    def _perform(self, late: BaseException | None = None) -> None:
        """Run the item, unless that is done or an error came late; report its end, unless that is done."""
        item = self._item
        if item is None:
            return
        if late is None:
            owner = os.getpid()
            item.run()
            if os.getpid() != owner:
                end_copy()
        elif not item.done:
            item.done, item.error = True, late
        try:
            anyio.from_thread.run_sync(self._report, item, token=item.token)
        except Exception as error:  # noqa: BLE001 - from outside; or the loop has ended, which has many errors
            try:
                anyio.from_thread.run_sync(self._report, item, token=item.token)
            except Exception as again:  # no caller waits
                raise _LoopEnded from again
            _tell_late(error)

    def _report(self, item: _WorkItem) -> None:
        """Report the end, in the event loop."""
        if self._item is item:
            self._item = None
            item.ended.set()
            self._back(self, item)


def _tell_late(error: BaseException) -> None:
    log.error(
        "%s was raised in a thread of the worker after its function had ended; the thread goes on. A time limit that "
        "raises in threads has to be taken back when the function ends",
        type(error).__name__,
    )


class _LoopEnded(Exception):
    """The event loop has ended in which a caller waited."""
