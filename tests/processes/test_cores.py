"""Work that computes: it uses several cores, and what waits for something else is not delayed by it."""

from __future__ import annotations

import os
import time

import anyio
import pytest

from taskcore import App
from tests.support import in_processes

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name == "nt", reason="Windows has no process tasks")]


@pytest.fixture
def anyio_backend():
    """Run on one loop: the processes are the same."""
    return "asyncio"


async def test_computing_uses_several_cores_and_delays_nothing():
    """Two jobs compute at the same time in two processes, and many short jobs of the loop end before either does."""
    app = App("memory://", processes=2)
    app.include(in_processes.router)

    @app.task(queue="waiting")
    async def wait() -> float:
        await anyio.sleep(0.01)
        return time.time()

    async with app.running():
        warm = [await in_processes.burn.enqueue(0.3) for _ in range(2)]  # the start of a process takes a while
        for job in warm:
            await job.result(60.0)
        computing = [await in_processes.burn.enqueue(5.0) for _ in range(2)]
        waiting = [await wait.enqueue() for _ in range(50)]
        ends = [await job.result(60.0) for job in waiting]
        results = [await job.result(60.0) for job in computing]
    (one, began, ended), (other, began_too, ended_too) = results
    assert one != other
    assert max(began, began_too) < min(ended, ended_too)  # at the same time
    assert max(ends) < min(ended, ended_too)
