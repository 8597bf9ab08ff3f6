"""Spare tasks: what Python 3.11 has instead of eager tasks.

An eager task runs its first step at once, in its caller's time: work that never waits costs no turn of the event loop.
Python has them from 3.12 on. A spare task does the same with the functions that asyncio documents for authors of
tasks (https://docs.python.org/3/library/asyncio-extending.html): the work runs its first step as the current task, and
the spare carries on if the work has to wait. A spare that nothing has kept a reference to is used for the next work.
"""

from __future__ import annotations

import asyncio
import sys
import types
from asyncio import Task, _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeAlias, TypeVar, cast

__all__ = ["SpareTask"]

T = TypeVar("T")

#: Work that has begun, the context in which it runs, and what it waits for.
Begun: TypeAlias = tuple[Coroutine[Any, Any, Any], Context, Any]


class SpareTask:
    """A task that waits for work of the task that makes it.

    :ivar is_touched: work may have kept the task, and could reach the next work through it.
    """

    __slots__ = ("_begun", "_caller", "_loop", "_references", "is_touched", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_touched = False
        self._loop = loop
        self._caller = cast("Task[Any]", asyncio.current_task(loop))
        self._begun: asyncio.Future[Begun] = loop.create_future()
        self.task: Task[Any] = Task(_carry_on(self._begun), loop=loop)
        task = self.task  # referred to by a variable, as below
        self._references = sys.getrefcount(task)

    def first_step(self, work: Coroutine[Any, Any, T]) -> T | Task[T]:
        """Run the first step of the work in this task, with a copy of the caller's context.

        :returns: what the work returned; or this task, which carries on with it.
        :raises BaseException: what the work raised in its first step.
        """
        loop, caller, task, context = self._loop, self._caller, self.task, copy_context()
        try:
            _leave_task(loop, caller)
            _enter_task(loop, task)
            try:
                waits_for = context.run(work.send, None)
            finally:
                _leave_task(loop, task)
                _enter_task(loop, caller)
        except StopIteration as stop:
            self.is_touched = sys.getrefcount(task) != self._references or task.cancelling() > 0
            result: T = stop.value
            return result
        self._begun.set_result((work, context, waits_for))
        return task

    def close(self) -> None:
        """End a task that got no work."""
        self._begun.cancel()


async def _carry_on(begun: asyncio.Future[Begun]) -> Any:
    try:
        work, context, waits_for = await begun
    except asyncio.CancelledError:
        if begun.cancelled():
            return None  # closed
        raise
    return await _drive(work, context, waits_for)


@types.coroutine
def _drive(work: Coroutine[Any, Any, T], context: Context, waits_for: Any) -> Generator[Any, Any, T]:
    """Step through the work in its own context, as a task does in its own."""
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it belongs to the work
                waits_for = context.run(work.throw, error)
            else:
                waits_for = context.run(work.send, value)
    except StopIteration as stop:
        result: T = stop.value
        return result
