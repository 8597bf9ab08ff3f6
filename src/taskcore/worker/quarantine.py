"""Quarantine: a suspected job gets its last start alone, and no other job is blamed if its process dies (C12)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from taskcore.envelope import running
from taskcore.toolkit.forked_workers import end_copies

__all__ = ["Quarantine"]

DRAIN_TIMEOUT = (
    10.0  #: seconds to wait for running jobs to end; a job that runs longer does not kill its process at once
)


class Quarantine:
    """While a job is alone, or waits to be, no other job starts.

    :ivar running: how many jobs run; their starter counts them.
    :ivar over: set when the quarantine is over; None while there is none.
    :ivar at_end: called at the end of each run while ``over`` is not None.
    """

    def __init__(self) -> None:
        self.running = 0
        self.over: anyio.Event | None = None
        self._turn = anyio.Lock()
        self._one_ended: anyio.Event | None = None
        self.at_end: Callable[[], None] = self._notice_end
        end_copies(self, lambda: running.get(None) is not None)

    async def wait(self) -> None:
        """Wait until there is no quarantine."""
        while self.over is not None:
            await self.over.wait()

    @asynccontextmanager
    async def run_alone(self) -> AsyncIterator[None]:
        """Be alone in the process, as soon as the running jobs have ended."""
        async with self._turn:
            self.over = over = anyio.Event()
            try:
                with anyio.move_on_after(DRAIN_TIMEOUT):
                    while self.running:
                        self._one_ended = anyio.Event()
                        await self._one_ended.wait()
                yield
            finally:
                self.over = None
                over.set()

    def _notice_end(self) -> None:
        if self._one_ended is not None:
            self._one_ended.set()
