"""Detached work: it belongs to several callers, so it goes on when one of them is cancelled.

anyio's shield stops anyio's cancellations only. asyncio's (``wait_for``, ``timeout``, ``Task.cancel``) pass through it,
so on asyncio such work gets a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from taskcore.toolkit.tasks import TaskSet
from taskcore.toolkit.timeouts import waking_timeout

__all__ = ["Detached", "run_detached", "start_detached"]

T = TypeVar("T")


class Detached:
    """Runs work to its end, also when its caller is cancelled."""

    def __init__(self) -> None:
        self._tasks = TaskSet("detached work")

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the work; return when it has ended.

        :param work: must not raise, because a cancelled caller cannot take its error.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with anyio.CancelScope(shield=True):
                await work()
            return
        await asyncio.shield(self._tasks.start_awaited(work()))

    async def get(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the work to its end and return what it returns; its error is dropped if its caller was cancelled."""
        values, errors = list[T](), list[Exception]()

        async def keep() -> None:
            try:
                values.append(await work())
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)

        await self.run(keep)
        if errors:
            raise errors[0]
        return values[0]

    async def wait_closed(self) -> None:
        """Wait for work whose callers were cancelled."""
        await self._tasks.wait_closed()


_RUNNING = TaskSet("detached work")


async def run_detached(work: Coroutine[Any, Any, T], *, timeout: float) -> T:
    """Run the work to its end or its time limit, also when the caller is cancelled. Needs asyncio.

    The error of work whose caller was cancelled is dropped.

    :raises TimeoutError: the work did not end in time.
    :raises ConnectionError: the client library cancelled the work, because its connection is gone.
    """

    async def limited() -> T:
        async with waking_timeout(timeout):
            return await work

    task = _RUNNING.start_awaited(limited())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({task})
    if task.cancelled():
        raise ConnectionError("the connection was closed meanwhile")
    return task.result()


def start_detached(work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
    """Start work that no block waits for, on asyncio or trio; it ends by itself, or with the event loop.

    :param work: must not raise, because no caller can take its error.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio  # noqa: PLC0415 - the loop that runs here is trio's, so it is installed

        trio.lowlevel.spawn_system_task(work, name=name)
    else:
        _RUNNING.start(work(), name=name)
