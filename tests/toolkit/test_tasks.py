"""Background tasks: kept, discarded, logged when they die; and work that outlives its caller."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from taskcore.toolkit.detached import run_detached
from taskcore.toolkit.tasks import TaskSet

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


async def test_a_task_is_kept_until_it_ends():
    """A running task survives the garbage collector; one that has ended is discarded."""
    tasks, done = TaskSet("test"), []

    async def work() -> None:
        await asyncio.get_running_loop().create_task(asyncio.sleep(0.02))
        done.append(1)

    tasks.start(work())
    gc.collect()
    assert len(tasks) == 1
    await tasks.wait_closed()

    assert done == [1]
    assert len(tasks) == 0


async def test_a_task_that_dies_is_logged(caplog):
    """The error of a background task is logged with its owner, at once."""
    tasks = TaskSet("shop")

    async def work() -> None:
        raise KeyError("till")

    with caplog.at_level(logging.ERROR, "taskcore.toolkit"):
        tasks.start(work())
        await tasks.wait_closed()
        await asyncio.sleep(0)

    [record] = caplog.records
    assert "shop" in record.getMessage()
    assert "till" in record.getMessage()


async def test_the_error_of_an_awaited_task_is_the_caller_s(caplog):
    """A task whose caller awaits it raises there, and is not logged besides."""
    tasks = TaskSet("shop")

    async def work() -> None:
        raise KeyError("till")

    with pytest.raises(KeyError):
        await tasks.start_awaited(work())
    assert not caplog.records


async def test_cancel_waits_for_the_end(caplog):
    """After ``cancel`` no task runs; a cancelled task is not logged as dead."""
    tasks, ended = TaskSet("test"), []

    async def work() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    tasks.start(work())
    tasks.start(work())
    await asyncio.sleep(0)
    await tasks.cancel()

    assert ended == [1, 1]
    assert not caplog.records


async def test_detached_work_outlives_its_caller():
    """A cancelled caller leaves; the work goes on to its end."""
    done = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        done.append(1)

    caller = asyncio.ensure_future(run_detached(work(), timeout=1.0))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not done
    await asyncio.sleep(0.05)
    assert done


async def test_detached_work_has_a_result_an_error_and_a_limit():
    """The caller gets the result or the error; work that takes too long raises TimeoutError."""

    async def fail() -> None:
        raise KeyError("till")

    assert await run_detached(asyncio.sleep(0, "result"), timeout=1.0) == "result"
    with pytest.raises(KeyError):
        await run_detached(fail(), timeout=1.0)
    with pytest.raises(TimeoutError):
        await run_detached(asyncio.sleep(5), timeout=0.01)


async def test_work_that_a_library_cancels_is_a_lost_connection():
    """A cancellation from below is not mistaken for the caller's."""

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError):
        await run_detached(work(), timeout=1.0)
