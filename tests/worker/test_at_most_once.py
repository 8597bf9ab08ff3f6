"""delivery="at_most_once": the broker forgets the job before it starts; one start, or none (C9)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, JobFailed, RetryLater, Snooze
from taskcore.faults import FlakyBackend, LateReply
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import FaultyBackend, Log, doomed
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def app():
    """Make an app whose wall clock is the virtual one."""
    return App(FaultyBackend(), store=MemoryStore(), clock=clock)


async def test_at_most_once(app):
    """An at-most-once job, which the broker forgets before it starts, has one start and still has an outcome (C9)."""
    starts = []

    @app.task(delivery="at_most_once", retry=5)
    async def fail() -> None:
        starts.append((await app.stats()).leased)
        raise ConnectionError("no")

    async with app.running():
        job = await fail.enqueue()
        with pytest.raises(JobFailed, match="no"):
            await job.result(timeout=5)
        await app.drain(timeout=100)

    assert starts == [0]
    assert app.counters["job.failed"] == 1
    assert app.counters["job.lost"] == 0


@pytest.mark.parametrize("wish", [Snooze(1.0), RetryLater(1.0)])
async def test_there_is_no_second_start_to_ask_for(app, wish):
    """A job that asks to be started again has had its one start, and its caller learns that it ended."""

    @app.task(delivery="at_most_once")
    async def wishful() -> None:
        raise wish

    async with app.running():
        job = await wishful.enqueue()
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout=5)

    assert caught.value.reason in ("at most once", "exhausted")
    assert app.counters["job.failed"] == 1


async def test_interrupted_at_shutdown(app):
    """A job that shutdown interrupts cannot be given back; its caller learns that it ended."""

    @app.task(delivery="at_most_once")
    async def slow() -> None:
        await anyio.sleep(1000.0)

    async with app:
        async with app.running(grace=1.0):
            job = await slow.enqueue()
            await anyio.sleep(0.1)
        with pytest.raises(JobFailed, match="at most once"):
            await job.result(timeout=5)


async def test_interrupted_while_the_broker_is_asked():
    """A job whose worker has no time left while the broker forgets it is not lost in silence; its caller learns it."""
    flaky = FlakyBackend(FaultyBackend())
    app = App(flaky, store=MemoryStore(), clock=clock)
    starts = []

    @app.task(delivery="at_most_once")
    async def once() -> None:
        starts.append(1)

    flaky.always("settle", LateReply(2.0))
    async with app:
        async with app.running(grace=0.5):
            job = await once.enqueue()
            await anyio.sleep(0.1)
        with pytest.raises(JobFailed, match="at most once"):
            await job.result(timeout=5)
    assert starts == []


async def test_at_most_once_may_take_long(app):
    """There is no lease that such a job could lose."""

    @app.task(delivery="at_most_once")
    async def slow() -> str:
        await anyio.sleep(1000.0)
        return "done"

    async with app.running():
        assert await (await slow.enqueue()).result() == "done"


async def test_a_worker_that_dies_has_had_its_one_start(app):
    """When the process dies, the job is gone: it never starts a second time."""
    starts = Log()

    @app.task(delivery="at_most_once")
    async def fragile() -> None:
        starts.append(1)
        await anyio.sleep_forever()

    async with app:
        await fragile.enqueue()
        async with doomed(app):
            await starts.wait()
        async with app.running():
            await anyio.sleep(1000.0)
        stats = await app.stats()

    assert len(starts) == 1
    assert stats.unfinished + stats.dead == 0


async def test_a_broker_that_does_not_answer_starts_nothing(app):
    """If it is not sure that the job is forgotten, it does not start here; it starts once, when the broker is back."""
    starts = []

    @app.task(delivery="at_most_once")
    async def careful() -> str:
        starts.append(anyio.current_time())
        return "done"

    async with app:
        job = await careful.enqueue()
        backend = app._build.keywords["url"]
        backend.faults.fail("settle")
        async with app.running():
            await anyio.sleep(30)
            assert starts == []

            backend.faults.heal()
            assert await job.result(timeout=300) == "done"
    assert len(starts) == 1


async def test_stopping_interrupts_for_good(app):
    """What is interrupted at the end of the grace is not given back: it had its start."""
    starts = Log()

    @app.task(delivery="at_most_once")
    async def slow() -> None:
        starts.append(1)
        await anyio.sleep_forever()

    async with app:
        async with app.running(grace=1.0):
            await slow.enqueue()
            await starts.wait()
        async with app.running():
            await anyio.sleep(1000.0)

    assert len(starts) == 1
