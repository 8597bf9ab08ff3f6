"""Time limits for many waits with one timer.

A scope with a deadline costs as much as the rest of a lone enqueue, most of it for a timer that is made, pushed onto a
heap and thrown away again.

    SharedTimer     calls back at each deadline that was not discarded before
    SharedTimeout   leaves a block of code after a time that is the same for every block
    waking_timeout  asyncio.timeout, for a loop that may have stood still
    loop_clock      the clock of the running loop, for what is asked once a job
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf
from types import TracebackType
from typing import Any, Final, Protocol, cast

import anyio

__all__ = ["Deadline", "SharedTimeout", "SharedTimer", "loop_clock", "waking_timeout"]

CANCEL_AGAIN_AFTER: Final = 0.1  #: seconds before a task that ignored the end of its time is cancelled again

LATE_TIMER: Final = 0.25  #: seconds by which a timer is late in a loop that stood still, which then reads first


class Deadline(Protocol):
    """A wait that ends at a certain time.

    ``ends`` is on the loop's clock; the timer sets it.
    """

    ends: float

    def expire(self) -> float:
        """End the wait; return the seconds until the next call, or infinity."""
        ...


class SharedTimer:
    """One timer of the event loop for many deadlines. Needs asyncio."""

    def __init__(self) -> None:
        self._waiting: set[Deadline] = set()
        #: Forgets a deadline. Not a method: it is called once for each job.
        self.discard: Callable[[Deadline], None] = self._waiting.discard
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings = inf  # when the timer does; it may ring for a deadline that was discarded

    def add(self, deadline: Deadline, seconds: float) -> None:
        """Call ``deadline.expire()`` in so many seconds, unless it is discarded before."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the timer of a loop that is gone never rings
            self._loop, self._timer, self._rings = loop, None, inf
            self._waiting.clear()
        deadline.ends = ends = loop.time() + seconds
        self._waiting.add(deadline)
        if ends < self._rings:
            self._set(loop, ends)

    def extend(self, deadline: Deadline, seconds: float) -> None:
        """Let a deadline come so many seconds later; the timer may ring before, in vain."""
        if deadline in self._waiting:
            deadline.ends += seconds

    def __iter__(self) -> Iterator[Deadline]:
        return iter(tuple(self._waiting))

    def close(self) -> None:
        """Forget all deadlines."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings = None, inf

    def _set(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = when
        self._timer = loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        rang, self._timer, self._rings = self._rings, None, inf
        now = loop.time()
        if now - rang > LATE_TIMER:  # the loop stood still: what came meanwhile is read first
            self._set(loop, now + LATE_TIMER)
            return
        for deadline in tuple(self._waiting):
            if deadline.ends <= now and deadline in self._waiting:
                deadline.ends = now + deadline.expire()
        following = min((deadline.ends for deadline in self._waiting), default=inf)
        if following < self._rings:
            self._set(loop, following)


class SharedTimeout:
    """A time limit of the same length for many blocks; on trio, a scope of anyio for each.

    :param seconds: how long each block may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer = SharedTimer()

    def scope(self) -> anyio.CancelScope | _TimeoutScope:
        """Make a context that is left when its time is over, like that of ``anyio.move_on_after``."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return anyio.move_on_after(self._seconds)
        scope = _TimeoutScope(cast("asyncio.Task[Any]", task), self._timer.discard)
        self._timer.add(scope, self._seconds)
        return scope

    def extend(self, seconds: float) -> None:
        """Give the blocks that the running task is in more time; on trio nothing happens."""
        task = asyncio.current_task()
        for scope in self._timer:
            if isinstance(scope, _TimeoutScope) and scope.task is task:
                self._timer.extend(scope, seconds)


class _TimeoutScope:
    """Ends one block as ``asyncio.timeout`` does: it cancels the task, and takes the cancellation back at the exit."""

    __slots__ = ("_before", "_cancels", "_discard", "ends", "task")

    def __init__(self, task: asyncio.Task[Any], discard: Callable[[Deadline], None]) -> None:
        self.ends = inf
        self.task = task
        self._discard = discard
        self._before = task.cancelling()
        self._cancels = 0

    def expire(self) -> float:
        self._cancels += 1
        self.task.cancel()
        return CANCEL_AGAIN_AFTER

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._discard(self)
        if not self._cancels:
            return False
        for _ in range(self._cancels):
            self.task.uncancel()
        # a count above that of the start is a cancellation from elsewhere, which has to pass
        return kind is asyncio.CancelledError and self.task.cancelling() <= self._before


@asynccontextmanager
async def waking_timeout(seconds: float) -> AsyncIterator[None]:
    """Limit a block as ``asyncio.timeout`` does; but a loop that stood still meanwhile gets time to read what has come.

    That may be what the block waits for. A timer shortly before the end tells that the loop turns.
    """
    loop = asyncio.get_running_loop()
    due, lead = loop.time() + seconds, min(LATE_TIMER, seconds / 2)
    timer: asyncio.TimerHandle

    def warn() -> None:
        nonlocal timer
        at = max(due, loop.time() + lead)
        timer = loop.call_at(at, ring, at)

    def ring(at: float) -> None:
        now = loop.time()
        limit.reschedule(now + LATE_TIMER if now - at > LATE_TIMER else now)

    async with asyncio.timeout(None) as limit:
        timer = loop.call_at(due - lead, warn)
        try:
            yield
        finally:
            timer.cancel()


def loop_clock() -> Callable[[], float]:
    """Return the clock of the running event loop: ``anyio.current_time`` looks for the loop at each call."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return anyio.current_time
