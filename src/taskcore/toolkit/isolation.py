"""Isolation: work in a task and a context of its own, from which nothing reaches its caller.

Code of users leaves things behind: a cancellation that comes late, a cancel scope that is never closed, a changed
context variable. In a task of its own they hit a task that has ended, or a context that nothing reads. Where Python can
(3.12), the task starts eagerly: work that never waits is done before the caller goes on, for less than a microsecond.

The work is cancelled as asyncio's programs expect it: once, and again after a while if it goes on. A scope around the
work would cancel it at each step, and costs more than most jobs; what it would respect, anyio's shields, is respected.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from enum import Enum
from functools import partial
from math import inf
from typing import Any, Final, Protocol, TypeVar, cast

import anyio
import anyio.abc

from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.logging import logger
from taskcore.toolkit.shields import is_shielded
from taskcore.toolkit.spare_task import SpareTask

__all__ = ["UNFINISHED", "Isolation", "WorkCancelled", "is_cancelled_from_outside", "new_isolation"]

T = TypeVar("T")

log = logger("taskcore.worker")

CANCEL_AGAIN_AFTER: Final = 0.1  #: seconds before work that ignored its cancellation is cancelled again
LOOK_AT_SHIELD_AFTER: Final = 0.01  #: seconds before shielded work is looked at again


class Unfinished(Enum):
    """What ``start`` answers of work that has to wait."""

    UNFINISHED = "unfinished"


UNFINISHED: Final = Unfinished.UNFINISHED


class WorkCancelled(Exception):
    """The work ended in a cancellation that does not concern its caller."""


class Isolation(Protocol):
    """Runs one piece of work at a time; used again and again by one caller."""

    def start(self, work: Coroutine[Any, Any, T]) -> T | Unfinished:
        """Start the work in a task of its own, with a copy of the caller's context.

        :returns: what the work returned, if it did not have to wait; else UNFINISHED.
        :raises WorkCancelled: by something that the work did to itself.
        """
        ...

    async def finish(self) -> Any:
        """Wait for the end of unfinished work, and return what it returned.

        A caller that is cancelled cancels the work, and still waits for its end.

        :raises WorkCancelled: by ``cancel``, or by something that the work left behind, such as a timer.
        """
        ...

    def cancel(self) -> bool:
        """Cancel the work until it ends, but not while it is shielded; False if none runs."""
        ...

    def close(self) -> None:
        """Let go of what was kept for the next work."""
        ...

    def belongs_to_caller(self, error: BaseException) -> bool:
        """Tell, inside of the work, whether this is a cancellation of the caller, which has to go on to it."""
        ...


def new_isolation() -> Isolation:
    """Make an isolation for the event loop that runs here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _TrioIsolation()
    return _AsyncioIsolation()


def is_cancelled_from_outside() -> bool:
    """Tell, after a cancellation, whether a scope around this task asks for it; if not, forget the cancellation."""
    if anyio.current_effective_deadline() == -inf:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    while task is not None and task.uncancel():
        pass
    return False


class _AsyncioIsolation:
    __slots__ = ("_caller", "_loop", "_spare", "_task")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._spare: SpareTask | None = None
        self._task: asyncio.Task[Any] | None = None
        self._caller: asyncio.Task[Any] | None = None

    if sys.version_info >= (3, 12):

        def start(self, work: Coroutine[Any, Any, T]) -> T | Unfinished:
            task = asyncio.Task(work, loop=self._loop, eager_start=True)
            if not task.done():
                self._task = task
                return UNFINISHED
            try:
                return task.result()
            except asyncio.CancelledError:
                raise WorkCancelled from None

        def close(self) -> None:
            pass

    else:

        def start(self, work: Coroutine[Any, Any, T]) -> T | Unfinished:
            spare = self._spare
            if spare is None:
                spare = self._spare = SpareTask(self._loop)
            try:
                answer = spare.first_step(work)
            except asyncio.CancelledError:
                self.close()
                raise WorkCancelled from None
            except BaseException:
                self.close()
                raise
            if isinstance(answer, asyncio.Task):
                self._task, self._spare = answer, None
                return UNFINISHED
            if spare.is_touched:
                self.close()
            return answer

        def close(self) -> None:
            if self._spare is not None:
                self._spare.close()
                self._spare = None

    async def finish(self) -> Any:
        task, caller = cast("asyncio.Task[Any]", self._task), cast("asyncio.Task[Any]", asyncio.current_task())
        self._caller = caller
        ended = self._loop.create_future()  # awaiting the task itself would hand on each cancellation, past all shields
        task.add_done_callback(partial(_wake, ended))
        try:
            await ended
            return task.result()
        except asyncio.CancelledError:
            if not caller.cancelling():
                raise WorkCancelled from None
            await self._end(task)
            raise
        finally:
            self._task = self._caller = None

    def cancel(self) -> bool:
        if self._task is None:
            return False
        self._insist(self._task)
        return True

    def belongs_to_caller(self, error: BaseException) -> bool:
        # Not isinstance: it asks the error itself, which may say anything.
        is_cancellation = issubclass(type(error), asyncio.CancelledError)
        return is_cancellation and self._caller is not None and self._caller.cancelling() > 0

    def _insist(self, task: asyncio.Task[Any]) -> None:
        if task.done():
            return
        again = LOOK_AT_SHIELD_AFTER
        if not is_shielded(task):
            task.cancel()
            again = CANCEL_AGAIN_AFTER
        self._loop.call_later(again, self._insist, task)

    async def _end(self, task: asyncio.Task[Any]) -> None:
        """Wait for the end of work whose caller was cancelled."""
        self._insist(task)
        while not task.done():
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _TrioIsolation:
    __slots__ = ("_group", "_work")

    def __init__(self) -> None:
        self._work: Coroutine[Any, Any, Any]
        self._group: anyio.abc.TaskGroup | None = None

    def start(self, work: Coroutine[Any, Any, T]) -> T | Unfinished:
        self._work = work
        return UNFINISHED

    async def finish(self) -> Any:
        work, ended = self._work, list[Any]()

        async def keep() -> None:
            ended.append(await work)

        try:
            with unwrap_single():
                async with anyio.create_task_group() as self._group:
                    self._group.start_soon(keep)
        except BaseException as error:
            if not ended and isinstance(error, anyio.get_cancelled_exc_class()) and not is_cancelled_from_outside():
                raise WorkCancelled from None
            if not ended or isinstance(error, anyio.get_cancelled_exc_class()):
                raise
            log.exception("isolated work has left a cancel scope open, which ended with its task")
        finally:
            self._group = None
        if not ended:
            raise WorkCancelled
        return ended[0]

    def cancel(self) -> bool:
        if self._group is None:
            return False
        self._group.cancel_scope.cancel()
        return True

    def belongs_to_caller(self, error: BaseException) -> bool:
        return issubclass(type(error), anyio.get_cancelled_exc_class())  # ``finish`` sees from outside whether it does

    def close(self) -> None:
        pass
