"""How long the work of killed workers waits, with the default lease: real workers on real brokers."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from taskcore import Dead, Succeeded
from tests.keeping.test_held_interpreters import LONG, hold
from tests.support.redis_play import until
from tests.worker.test_blocked_loops import Pair, anyio_backend, broker, play

__all__ = ["anyio_backend", "broker"]

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]


async def test_jobs_of_a_killed_worker_are_back_within_20_seconds(broker: str, tmp_path: Path):
    """SIGKILL costs its jobs no more than 20 s at defaults, on every broker."""
    pair = Pair(broker, tmp_path, lease=None)
    pair.ledger.touch()
    async with AsyncExitStack() as exits:
        victim = await exits.enter_async_context(pair.worker("victim"))
        await victim.says("ready")
        await exits.enter_async_context(pair.app)
        jobs = await pair.app.enqueue_many([pair.app.tasks["linger"].call(n) for n in range(4)])
        await until(lambda: pair.starts.total() == len(jobs), "all of them to start")
        heir = await exits.enter_async_context(pair.worker("heir"))
        await heir.says("ready")
        killed = time.monotonic()
        victim.kill()
        for job in jobs:
            assert isinstance(await job.outcome(timeout=60), Succeeded)
        took = time.monotonic() - killed
    print(f"{broker}: jobs of a killed worker ended after {took:.1f} s")  # noqa: T201 - what the documentation tells
    assert took <= 20.0


async def test_a_poisonous_job_is_isolated_within_a_minute(broker: str, tmp_path: Path):
    """A job that kills its process is a dead letter within 60 s at defaults, and no job beside it is blamed."""
    pair = Pair(broker, tmp_path, lease=None)
    pair.ledger.touch()
    async with AsyncExitStack() as exits, anyio.create_task_group() as group:
        await exits.enter_async_context(pair.app)

        async def supervise(who: str) -> None:
            for number in range(100):
                async with pair.worker(f"{who}{number}") as worker:
                    await worker.wait(within=600)

        group.start_soon(supervise, "one")
        group.start_soon(supervise, "two")
        began = time.monotonic()
        poison = await pair.app.tasks["die"].enqueue()
        neighbours = await pair.app.enqueue_many([pair.app.tasks["neighbour"].call(n) for n in range(20)])
        outcome = await poison.outcome(timeout=120)
        took = time.monotonic() - began
        for job in neighbours:
            assert isinstance(await job.outcome(timeout=60), Succeeded)
        group.cancel_scope.cancel()

    print(f"{broker}: a poisonous job was isolated after {took:.1f} s")  # noqa: T201 - what the documentation tells
    assert isinstance(outcome, Dead)
    assert outcome.reason == "poison"
    assert took <= 60.0


async def test_two_minutes_in_one_line(broker: str, tmp_path: Path):
    """A loop that is blocked for 120 s loses no lease and doubles nothing at defaults."""
    pair = Pair(broker, tmp_path, lease=None)
    outcome, said = await play(pair, 120.0)

    assert isinstance(outcome, Succeeded), said
    assert set(pair.starts.values()) == {1}, (pair.starts, said)
    assert "lost" not in said


@LONG
async def test_forty_seconds_of_c_code(broker: str, tmp_path: Path):
    """C code that keeps the GIL for 40 s loses no lease and doubles nothing at defaults."""
    pair = Pair(broker, tmp_path, lease=None)
    outcome, said = await hold(pair, "hold", 40)

    assert isinstance(outcome, Succeeded), said
    assert set(pair.starts.values()) == {1}, (pair.starts, said)
    assert "its lease ended" not in said
