"""Contained tasks: started by code that must not end the event loop.

asyncio ends its loop when a task raises ``SystemExit`` or ``KeyboardInterrupt``, whether another task awaits it or not.
A contained task raises ``TaskExit`` instead, which the task that awaits it gets, as it gets every other error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from taskcore.toolkit.groups import TaskExit

__all__ = ["containing_tasks"]


@contextmanager
def containing_tasks(is_contained: Callable[[], bool]) -> Iterator[None]:
    """Contain the tasks that are started in this event loop; trio needs nothing.

    :param is_contained: tells, in the code that starts a task, whether it has to be contained.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    before = loop.get_task_factory()
    make: Callable[..., Any] = before or _make_task

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        return make(loop, _Contained(work) if is_contained() else work, **options)

    loop.set_task_factory(factory)
    try:
        yield
    finally:
        if loop.get_task_factory() is factory:
            loop.set_task_factory(before)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    return asyncio.Task(work, loop=loop, **options)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine around another; a wrapper with ``await`` would leave one behind that never began, if cancelled."""

    __slots__ = ("__weakref__", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

    def send(self, value: Any) -> Any:
        """Go on."""
        try:
            return self._work.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise TaskExit(error) from error

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        try:
            return self._work.throw(*error)
        except (SystemExit, KeyboardInterrupt) as exit_:
            raise TaskExit(exit_) from exit_

    def close(self) -> None:
        """End."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        """Read what describes a coroutine, such as its name and its frame."""
        return getattr(self._work, name)
