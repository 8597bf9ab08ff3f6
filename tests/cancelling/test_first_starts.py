"""Where a waiting job cannot be taken back, its workers keep it from starting, without a read for each job (C14)."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec
import pytest

from taskcore import App, Cancelled, Succeeded, current
from taskcore.middleware import Middleware
from taskcore.records import cancels
from taskcore.worker import pools
from tests.support.faulty import FaultyBackend, FaultyStore, Log, doomed, eventually
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class Unreachable(FaultyBackend):
    """A broker that cannot take back a job that waits."""

    @property
    def features(self):
        """All but that."""
        return msgspec.structs.replace(super().features, remove="absent", locate="absent")

    @property
    def admin(self):
        """Administration that finds no job."""
        admin = super().admin

        async def nothing(queue, job_id):
            return None

        admin.remove = admin.locate = nothing
        return admin


class Shop:
    """An app with a broker that cannot take back jobs, and a task that waits until it may go on.

    :param middleware: of the app.
    """

    def __init__(self, *, keep_result: float | None = 3600.0, middleware: Middleware | None = None) -> None:
        self.store = FaultyStore()
        around = [middleware] if middleware else []
        self.app = App(Unreachable(), store=self.store, clock=clock, keep_result=keep_result, middleware=around)
        self.starts = Log()
        self.gate = anyio.Event()

        @self.app.task(name="quick", keep_result=keep_result)
        async def quick() -> str:
            self.starts.append(current().job_id)
            return "done"

        @self.app.task(name="block", keep_result=keep_result)
        async def block() -> str:
            self.starts.append(current().job_id)
            await self.gate.wait()
            return "done"

        self.quick, self.block = quick, block

    @property
    def reads(self) -> int:
        """How often the store was read."""
        return self.store.faults.calls["get"] + self.store.faults.calls["get_many"]

    @asynccontextmanager
    async def blocked(self, victims: int = 20):
        """Work on a job that blocks the only slot, with others in hand that wait for it."""
        async with doomed(self.app, concurrency=1) as worker:
            await self.app.enqueue_many([self.quick.call() for _ in range(50)])
            await self.starts.wait(50)
            await anyio.sleep(0.1)
            jobs = await self.app.enqueue_many([self.block.call(), *(self.quick.call() for _ in range(victims))])
            await eventually(lambda: len(worker.executions) == victims + 1 and jobs[0].id in self.starts)
            await anyio.sleep(0.05)  # what is looked up is looked up by now
            yield jobs[1:]


@pytest.fixture
def receives_ahead(monkeypatch):
    """Let workers receive as many jobs as there are, once some have ended."""
    monkeypatch.setattr(pools, "PREFETCH_SECONDS", 100.0)


async def test_nothing_is_read_for_each_job():
    """If nothing is kept and nothing was cancelled, a thousand jobs take a few reads."""
    shop = Shop(keep_result=None)
    async with shop.app:
        await shop.app.enqueue_many([shop.quick.call() for _ in range(1_000)])
        async with shop.app.running():
            began = anyio.current_time()
            await eventually(lambda: shop.app.counters["job.succeeded"] == 1_000)
            seconds = anyio.current_time() - began
    assert 1 <= shop.reads <= 2 + seconds / (cancels.READ_VALID_FOR / 2) < 10


@pytest.mark.parametrize("keep_result", [None, 3600.0])
async def test_many_are_looked_up_together(keep_result):
    """If results are kept and a job was cancelled lately, jobs are looked up as they were received: in batches."""
    shop = Shop(keep_result=keep_result)
    async with shop.app:
        await shop.quick.job("another").cancel()
        await shop.app.enqueue_many([shop.quick.call() for _ in range(1_000)])
        before = shop.reads
        async with shop.app.running():
            await eventually(lambda: shop.app.counters["job.succeeded"] == 1_000)
    assert shop.reads - before <= 60


@pytest.mark.parametrize("keep_result", [None, 3600.0])
async def test_a_job_in_hand_is_cancelled(receives_ahead, keep_result):
    """A job that was received before it was cancelled does not start after its caller was answered."""
    shop = Shop(keep_result=keep_result)
    async with shop.blocked() as victims:
        for job in victims:
            await job.cancel()
        before = len(shop.starts)
        shop.gate.set()
        await eventually(lambda: shop.app.counters["job.cancelled"] == len(victims))
        assert len(shop.starts) == before
        if keep_result is not None:
            assert [await job.outcome() for job in victims] == [Cancelled()] * len(victims)


async def test_callers_wait_until_workers_know(receives_ahead, monkeypatch):
    """A caller that is answered at once, and not after the time for which news last, finds its job started."""
    shop = Shop()
    monkeypatch.setattr(cancels, "ANNOUNCED_AFTER", 0.0)
    async with shop.blocked(victims=1) as [job]:
        shop.gate.set()
        await anyio.lowlevel.checkpoint()
        shop.gate = anyio.Event()
        again = await shop.app.enqueue_many([shop.block.call(), shop.quick.call()])
        await eventually(lambda: again[0].id in shop.starts)
        await again[1].cancel()
        shop.gate.set()
        await eventually(lambda: again[1].id in shop.starts)
    assert job.id in shop.starts


async def test_a_request_from_before_the_worker(receives_ahead):
    """A job that was cancelled while no worker ran does not start; others do."""
    shop = Shop()
    async with shop.app:
        jobs = await shop.app.enqueue_many([shop.quick.call() for _ in range(10)])
        for job in jobs[::2]:
            await job.cancel()
        await anyio.sleep(3600.0)
        async with shop.app.running():
            outcomes = [await job.outcome() for job in jobs]
    assert outcomes == [Cancelled(), Succeeded("done")] * 5
    assert sorted(shop.starts) == sorted(job.id for job in jobs[1::2])


async def test_a_job_that_middleware_holds_up():
    """A cancellation also comes in time for a job that waits in a middleware."""
    held, go = Log(), anyio.Event()

    class Slow(Middleware):
        async def run(self, job, call_next):
            held.append(job.id)
            await go.wait()
            return await call_next()

    shop = Shop(middleware=Slow())
    async with shop.app.running():
        job = await shop.quick.enqueue()
        await held.wait()
        await job.cancel()
        go.set()
        assert await job.outcome() == Cancelled()
    assert shop.starts == []


async def test_a_keyed_job_frees_its_key():
    """A job that is cancelled while it has its key already frees it for the next one."""
    held, go = Log(), anyio.Event()

    class Slow(Middleware):
        async def run(self, job, call_next):
            held.append(job.id)
            await go.wait()
            return await call_next()

    shop = Shop(middleware=Slow())
    async with shop.app.running():
        job = await shop.quick.using(key="one").enqueue()
        await held.wait()
        await job.cancel()
        go.set()
        assert await job.outcome() == Cancelled()
        again = await shop.quick.using(key="one").enqueue()
        assert await again.outcome() == Succeeded("done")
    assert shop.starts == [again.id]


@pytest.mark.parametrize("keep_result", [None, 3600.0])
async def test_no_store_no_start(keep_result):
    """While the store cannot say whether a job is cancelled, none starts; all of them do when it is back."""
    shop = Shop(keep_result=keep_result)
    async with shop.app.running():
        shop.store.faults.fail("get", "get_many")
        await shop.app.enqueue_many([shop.quick.call() for _ in range(300)])
        await anyio.sleep(30.0)
        assert shop.starts == []
        shop.store.faults.heal()
        await eventually(lambda: shop.app.counters["job.succeeded"] == 300)
    assert len(shop.starts) == 300


async def test_a_slow_store_does_not_keep_jobs_from_starting():
    """If a store takes longer to answer than news last, jobs start all the same, one read after the other."""
    shop = Shop(keep_result=None)

    async def slow(_):
        await anyio.sleep(1.0)

    shop.store.faults.before["get"] = slow
    async with shop.app.running():
        await shop.app.enqueue_many([shop.quick.call() for _ in range(300)])
        await eventually(lambda: shop.app.counters["job.succeeded"] == 300)
    assert shop.reads <= 20


async def test_what_is_held_is_given_back(receives_ahead):
    """A worker that stops while jobs are looked up gives them back unstarted."""
    shop = Shop()
    asked = anyio.Event()

    async def hang(_):
        asked.set()
        await anyio.sleep_forever()

    async with shop.app:
        await shop.app.enqueue_many([shop.quick.call() for _ in range(5)])
        shop.store.faults.before["get_many"] = hang
        async with shop.app.running(grace=1.0):
            await asked.wait()
        del shop.store.faults.before["get_many"]
        assert (shop.starts, (await shop.app.stats("default")).ready) == ([], 5)
