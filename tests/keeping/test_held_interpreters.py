"""C code that keeps the GIL loses no lease: a process beside the worker keeps them. Real workers and brokers."""

from __future__ import annotations

import os
import re
import signal
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import anyio
import pytest

from taskcore import Dead, Job, Succeeded
from taskcore.faults.processes import WorkerProcess
from tests.support.redis_play import until
from tests.worker.test_blocked_loops import Pair, anyio_backend, broker, output_of

__all__ = ["anyio_backend", "broker"]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LEASE = 3.0
SECONDS = 10  #: of C code; RabbitMQ takes back what a client holds that is silent for 6 to 9
LONG = pytest.mark.skipif("TASKCORE_LONG_TESTS" not in os.environ, reason="TASKCORE_LONG_TESTS=1 runs it: minutes")
NUMBERS = count(1)  #: no two jobs of a broker have one key


async def hold(pair: Pair, task: str, seconds: int) -> tuple[object, str]:
    """Let a task of one of two workers keep the GIL; return its outcome and what the workers said."""
    async with AsyncExitStack() as exits:
        workers = [await exits.enter_async_context(pair.worker(who)) for who in ("one", "two")]
        for worker in workers:
            await worker.says("ready")
        await exits.enter_async_context(pair.app)
        held = await pair.app.tasks[task].enqueue(next(NUMBERS), seconds)
        others = await pair.app.enqueue_many([pair.app.tasks["quick"].call(n) for n in range(8)])
        outcome = await held.outcome(timeout=seconds + 60)
        for job in others:
            assert isinstance(await job.outcome(timeout=60), Succeeded)
        await anyio.sleep(1)
        return outcome, output_of(workers)


@pytest.mark.parametrize("task", ["hold", pytest.param("hold_thread", marks=LONG)])
async def test_c_code_that_keeps_the_gil_loses_no_lease(broker: str, tmp_path: Path, task: str):
    """An interpreter that stands still for three leases and more keeps its jobs; each of them starts once."""
    pair = Pair(broker, tmp_path, lease=LEASE)
    outcome, said = await hold(pair, task, SECONDS)

    assert isinstance(outcome, Succeeded), said
    assert set(pair.starts.values()) == {1}, (pair.starts, said)
    assert re.search(rf"worker process \d+: its interpreter has stood still for \d\.\d s with .*\({task}\)", said), said
    assert re.search(r"loop blocked for \d+\.\d s in (blocking_worker\.py:\d+|C code that kept the GIL)", said), said
    assert "its lease ended" not in said
    assert "suspended" not in said


@pytest.mark.slow
@LONG
async def test_a_stopped_worker_keeps_nothing(broker: str, tmp_path: Path):
    """A worker that is stopped while C code keeps the GIL counts as gone: another worker has its job after a lease."""
    pair = Pair(broker, tmp_path, lease=LEASE)
    async with AsyncExitStack() as exits:
        first, job = await held_by_one(pair, exits)
        first.pause()
        assert isinstance(await finished_by_another(pair, exits, job), Succeeded)


@pytest.mark.slow
@LONG
async def test_a_dead_worker_keeps_nothing(broker: str, tmp_path: Path):
    """A worker that is killed alone, while C code keeps the GIL, takes its keeper process with it."""
    pair = Pair(broker, tmp_path, lease=LEASE)
    async with AsyncExitStack() as exits:
        first, job = await held_by_one(pair, exits)
        [keeper] = children_of(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{keeper}").exists(), "the keeper process to end", within=5)
        assert isinstance(await finished_by_another(pair, exits, job), Succeeded)


@pytest.mark.slow
@LONG
async def test_past_max_block_the_process_gives_up(broker: str, tmp_path: Path):
    """Past its limit the keeper process lets go and says whose job it was, though the worker itself cannot."""
    pair = Pair(broker, tmp_path, lease=LEASE, max_block=2.0)
    async with AsyncExitStack() as exits:
        first, job = await held_by_one(pair, exits)
        outcome = await finished_by_another(pair, exits, job)
        said = first.output(lines=1000)

    assert re.search(rf"still for \d\.\d s with .*{job.id} \(hold\).*, longer than max_block=2 s", said), said
    if isinstance(outcome, Dead):
        assert outcome.reason == "its lease ended while it ran"
    else:
        assert isinstance(outcome, Succeeded), said


async def held_by_one(pair: Pair, exits: AsyncExitStack) -> tuple[WorkerProcess, Job[int]]:
    """Let one worker start a job that keeps the GIL; return both when its keeper process has noticed."""
    pair.ledger.touch()
    first = await exits.enter_async_context(pair.worker("one"))
    await first.says("ready")
    await exits.enter_async_context(pair.app)
    job = await pair.app.tasks["hold"].enqueue(next(NUMBERS), SECONDS)
    await first.says("stood still", within=10)
    return first, job


async def finished_by_another(pair: Pair, exits: AsyncExitStack, job: Job[int]) -> object:
    """Let another worker run the job; return its outcome."""
    heir = await exits.enter_async_context(pair.worker("two"))
    await heir.says("ready")
    await until(lambda: pair.starts.most_common(1)[0][1] == 2, "the other worker to start the job", within=20)
    return await job.outcome(timeout=40)


def children_of(pid: int) -> list[int]:
    """List the processes that this one has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
