"""TimeLimit: so many seconds for each of many awaits, with one timer for all of them.

On asyncio a scope with a deadline costs as much as the rest of a lone enqueue, most of it for a timer that is made, put
into a heap and thrown away again. Here all limits are equally long, so that the oldest ends first: one timer is enough.
On trio it is a scope.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Final, cast

import anyio

__all__ = ["SharedTimeout"]

CANCEL_AGAIN_AFTER: Final = 0.1  #: seconds after which somebody who took no notice of the end of his time is told again


class SharedTimeout:
    """A limit that is the same for everybody.

    :param seconds: how long each may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turns: deque[_TimeoutScope] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def scope(self) -> anyio.CancelScope | _TimeoutScope:
        """A context that is left when its time is over, as that of ``anyio.move_on_after`` is."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return anyio.move_on_after(self._seconds)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        turns = self._turns
        if loop is not self._loop:  # the timer of one that is gone never rings
            self._loop, self._timer = loop, None
            turns.clear()
        while turns and turns[0].over:
            turns.popleft()
        turn = _TimeoutScope(task, loop.time() + self._seconds)
        turns.append(turn)
        if self._timer is None:
            self._timer = loop.call_at(turns[0].ends, self._look, loop)
        return turn

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those whose time is over; look again when the next one's is."""
        self._timer = None
        now = loop.time()
        waiting = [turn for turn in self._turns if not turn.over]
        for turn in waiting:
            if turn.ends <= now:
                turn.end()
        if waiting:
            self._timer = loop.call_at(max(waiting[0].ends, now + CANCEL_AGAIN_AFTER), self._look, loop)


class _TimeoutScope:
    """One await's time. Ends it as ``asyncio.timeout`` does: by cancelling, and taking that back."""

    __slots__ = ("_before", "_cancels", "_task", "ends", "over")

    def __init__(self, task: asyncio.Task[Any], ends: float) -> None:
        self.ends = ends  # on the loop's clock
        self.over = False
        self._task = task
        self._before = task.cancelling()
        self._cancels = 0

    def end(self) -> None:
        self._cancels += 1
        self._task.cancel()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.over = True
        if not self._cancels:
            return False
        for _ in range(self._cancels):
            self._task.uncancel()
        return (
            kind is asyncio.CancelledError and self._task.cancelling() <= self._before
        )  # or somebody else wants the task to end
