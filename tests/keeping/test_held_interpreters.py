"""C code that keeps the GIL loses no lease: a process beside the worker keeps them. Real workers and brokers."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from taskcore import Succeeded
from tests.worker.test_blocked_loops import Pair, anyio_backend, broker, output_of

__all__ = ["anyio_backend", "broker"]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LEASE = 4.0


async def hold(pair: Pair, task: str, seconds: int) -> tuple[object, str]:
    """Let a task of one of two workers keep the GIL; return its outcome and what the workers said."""
    async with AsyncExitStack() as exits:
        workers = [await exits.enter_async_context(pair.worker(who)) for who in ("one", "two")]
        for worker in workers:
            await worker.says("ready")
        await exits.enter_async_context(pair.app)
        held = await pair.app.tasks[task].enqueue(1, seconds)
        others = await pair.app.enqueue_many([pair.app.tasks["quick"].call(n) for n in range(8)])
        outcome = await held.outcome(timeout=seconds + 60)
        for job in others:
            assert isinstance(await job.outcome(timeout=60), Succeeded)
        await anyio.sleep(1)
        return outcome, output_of(workers)


@pytest.mark.parametrize("task", ["hold", "hold_thread"])
async def test_c_code_that_keeps_the_gil_loses_no_lease(broker: str, tmp_path: Path, task: str):
    """An interpreter that stands still for three leases keeps its jobs; each of them starts once."""
    pair = Pair(broker, tmp_path, lease=LEASE)
    outcome, said = await hold(pair, task, int(3 * LEASE))

    assert isinstance(outcome, Succeeded), said
    assert set(pair.starts.values()) == {1}, (pair.starts, said)
    assert re.search(rf"worker process \d+: its interpreter has stood still for \d\.\d s with .*\({task}\)", said), said
    assert re.search(r"loop blocked for 1\d\.\d s in (blocking_worker\.py:\d+|C code that kept the GIL)", said), said
    assert "lease ended" not in said
    assert "suspended" not in said
