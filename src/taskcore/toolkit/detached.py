"""Apart: work that belongs to several, and that none of them may take along when he is cancelled.

anyio's shield keeps off what anyio cancels. What asyncio cancels (``wait_for``, ``timeout``, ``Task.cancel``) goes
through every shield, so that on asyncio such work gets a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

__all__ = ["Detached"]


class Detached:
    """Runs work to its end, whoever waits for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Returns when the work has ended; cancelled before, the work goes on.

        :param work: must not raise, because there may be nobody who hears it.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            with anyio.CancelScope(shield=True):
                await work()
            return
        task = loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def wait_closed(self) -> None:
        """Wait for what nobody waits for any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)
