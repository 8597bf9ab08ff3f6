"""In memory: a deque and one asyncio task a job, the bare loop that a worker without features would be."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from benchmarks.compare.raw import PAYLOAD


class RawMemory:
    """Nothing but the event loop."""

    how = "a deque; one asyncio task a job, a hundred at a time"
    verbs = ("drain",)

    def __init__(self, _: str) -> None:
        self.queue: deque[bytes] = deque()

    async def open(self) -> None:
        """Connect to nothing."""

    async def close(self) -> None:
        """Leave nothing."""

    async def one(self, jobs: int) -> float:
        """Do nothing: there is no broker to compare with."""
        raise NotImplementedError

    bulk = one

    async def drain(self, jobs: int) -> float:
        """Start one task a job."""

        async def job(data: bytes) -> None:
            pass

        self.queue.extend([PAYLOAD] * jobs)
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        while self.queue:
            await asyncio.wait([loop.create_task(job(self.queue.popleft())) for _ in range(min(100, len(self.queue)))])
        return time.perf_counter() - start
