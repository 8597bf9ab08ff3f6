"""Cancelling: True means that the job never starts (C14)."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from itertools import product

import anyio
import pytest
from anyio.lowlevel import checkpoint

from taskcore import App, BrokerUnavailable, Cancelled, JobCancelled, Retry, StoreRequired, Succeeded, current
from taskcore.backends.memory import MemoryBackend
from taskcore.stores.memory import MemoryStore
from taskcore.toolkit.failpoints import arm
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


# ── callers that are interrupted ─────────────────────────────────────────────────────────────────


@contextmanager
def hooked(action):
    """Call a function with the name of each crash point that is passed."""
    arm(action)
    try:
        yield
    finally:
        arm(None)


@pytest.mark.parametrize("point", ["cancel.marked", "cancel.removed"])
async def test_an_interrupted_caller(app, work, log, point):
    """A caller that is interrupted at a crash point leaves no job behind that neither runs nor has an outcome."""
    async with app:
        job = await work.enqueue()
        with anyio.CancelScope() as scope, hooked(lambda name: scope.cancel() if name == point else None):
            await job.cancel()
        async with app.running():
            assert await job.outcome(timeout=60) == Cancelled()
    assert log == []


async def test_a_caller_is_interrupted_at_any_step(app, work, log):
    """However many steps a caller gets before it is interrupted, the job runs or has the outcome of a cancellation."""
    async with app:
        jobs = []
        for steps in range(12):
            job = await work.enqueue()
            async with anyio.create_task_group() as group:
                group.start_soon(job.cancel)
                for _ in range(steps):
                    await checkpoint()
                group.cancel_scope.cancel()
            jobs.append(job)
        async with app.running():
            outcomes = [await job.outcome(timeout=60) for job in jobs]
    assert {type(outcome) for outcome in outcomes} <= {Cancelled, Succeeded}
    assert Cancelled() in outcomes
    assert log == [job.id for job, outcome in zip(jobs, outcomes, strict=True) if outcome != Cancelled()]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_caller_with_a_time_limit_of_asyncio(work, log):
    """A time limit of asyncio, which no shield of anyio stops, does not part the removal from the outcome."""
    store = SlowStore()
    app = App("memory://", store=store, clock=clock)
    app.add(work)
    async with app:
        job = await work.enqueue()
        store.slow = "job/"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job.cancel(), 1)
        assert await job.outcome(timeout=60) == Cancelled()


async def test_a_closing_app_finishes_a_cancellation(work, log):
    """An app that closes waits for removals whose callers were interrupted."""
    backend, store = MemoryBackend(), SlowStore()
    app = App(backend, store=store, clock=clock)
    app.add(work)
    async with app:
        job = await work.enqueue()
        store.slow = "job/"
        with anyio.move_on_after(1):
            await job.cancel()
    store.slow = None
    async with app:
        assert await job.outcome(timeout=0) == Cancelled()


async def test_a_store_that_is_away_for_a_moment(work, log):
    """A job that is removed gets its outcome although the store cannot be reached at first."""
    store = SlowStore()
    app = App("memory://", store=store, clock=clock)
    app.add(work)
    async with app:
        job = await work.enqueue()
        store.failures = 5
        assert await job.cancel()
        assert await job.outcome(timeout=1) == Cancelled()
        job = await work.enqueue()
        store.failures = 1000
        with pytest.raises(BrokerUnavailable):
            await job.cancel()
        store.failures = 0
        assert await job.cancel()
        assert await job.outcome(timeout=1) == Cancelled()


async def test_a_running_job_that_the_broker_has_forgotten(app):
    """A job that runs at most once is nowhere at the broker while it runs; asking twice does not call it cancelled."""
    started = anyio.Event()

    @app.task(delivery="at_most_once")
    async def once() -> str:
        started.set()
        await anyio.sleep(10)
        return "done"

    async with app.running():
        job = await once.enqueue()
        await started.wait()
        assert [await job.cancel(), await job.cancel(), await app.job(job.id).cancel()] == [False] * 3
        assert await job.outcome(timeout=60) == Succeeded("done")


class SlowStore(MemoryStore):
    """A store that is slow to write, or cannot be reached, when a cancellation stores its outcome."""

    slow: str | None = None
    failures = 0

    async def put(self, key, value, *, expect, keep):
        """Write, late or not at all."""
        if self.slow is not None and key.startswith(self.slow):
            await anyio.sleep(10)
        if self.failures and key.startswith("job/"):
            self.failures -= 1
            raise BrokerUnavailable("the store is away")
        return await super().put(key, value, expect=expect, keep=keep)


async def test_cancelling_needs_a_store():
    """Cancelling needs a store, without which a caller cannot know whether it worked."""
    app = App(MemoryBackend(), clock=clock)

    @app.task
    async def work() -> None: ...

    async with app:
        job = await work.enqueue()
        with pytest.raises(StoreRequired, match="cannot cancel job"):
            await job.cancel()
