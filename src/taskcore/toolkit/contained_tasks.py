"""Contained tasks: started by code that must not end the event loop.

asyncio ends its loop when a task raises ``SystemExit`` or ``KeyboardInterrupt``, whether another task awaits it or not.
A contained task raises ``TaskExit`` instead, which the task that awaits it gets, as it gets every other error.
A contained task knows its owner, so that one which is left behind can be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from taskcore.toolkit.groups import TaskExit

__all__ = ["containing_tasks", "running_tasks"]


@contextmanager
def containing_tasks(owner_here: Callable[[], str | None]) -> Iterator[None]:
    """Contain the tasks that are started in this event loop; trio needs nothing.

    :param owner_here: names, in the code that starts a task, its owner; None: it need not be contained.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    before = loop.get_task_factory()
    make: Callable[..., Any] = before or _make_task

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        owner = owner_here()
        return make(loop, work if owner is None else _Contained(work, owner), **options)

    loop.set_task_factory(factory)
    try:
        yield
    finally:
        if loop.get_task_factory() is factory:
            loop.set_task_factory(before)


def running_tasks() -> Iterator[tuple[str, Coroutine[Any, Any, Any]]]:
    """Yield each contained task of this event loop that runs: its owner, and its coroutine."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return
    for task in tasks:
        work = task.get_coro()
        if isinstance(work, _Contained):
            yield work.owner, work.work


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    return asyncio.Task(work, loop=loop, **options)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine around another; a wrapper with ``await`` would leave one behind that never began, if cancelled."""

    __slots__ = ("__weakref__", "owner", "work")

    def __init__(self, work: Coroutine[Any, Any, Any], owner: str) -> None:
        self.work = work
        self.owner = owner

    def send(self, value: Any) -> Any:
        """Go on."""
        try:
            return self.work.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise TaskExit(error) from error

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        try:
            return self.work.throw(*error)
        except (SystemExit, KeyboardInterrupt) as exit_:
            raise TaskExit(exit_) from exit_

    def close(self) -> None:
        """End."""
        self.work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.work.__await__()

    def __getattr__(self, name: str) -> Any:
        """Read what describes a coroutine, such as its name and its frame."""
        return getattr(self.work, name)
