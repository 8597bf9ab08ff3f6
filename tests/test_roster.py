"""The roster: which workers live, and what they do, as anything with the store can read."""

from __future__ import annotations

import os
import random
import socket
from contextlib import AsyncExitStack

import anyio
import pytest

from taskcore import App, BrokerUnavailable, StoreRequired, WorkerStatus
from tests.support.faulty import FaultyBackend, FaultyStore, worker_of
from tests.support.virtual import clock

BEAT = 5.0
pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def parts():
    """Make what several programs share."""
    return FaultyBackend(), FaultyStore()


def make(parts, name):
    """Make an app with a task that waits."""
    backend, store = parts
    app = App(backend, store=store, clock=clock, source=name, concurrency=4, heartbeat=BEAT)

    @app.task(name="wait", queue="slow")
    async def wait(seconds: float) -> None:
        await anyio.sleep(seconds)

    return app, wait


async def test_a_worker_tells_what_it_is_and_does(parts):
    """Host, process, queues, and the jobs that run, each with the time since it is in hand."""
    app, wait = make(parts, "one")
    async with app.running():
        began = clock()
        job = await wait.enqueue(60.0)
        await anyio.sleep(2 * BEAT)
        [worker] = await app.workers()
        assert isinstance(worker, WorkerStatus)
        assert (worker.name, worker.host, worker.pid) == ("one", socket.gethostname(), os.getpid())
        assert (worker.queues, worker.concurrency, worker.running) == (("slow",), 4, 1)
        assert worker.utilisation >= 0.25
        assert worker.seen >= began + BEAT
        [hand] = worker.jobs
        assert (hand.id, hand.task, hand.queue) == (job.id, "wait", "slow")
        assert abs(hand.since - began) < 1.0


async def test_any_program_sees_all_workers(parts):
    """A client reads the workers of every program; one that ends in order is gone at once."""
    one, _ = make(parts, "one")
    two, _ = make(parts, "two")
    client, _ = make(parts, "client")
    async with client:
        assert list(await client.workers()) == []
        async with one, one.running():
            async with two.running():
                await anyio.sleep(1.0)
                assert [worker.name for worker in await client.workers()] == ["one", "two"]
            assert [worker.name for worker in await client.workers()] == ["one"]
        assert list(await client.workers()) == []


async def test_a_dead_worker_is_forgotten(parts):
    """A worker that dies without a word is listed until its record is over, and not longer."""
    app, _ = make(parts, "one")
    _, store = parts
    async with app, anyio.create_task_group() as group:
        worker = worker_of(app)
        await group.start(worker.run)
        await anyio.sleep(1.0)
        store.faults.fail("delete")
        group.cancel_scope.cancel()
    async with app:
        assert len(await app.workers()) == 1
        await anyio.sleep(3 * BEAT + 2.0)
        assert list(await app.workers()) == []


async def test_without_a_store_there_is_no_roster():
    """The error says that a store is needed; a worker runs without one."""
    app = App("memory://", store="none", clock=clock, heartbeat=BEAT)

    @app.task
    async def work() -> None: ...

    async with app.running():
        with pytest.raises(StoreRequired, match="workers say in a store"):
            await app.workers()


async def test_a_worker_is_listed_by_default(monkeypatch):
    """Without a setting a worker beats every ten seconds."""
    monkeypatch.delenv("TASKCORE_HEARTBEAT")
    app = App("memory://", clock=clock)

    @app.task
    async def work() -> None: ...

    async with app.running():
        began = clock()
        await anyio.sleep(60.0)
        [worker] = await app.workers()
        assert worker.seen - began > 45.0


async def test_a_beat_is_one_write(parts):
    """A worker reads nothing to beat, neither at its start nor later."""
    app, _ = make(parts, "one")
    async with app.running():
        await anyio.sleep(10 * BEAT - 1.0)
        assert app.counters["store.put.complete"] == 10
        assert app.counters["store.get_many.complete"] == 0


async def test_two_workers_share_no_number(parts, monkeypatch):
    """Workers that want the same numbers at the same time do not overwrite each other, and all are listed."""
    monkeypatch.setattr(random.SystemRandom, "sample", lambda _, names, number: names[:number])
    apps = [make(parts, f"worker-{number:02}")[0] for number in range(20)]
    async with AsyncExitStack() as exits:
        for app in apps:
            await exits.enter_async_context(app)
        async with anyio.create_task_group() as group:
            for app in apps:
                group.start_soon(app.run_worker)
            await anyio.sleep(3 * BEAT)
            listed = [worker.name for worker in await apps[0].workers()]
            group.cancel_scope.cancel()
    assert listed == [f"worker-{number:02}" for number in range(20)]


async def test_a_lost_answer_lists_no_worker_twice(parts):
    """A worker whose beat was written, and not confirmed, takes another number; it is one worker all the same."""
    app, _ = make(parts, "one")
    _, store = parts

    async def lost(_):
        raise BrokerUnavailable("the answer was lost")

    async with app, app.running():
        await anyio.sleep(1.0)
        store.faults.after["put"] = lost
        await anyio.sleep(BEAT)
        del store.faults.after["put"]
        await anyio.sleep(BEAT)
        assert sum(name.startswith("worker/") for name in store._records) == 2
        assert len(await app.workers()) == 1


async def test_a_worker_without_a_heartbeat_is_silent():
    """With heartbeat=0 a worker writes nothing of itself."""
    app = App("memory://", clock=clock, heartbeat=0)

    @app.task
    async def work() -> None: ...

    async with app.running():
        await anyio.sleep(60.0)
        assert list(await app.workers()) == []
