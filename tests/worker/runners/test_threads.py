"""Threads of functions that hang are bounded."""

from __future__ import annotations

import logging
import threading

import anyio
import pytest

from taskcore import App, Retry
from tests.support.faulty import eventually

pytestmark = pytest.mark.anyio


def alive() -> int:
    """Count the threads that run tasks."""
    return sum(thread.name == "taskcore-task" for thread in threading.enumerate())


async def test_functions_that_hang_take_at_most_twice_the_threads(caplog: pytest.LogCaptureFixture) -> None:
    """At the bound no plain function starts, an error says so once, and async tasks go on; then all goes on."""
    app = App("memory://", threads=4, concurrency=60)
    gate = threading.Event()
    before, most = alive(), 0

    @app.task(name="hang", timeout=0.05, retry=Retry(attempts=2, base=0.01))
    def hang(n: int) -> None:
        gate.wait(30)

    @app.task(name="quick")
    def quick() -> int:
        return 1

    @app.task(name="other", queue="other")
    async def other() -> int:
        return 2

    try:
        async with app.running(grace=0.1):
            await app.enqueue_many([hang.call(n) for n in range(30)])
            await eventually(lambda: "left alone" in caplog.text)
            waiting = await quick.enqueue()
            for _ in range(20):
                assert await (await other.enqueue()).result(timeout=5) == 2
                most = max(most, alive() - before)
                await anyio.sleep(0.01)
            assert await waiting.status() != "succeeded"
            assert most <= 8
            gate.set()
            assert await waiting.result(timeout=10) == 1
    finally:
        gate.set()
    lines = [record for record in caplog.records if "left alone" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.ERROR]


async def test_one_function_that_hangs_does_not_stop_the_next() -> None:
    """With a single thread there is room for one that was left alone."""
    app = App("memory://", threads=1)
    gate = threading.Event()

    @app.task(name="hang", timeout=0.05, retry=None)
    def hang() -> None:
        gate.wait(30)

    @app.task(name="quick")
    def quick() -> int:
        return 1

    try:
        async with app.running(grace=0.1):
            await (await hang.enqueue()).outcome(timeout=5)
            assert await (await quick.enqueue()).result(timeout=5) == 1
    finally:
        gate.set()
