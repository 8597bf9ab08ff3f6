"""Work beside a block of code, which may be entered in one task and left in another.

A task group has to be left in the task that entered it. A fixture or a cell of a notebook enters in one and leaves in
another, so on asyncio the work gets a task of its own. Trio has no such tasks; there, a task group holds the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
import anyio.abc

from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.tasks import TaskSet

__all__ = ["Work", "run_in_background"]


class Work(Protocol):
    """Work that says when it is ready."""

    def __call__(self, *, task_status: anyio.abc.TaskStatus[None]) -> Coroutine[Any, Any, None]:
        """Work until stopped."""
        ...


@asynccontextmanager
async def run_in_background(work: Work, stop: Callable[[], None]) -> AsyncIterator[None]:
    """Run the work beside the body, from when it is ready; at the body's end stop it, and wait for its end.

    When the body is cancelled, so is the work. When the work fails, the body is cancelled if it still runs in the task
    that entered; its error leaves this context, without a group around it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        async with _in_a_group(work, stop):
            yield
        return
    task = await _start(work)
    entered, failed = asyncio.current_task(), False

    def end_body(done: asyncio.Task[None]) -> None:
        nonlocal failed
        if not done.cancelled() and done.exception() is not None and entered is not None and not entered.done():
            failed = True
            entered.cancel()

    task.add_done_callback(end_body)
    try:
        yield
    except asyncio.CancelledError:
        if not failed or entered is None or entered is not asyncio.current_task():
            task.cancel()
            raise
        entered.uncancel()
    finally:
        task.remove_done_callback(end_body)
        stop()
        with unwrap_single():
            await _ended(task)


_WORK = TaskSet("work beside a program")


async def _start(work: Work) -> asyncio.Task[None]:
    ready = _Ready()
    task = _WORK.start_awaited(work(task_status=ready))
    try:
        await asyncio.wait({task, ready.future}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.done():
        with unwrap_single():
            task.result()
    return task


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of the work, also if this task is cancelled meanwhile: that cancels the work."""
    while not task.done():
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.result()
                raise
    if not task.cancelled():
        task.result()


class _Ready:
    """Tells that the work is ready, as a task group's status does."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def started(self, value: None = None) -> None:
        if not self.future.done():
            self.future.set_result(value)


@asynccontextmanager
async def _in_a_group(work: Work, stop: Callable[[], None]) -> AsyncIterator[None]:
    failure: Exception | None = None
    ended = anyio.Event()

    async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            await work(task_status=task_status)
        finally:
            ended.set()

    with unwrap_single():
        async with anyio.create_task_group() as group:
            await group.start(run)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failure = error
            finally:
                stop()
                with anyio.CancelScope(shield=True):
                    await ended.wait()
    if failure is not None:
        raise failure
