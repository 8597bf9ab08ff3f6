"""Threads of functions that hang are bounded."""

from __future__ import annotations

import ctypes
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


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ValueError])
async def test_an_error_that_is_raised_in_a_thread_after_its_function(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A thread goes on when a time limit of a function raises in it too late, and the log says so; no job waits."""
    caplog.set_level(logging.INFO)
    app = App("memory://", threads=1, concurrency=1)

    @app.task
    def leave_a_limit() -> int:
        return threading.get_ident()

    @app.task
    def follow() -> int:
        return threading.get_ident()

    async with app.running(grace=0.1):
        thread = await (await leave_a_limit.enqueue()).result(timeout=5)
        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert raise_in(ctypes.c_ulong(thread), ctypes.py_object(kind)) == 1
        outcomes = [await (await follow.enqueue()).outcome(timeout=5) for _ in range(3)]
    # It comes before the function of the next job, or in it; then it is that job's error, which is logged as always.
    assert f"{kind.__name__} was raised in a thread" in caplog.text or f"with {kind.__name__}" in caplog.text
    assert [getattr(outcome, "value", None) for outcome in outcomes[1:]] == [thread, thread]
