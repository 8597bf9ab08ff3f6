"""The lifespan of an app: entered around each worker, by no client, and its error is the worker's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from taskcore import App, JobFailed, NotRunning, Retry, current
from tests.support.faulty import worker_of
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


def make(lifespan):
    """Make an app with a task that tells its state."""
    app = App("memory://", clock=clock, lifespan=lifespan, retry=Retry(attempts=1))

    @app.task
    async def state() -> Any:
        return current().state

    return app, state


async def test_it_is_entered_around_the_worker():
    """It gets the app, is entered before the first job and left after the last, and what it yields is the state."""
    log = []

    @asynccontextmanager
    async def lifespan(app):
        log.append(app)
        yield {"pool": 1}
        await anyio.sleep(0.01)
        log.append("left")

    app, state = make(lifespan)
    async with app:
        job = await state.enqueue()
        assert log == []  # a client does not enter it
        async with app.running():
            assert log == [app]
            assert await job.result(30.0) == {"pool": 1}
        assert log == [app, "left"]


async def test_a_client_may_ask_for_it():
    """`app.lifespan()` enters it in a program that is no worker."""

    @asynccontextmanager
    async def lifespan(app):
        yield 7

    app, _ = make(lifespan)
    async with app.lifespan() as state:
        assert state == 7
    async with App("memory://").lifespan() as state:
        assert state is None


async def test_without_a_lifespan_there_is_no_state():
    """A job that asks for the state of an app without a lifespan fails, and learns what to do."""
    app, state = make(None)
    async with app.running():
        with pytest.raises(JobFailed, match=r"NotRunning.*this job has no state"):
            await (await state.enqueue()).result(30.0)


async def test_an_error_of_the_lifespan_ends_the_worker():
    """A lifespan that cannot be entered raises its own error where the worker is started, and no job starts."""

    @asynccontextmanager
    async def lifespan(app):
        raise ConnectionError("no database")
        yield

    app, state = make(lifespan)
    async with app:
        job = await state.enqueue()
        with pytest.raises(ConnectionError, match="no database"):
            async with app.running():
                pytest.fail("the worker runs")
        with pytest.raises(ConnectionError, match="no database"):
            await app.run_worker()
        assert await job.status() == "queued"


async def test_a_worker_that_is_stopped_meanwhile_gives_up():
    """A worker that is asked to stop while its lifespan waits ends at once, without having worked."""
    begun = anyio.Event()
    log = []

    @asynccontextmanager
    async def lifespan(app):
        try:
            begun.set()
            await anyio.sleep_forever()
            yield
        finally:
            log.append("left")

    app, state = make(lifespan)
    async with app:
        job = await state.enqueue()
        worker = worker_of(app)
        async with anyio.create_task_group() as working:
            working.start_soon(worker.run)
            await begun.wait()
            worker.stop()
        assert log == ["left"]
        assert await job.status() == "queued"


async def test_a_cancelled_worker_leaves_it_in_peace():
    """What the lifespan does at its end may wait, also when the worker is cancelled."""
    log = []

    @asynccontextmanager
    async def lifespan(app):
        try:
            yield
        finally:
            await anyio.sleep(0.5)
            log.append("left")

    app, _ = make(lifespan)
    async with app, anyio.create_task_group() as group:
        await group.start(worker_of(app).run)
        group.cancel_scope.cancel()
    assert log == ["left"]


async def test_the_state_ends_with_the_worker():
    """Code that runs after the worker finds no state."""

    @asynccontextmanager
    async def lifespan(app):
        yield 1

    app, _ = make(lifespan)
    async with app.running():
        pass
    with pytest.raises(NotRunning):
        current()
