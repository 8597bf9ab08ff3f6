"""Background tasks: kept while they run, discarded when they end, logged when they die.

asyncio holds only weak references to its tasks and reports a failed one when it is garbage-collected, if at all. All
background tasks of the library therefore start here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from taskcore.toolkit.logging import logger

__all__ = ["TaskSet"]

T = TypeVar("T")

log = logger("taskcore.toolkit")


class TaskSet:
    """The background tasks of one owner. Needs asyncio.

    :param owner: names the owner in log lines: ``redis store``.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return sum(not task.done() for task in self._tasks)

    def start(self, work: Coroutine[Any, Any, object], *, name: str | None = None) -> None:
        """Run the work in a task of its own; log its error if it dies."""
        self.start_awaited(work, name=name).add_done_callback(self._report)

    def start_awaited(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run the work in a task of its own, whose error the caller takes from it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait_closed(self) -> None:
        """Wait until no task runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await self.wait_closed()

    def _report(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "a background task of the %s died: %s: %s",
                self._owner,
                type(error).__name__,
                error,
                exc_info=error,
            )
