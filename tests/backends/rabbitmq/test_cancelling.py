"""RabbitMQ cannot take back a job: its workers keep cancelled jobs from starting, with any store beside it (C14)."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from taskcore import App, Cancelled, Succeeded, current
from taskcore.faults import PostgresServer, RabbitServer, RedisServer
from tests.support.faulty import Log, eventually, worker_of
from tests.support.real import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
ON_NEWER = {"test_jobs_in_hand_are_cancelled", "test_jobs_that_wait_for_a_thread_are_cancelled"}

WARM_UP, VICTIMS = 300, 10


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "redis"])
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve each kind of store; return its address."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('cancelling')}/records.db"
        return
    with serving(PostgresServer if request.param == "postgresql" else RedisServer) as server:
        yield server.url


class Shop:
    """A caller and a worker, with connections of their own, and a job that blocks the worker until told."""

    def __init__(self, node: RabbitServer, records: str, *, keep: float | None = 60.0) -> None:
        url, queue = f"{node.url}?min_queue_age=0.1", f"cancelling-{secrets.token_hex(4)}"
        self.starts = Log()
        self.gate = anyio.Event()
        self.caller, self.worker = App(url, store=records), App(url, store=records)
        for app in (self.worker, self.caller):  # a handle belongs to the app that has declared its task last

            @app.task(name="quick", queue=queue, keep_result=keep)
            async def quick() -> str:
                self.starts.append(current().job_id)
                return "done"

            @app.task(name="block", queue=queue, keep_result=keep)
            async def block() -> str:
                self.starts.append(current().job_id)
                await self.gate.wait()
                return "done"

        self.quick, self.block = quick, block

    @asynccontextmanager
    async def blocked(self) -> AsyncIterator[list[Any]]:
        """Block the only slot of the worker, with jobs in its hands that wait for the slot."""
        async with self.caller, self.worker, anyio.create_task_group() as group:
            worker = worker_of(self.worker, concurrency=1)
            calls = [self.quick.call() for _ in range(WARM_UP)]
            jobs = await self.caller.enqueue_many(
                [*calls, self.block.call(), *(self.quick.call() for _ in range(VICTIMS))]
            )
            await group.start(worker.run)
            await eventually(lambda: len(worker.executions) == VICTIMS + 1 and jobs[WARM_UP].id in self.starts)
            yield jobs[WARM_UP + 1 :]
            worker.stop()


@pytest.mark.parametrize("keep", [None, 60.0])
async def test_jobs_in_hand_are_cancelled(node: RabbitServer, records: str, keep: float | None):
    """Jobs that a worker has received do not start when their callers were answered before, whatever is kept."""
    shop = Shop(node, records, keep=keep)
    async with shop.blocked() as victims:
        async with anyio.create_task_group() as group:
            for job in victims:
                group.start_soon(job.cancel)
        before = len(shop.starts)
        shop.gate.set()  # at once: nothing may be on its way to the worker any more
        await eventually(lambda: shop.worker.counters["job.cancelled"] == VICTIMS)
        assert len(shop.starts) == before
        if keep is not None:
            assert [await job.outcome(timeout=10) for job in victims] == [Cancelled()] * VICTIMS


async def test_one_after_the_other(node: RabbitServer, records: str):
    """Cancelling while jobs start stops each job that had not started when its caller was answered."""
    shop = Shop(node, records)
    async with shop.caller, shop.worker.running(concurrency=2):
        jobs = await shop.caller.enqueue_many([shop.quick.call() for _ in range(3_000)])
        answered: set[str] = set()
        started_late: list[str] = []
        for job in reversed(jobs[-15:]):
            await job.cancel()
            if job.id not in shop.starts:
                answered.add(job.id)
        await shop.caller.drain(timeout=60)
        started_late = [job for job in shop.starts if job in answered]
    assert started_late == []


async def test_jobs_that_wait_for_a_thread_are_cancelled(node: RabbitServer, records: str):
    """A job that has a slot and waits for a thread does not start when its caller was answered before."""
    shop = Shop(node, records)
    starts, gate = Log(), threading.Event()

    for app in (shop.worker, shop.caller):

        @app.task(name="threaded", queue=shop.quick.options.queue, runs_in="thread")
        def threaded(wait: bool) -> str:
            starts.append(wait)
            if wait:
                gate.wait(30)
            return "done"

    async with shop.caller, shop.worker.running():
        threads = shop.worker.settings.threads
        first = await shop.caller.enqueue_many([threaded.call(True) for _ in range(threads)])
        await starts.wait(threads)
        victim = await threaded.enqueue(False)
        await anyio.sleep(0.5)  # it has its slot
        await victim.cancel()
        gate.set()
        assert await victim.outcome(timeout=20) == Cancelled()
        assert [await job.outcome(timeout=20) for job in first] == [Succeeded("done")] * threads
    assert starts == [True] * threads
