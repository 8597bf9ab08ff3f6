"""A job under suspicion gets its last start alone, so that nobody else can be blamed if its process dies (C12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

__all__ = ["Quarantine"]

PATIENCE = 10.0  #: seconds to wait for running jobs to end; what runs longer does not kill at once


class Quarantine:
    """While somebody is alone, or waits to be, nobody else starts. ``running`` counts who has."""

    def __init__(self) -> None:
        self.running = 0
        self._turn = anyio.Lock()
        self._over: anyio.Event | None = None
        self._one_ended: anyio.Event | None = None

    @property
    def busy(self) -> bool:
        """Whether somebody is alone, or waits to be."""
        return self._over is not None

    async def wait(self) -> None:
        """Wait until nobody is."""
        while self._over is not None:
            await self._over.wait()

    def ended(self) -> None:
        """One that was running has ended."""
        self.running -= 1
        if self._one_ended is not None:
            self._one_ended.set()

    @asynccontextmanager
    async def run_alone(self) -> AsyncIterator[None]:
        """Alone in the process, as soon as the running jobs have ended."""
        async with self._turn:
            self._over = over = anyio.Event()
            try:
                with anyio.move_on_after(PATIENCE):
                    while self.running:
                        self._one_ended = anyio.Event()
                        await self._one_ended.wait()
                yield
            finally:
                self._over = None
                over.set()
