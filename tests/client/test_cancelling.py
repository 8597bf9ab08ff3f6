"""Cancelling: True means that the job never starts (C14)."""

from __future__ import annotations

from itertools import product

import anyio
import pytest

from taskcore import App, Cancelled, JobCancelled, Retry, StoreRequired, Succeeded, current
from taskcore.backends.memory import MemoryBackend
from tests.support.faulty import Log
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def app():
    """Make an app on the in-memory broker."""
    return App("memory://", clock=clock)


@pytest.fixture
def log():
    """Make the list of jobs that have started."""
    return Log()


@pytest.fixture
def work(app, log):
    """Declare a task that takes a while."""

    @app.task(retry=Retry(base=10.0, jitter="none"))
    async def work(seconds: float = 0.0, *, fail: bool = False) -> str:
        log.append(current().job_id)
        await anyio.sleep(seconds)
        if fail:
            raise OSError
        return "done"

    return work


@pytest.mark.parametrize("delay", [0.0, 100.0])
async def test_a_waiting_job(app, work, log, delay):
    """A queued or scheduled job is taken back, and every later query says so."""
    async with app:
        job = await work.using(delay=delay).enqueue()
        assert await job.cancel()
        assert await job.status() == "cancelled"
        assert await job.outcome(timeout=1) == Cancelled()
        with pytest.raises(JobCancelled):
            await job.result(timeout=1)
        async with app.running():
            await anyio.sleep(200)

    assert log == []
    assert app.counters["job.cancelled"] == 1


async def test_a_waiting_caller_returns(app, work):
    """A caller that waits for a job returns when the job is cancelled."""
    async with app, anyio.create_task_group() as group:
        job = await work.enqueue()
        got = []

        async def wait() -> None:
            got.append(await job.outcome())

        group.start_soon(wait)
        await anyio.sleep(1)
        await job.cancel()

    assert got == [Cancelled()]


async def test_a_running_job(app, work, log):
    """A job that runs goes on: False; it may see the wish, and decide itself."""
    seen = []

    @app.task
    async def polite() -> str:
        log.append(current().job_id)
        while not await current().cancel_requested():
            seen.append(anyio.current_time())
            await anyio.sleep(1.0)
        return "stopped early"

    async with app.running():
        job, other = await polite.enqueue(), await work.enqueue(20.0)
        await log.wait(2)
        await anyio.sleep(5)

        assert not await job.cancel()
        assert await job.result(timeout=5) == "stopped early"
        assert await other.result(timeout=60) == "done"
    assert len(seen) in (5, 6, 7)


async def test_a_running_job_that_fails_is_not_tried_again(app, work, log):
    """The wish is remembered: the next attempt does not start."""
    async with app.running():
        job = await work.enqueue(5.0, fail=True)
        await log.wait()
        assert not await job.cancel()

        assert await job.outcome(timeout=60) == Cancelled()
    assert len(log) == 1


async def test_a_job_between_two_attempts(app, work, log):
    """Waiting for a retry is waiting."""
    async with app.running():
        job = await work.enqueue(fail=True)
        await log.wait()
        await anyio.sleep(5)

        assert await job.cancel()
        await anyio.sleep(100)
    assert len(log) == 1


async def test_after_the_end(app, work):
    """What has ended stays as it is (C18)."""
    async with app.running():
        job = await work.enqueue()
        await job.result(timeout=5)

        assert not await job.cancel()
        assert await job.outcome(timeout=1) == Succeeded("done")
        assert await job.status() == "succeeded"


async def test_twice(app, work):
    """A job is cancelled once."""
    async with app:
        job = await work.enqueue()

        assert [await job.cancel(), await job.cancel()] == [True, False]
        assert await job.status() == "cancelled"


async def test_an_unknown_job(app, work):
    """What is not there cannot be kept from starting."""
    async with app:
        assert not await work.job("unknown").cancel()


async def test_races(app, work, log):
    """Whatever moment the wish comes in: True means no start, False means a start, and one outcome only (F71)."""
    answers = {}

    async with app.running(concurrency=3):
        for switches, seconds, delay, _ in product(range(5), [0.0, 0.001], [0.0, 0.01, 0.011], range(15)):
            job = await work.using(delay=delay).enqueue(seconds)
            await anyio.sleep(min(delay, 0.01))
            for _ in range(switches):
                await anyio.lowlevel.checkpoint()
            answers[job.id] = await job.cancel()
            outcome = await job.outcome(timeout=30)
            assert outcome == (Cancelled() if answers[job.id] else Succeeded("done"))

    started = set(log)
    assert len(started) == len(log)
    assert all((job_id in started) is not cancelled for job_id, cancelled in answers.items())
    assert len(answers) == 450
    assert len(set(answers.values())) == 2


async def test_cancelling_needs_a_store():
    """Cancelling needs a store, without which a caller cannot know whether it worked."""
    app = App(MemoryBackend(), clock=clock)

    @app.task
    async def work() -> None: ...

    async with app:
        job = await work.enqueue()
        with pytest.raises(StoreRequired, match="cannot cancel job"):
            await job.cancel()
