"""Threads that run tasks, and that cannot keep a process alive.

A thread cannot be interrupted. The usual pools wait for their threads when the interpreter ends, so that a function
that never returns would keep a stopped worker's process for ever. These threads are daemons: what still runs in them
when the process ends is cut off, and its lease runs out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

__all__ = ["DaemonThreadPool", "IterationStopped"]

T = TypeVar("T")


class DaemonThreadPool:
    """As many threads as there are functions running; idle ones are used again."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []
        self._closed = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return what the function returns. On cancellation it is left alone, and its result is thrown away."""
        item = _WorkItem(function, args)
        thread = self._idle.pop() if self._idle else _Thread(self._back)
        thread.items.put(item)
        await item.ended.wait()
        if item.error is not None:
            raise IterationStopped(item.error) if issubclass(type(item.error), StopIteration) else item.error
        result: T = item.result
        return result

    def close(self) -> None:
        """End the idle threads now, the others when their function returns."""
        self._closed = True
        while self._idle:
            self._idle.pop().items.put(None)

    def _back(self, thread: _Thread) -> None:
        if self._closed:
            thread.items.put(None)
        else:
            self._idle.append(thread)


class IterationStopped(Exception):
    """Stands for a StopIteration of the function, which Python lets no coroutine raise."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class _WorkItem:
    """One function to run, and what came of it."""

    __slots__ = ("args", "context", "ended", "error", "function", "result", "token")

    def __init__(self, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self.function = function
        self.args = args
        self.context = _context()
        self.token = anyio.lowlevel.current_token()
        self.ended = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function, *self.args)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller that waits, SystemExit included
            self.error = error


def _context() -> Context:
    """Copy the caller's context, without the mark by which libraries see that they are called from an event loop."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


class _Thread(threading.Thread):
    """Runs one work item after the other."""

    def __init__(self, back: Callable[[_Thread], None]) -> None:
        super().__init__(name="taskcore-task", daemon=True)
        self.items: SimpleQueue[_WorkItem | None] = SimpleQueue()
        self._back = back
        self.start()

    def run(self) -> None:
        while (item := self.items.get()) is not None:
            item.run()
            try:
                anyio.from_thread.run_sync(self._report, item, token=item.token)
            except Exception:  # noqa: BLE001 - each loop has its own error for this: it has ended, so no caller waits
                return

    def _report(self, item: _WorkItem) -> None:
        """Report the end, in the event loop."""
        item.ended.set()
        self._back(self)
