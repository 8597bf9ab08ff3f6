"""On every store: progress is pushed to other programs, resumed, and it survives a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App
from taskcore.faults import RedisServer
from tests.progress.programs import KINDS, make
from tests.support.real import serving
from tests.support.stores import KINDS_OF_STORES, store_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize("kind", KINDS_OF_STORES)
def test_every_store_pushes_and_keeps(kind: str, tmp_path: Path) -> None:
    """Another program sees values soon after they are written, in order, the last one before the end; so with lines."""

    async def main(store: Any) -> None:
        teller = make("memory://", store)
        async with teller.running():
            job = await KINDS["loop"].enqueue(30, 0.08, fails_at=12)
            reader = App("memory://", store=store)
            late: list[float] = []
            values, lines, first = [], [], anyio.Event()

            async def follow() -> None:
                async for seen in reader.job(job.id).progress():
                    values.append((seen.attempt, seen.value))
                    late.append(time.time() - seen.at)
                    first.set()

            async def follow_log() -> None:
                lines.extend([line.text async for line in reader.job(job.id).log()])

            async with reader, anyio.create_task_group() as group:
                group.start_soon(follow)
                group.start_soon(follow_log)
                with anyio.fail_after(30):
                    await first.wait()
                assert (await reader.job(job.id).progress()) is not None
            assert values == sorted(set(values))
            assert values[-1] == (2, 30)
            assert 4 <= len(values) <= 10
            assert sorted(late)[len(late) // 2] < 0.7
            assert lines == [f"row {row}" for row in [*range(13), *range(12, 30)]]

    with store_of(kind, tmp_path) as store:
        anyio.run(main, store)


@pytest.mark.parametrize("kind", ["loop", "process"])  # a thread's words are written by the same hands as the loop's
def test_a_killed_worker_is_followed_by_one_that_goes_on(kind: str) -> None:
    """After SIGKILL at half of the rows its progress is there, and the next worker goes on a second before, at most."""
    with serving(RedisServer) as server:
        anyio.run(_kill_at_half, kind, server.url)


async def _kill_at_half(kind: str, url: str) -> None:
    rows, pause = 50, 0.05
    app = make(url)
    workers = [_start(url)]
    try:
        async with app:
            job = await KINDS[kind].enqueue(rows, pause)
            with anyio.fail_after(60):
                async for seen in job.progress():
                    if seen.value >= rows / 2 and len(workers) == 1:
                        os.kill(workers[0].pid, signal.SIGKILL)
                        dead = await job.progress()
                        assert dead is not None
                        assert dead.value >= seen.value
                        workers.append(_start(url))
                last = await job.progress()
                assert await job.result(5) == rows
            assert len(workers) == 2
            assert last is not None
            assert last.value == rows
            log = await job.log()
        again = [line.text for line in log.lines]
        repeated = len(again) - len(set(again))
        assert repeated <= 1.5 / pause  # of what the dead worker did in its last second
        assert {f"row {row}" for row in range(rows)} - set(again) <= {f"row {row}" for row in range(rows - 1)}
        assert len(set(again)) >= rows - 1.5 / pause
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)
            worker.stdout.close()


def _start(url: str) -> subprocess.Popen[str]:
    """Start a worker in a process of its own, and wait until it is ready."""
    command = [sys.executable, "-m", "tests.progress.programs", url, ""]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker
