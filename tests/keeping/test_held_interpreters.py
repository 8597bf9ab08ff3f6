"""C code that keeps the GIL loses no lease: a process beside the worker keeps them. Real workers and brokers."""

from __future__ import annotations

import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from taskcore import Succeeded
from tests.support.redis_play import until
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


async def test_a_stopped_worker_keeps_nothing(broker: str, tmp_path: Path):
    """A worker that is stopped while C code keeps the GIL counts as gone: another worker has its job after a lease."""
    pair = Pair(broker, tmp_path, lease=LEASE)
    pair.ledger.touch()
    async with AsyncExitStack() as exits:
        first = await exits.enter_async_context(pair.worker("one"))
        await first.says("ready")
        await exits.enter_async_context(pair.app)
        await pair.app.tasks["hold"].enqueue(1, 60)
        await first.says("stood still", within=10)
        first.pause()
        heir = await exits.enter_async_context(pair.worker("two"))
        await heir.says("ready")
        await until(lambda: pair.starts["hold-1"] == 2, "the other worker to start the job", within=20)


async def test_a_dead_worker_keeps_nothing(broker: str, tmp_path: Path):
    """A worker that is killed alone, while C code keeps the GIL, takes its keeper process with it."""
    pair = Pair(broker, tmp_path, lease=LEASE)
    pair.ledger.touch()
    async with AsyncExitStack() as exits:
        first = await exits.enter_async_context(pair.worker("one"))
        await first.says("ready")
        await exits.enter_async_context(pair.app)
        await pair.app.tasks["hold"].enqueue(1, 60)
        await first.says("stood still", within=10)
        [keeper] = children_of(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{keeper}").exists(), "the keeper process to end", within=5)
        heir = await exits.enter_async_context(pair.worker("two"))
        await heir.says("ready")
        await until(lambda: pair.starts["hold-1"] == 2, "the other worker to start the job", within=20)


async def test_past_max_block_the_process_gives_up(broker: str, tmp_path: Path):
    """Past its limit the keeper process lets go and says whose job it was, though the worker itself cannot."""
    pair = Pair(broker, tmp_path, lease=LEASE, max_block=2 * LEASE)
    pair.ledger.touch()
    async with AsyncExitStack() as exits:
        workers = [await exits.enter_async_context(pair.worker(who)) for who in ("one", "two")]
        for worker in workers:
            await worker.says("ready")
        await exits.enter_async_context(pair.app)
        job = await pair.app.tasks["hold"].enqueue(1, 60)
        await until(lambda: pair.starts["hold-1"] == 2, "the other worker to start the job", within=40)
        said = output_of(workers)

    assert re.search(
        rf"still for \d+\.\d s with {job.id} \(hold\), longer than max_block=8 s: its leases are let go", said
    )


def children_of(pid: int) -> list[int]:
    """List the processes that this one has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
