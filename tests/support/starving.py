"""How long the machine, not the program, held up an event loop: what a time limit may be late by on a busy machine."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

__all__ = ["Starving"]

EVERY: Final = 0.02  #: seconds between two looks


class Starving:
    """Adds up by how much a short sleep in the loop is late, less what this process computes meanwhile.

    A program that computes for too long, or whose timers ring late, gets no allowance.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        """Begin to measure."""
        self._group: TaskGroup = await anyio.create_task_group().__aenter__()
        self._group.start_soon(self._watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop measuring."""
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(kind, error, trace)

    async def _watch(self) -> None:
        while True:
            began, computed = time.perf_counter(), time.process_time()
            await anyio.sleep(EVERY)
            late = time.perf_counter() - began - EVERY
            self.seconds += max(0.0, late - (time.process_time() - computed))
