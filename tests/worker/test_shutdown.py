"""Stopping: nothing new starts, what runs may finish, the rest is given back at once and without blame (C21)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, current
from tests.support.faulty import FaultyBackend, FaultyStore, Log, worker_of
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class Shift:
    """An old and a new worker on one broker."""

    def __init__(self) -> None:
        self.backend, self.store = FaultyBackend(), FaultyStore()
        self.log = Log()
        self.old, self.new = self.program("old"), self.program("new")

    def program(self, name):
        """Make a program that records which worker starts and ends what."""
        app = App(self.backend, store=self.store, clock=clock)

        @app.task(name="work")
        async def work(number: int, seconds: float) -> str:
            context = current()
            self.log.append((name, "starts", number, context.attempt, context.crashes))
            try:
                await anyio.sleep(seconds)
            except BaseException:
                self.log.append((name, "interrupted", number, context.attempt, context.crashes))
                raise
            self.log.append((name, "ends", number, context.attempt, context.crashes))
            return name

        return app

    async def enqueue(self, *seconds: float):
        """Enqueue jobs that take so long."""
        work = self.old.tasks["work"]
        return await self.old.enqueue_many([work.call(number, each) for number, each in enumerate(seconds)])


@pytest.fixture
def shift():
    """Make an old and a new worker."""
    return Shift()


async def test_running_jobs_may_finish(shift):
    """Within the grace a running job ends as usual."""
    async with shift.old:
        async with shift.old.running(grace=30.0):
            began = anyio.current_time()
            [job] = await shift.enqueue(20.0)
            await shift.log.wait()

        assert anyio.current_time() - began == pytest.approx(20.0, abs=0.1)
        assert await job.result(timeout=1) == "old"


async def test_after_the_grace_jobs_are_given_back(shift):
    """Interrupted work is ready for others at once, with no attempt used and no suspicion."""
    async with shift.old, shift.new:
        async with shift.old.running(grace=5.0):
            began = anyio.current_time()
            [job] = await shift.enqueue(20.0)
            await shift.log.wait()
        ended = anyio.current_time() - began
        async with shift.new.running():
            assert await job.result(timeout=30) == "new"

    assert ended == pytest.approx(5.0, abs=0.1)
    assert shift.log == [
        ("old", "starts", 0, 1, 0),
        ("old", "interrupted", 0, 1, 0),
        ("new", "starts", 0, 1, 0),
        ("new", "ends", 0, 1, 0),
    ]
    assert shift.old.counters["job.released"] == 1


async def test_unstarted_jobs_are_released_at_once(shift):
    """Prefetched jobs are visible to another worker within a second, each is reported, running ones finish (F08)."""
    released = []
    shift.old.on_event(lambda event: released.append(event.facts["job_id"]) if event.name == "job.released" else None)
    async with shift.old, shift.new:
        jobs = await shift.enqueue(*[0.01] * 60, *[20.0] * 30)
        async with anyio.create_task_group() as group:
            worker = worker_of(shift.old, None, 10, 30.0)
            await group.start(worker.run)
            await shift.log.wait(120 + 10)
            assert (await shift.old.stats()).leased > 10  # some wait in the worker's inbox

            worker.stop()
            await anyio.sleep(0.9)
            stats = await shift.old.stats()
            assert (stats.leased, stats.ready) == (10, 20)

            async with shift.new.running():
                await shift.new.drain(timeout=60)

    starts = [entry for entry in shift.log if entry[1] == "starts"]
    assert len(starts) == 90
    assert {(attempt, crashes) for _, _, _, attempt, crashes in starts} == {(1, 0)}
    assert sorted(released) == sorted(jobs[number].id for who, _, number, *_ in starts if who == "new")
    assert len(released) == 20


async def test_nothing_starts_after_the_signal(shift):
    """From the moment of stop() on no function starts, though jobs are there and slots become free."""
    async with shift.old:
        await shift.enqueue(*[5.0] * 50)
        async with anyio.create_task_group() as group:
            worker = worker_of(shift.old, None, 3, 30.0)
            await group.start(worker.run)
            await shift.log.wait(3)
            worker.stop()

    assert [what for _, what, *_ in shift.log] == ["starts"] * 3 + ["ends"] * 3


async def test_what_a_receipt_brings_at_the_end_is_given_back(shift):
    """Jobs whose receipt ends after the signal are ready for others at once, without blame, while others still run."""

    async def late(_) -> None:
        with anyio.CancelScope(shield=True):  # as adapters do whose broker has leased the jobs already
            await anyio.sleep(0.5)

    async with shift.old, shift.new, anyio.create_task_group() as group:
        worker = worker_of(shift.old, None, 10, 30.0)
        await group.start(worker.run)
        await shift.enqueue(20.0)
        await shift.log.wait()
        shift.backend.faults.after["receive"] = late
        [second] = await shift.enqueue(0.01)
        await anyio.sleep(0.25)
        worker.stop()
        await anyio.sleep(0.5)
        stats = await shift.old.stats()
        assert (stats.leased, stats.ready) == (1, 1)
        del shift.backend.faults.after["receive"]
        async with shift.new.running():
            assert await second.result(timeout=1) == "new"

    assert ("new", "starts", 0, 1, 0) in shift.log
    assert shift.old.counters["job.released"] == 1


async def test_the_second_signal_interrupts(shift):
    """interrupt() ends the grace at once, also when stop() was called before."""
    async with shift.old:
        began = anyio.current_time()
        await shift.enqueue(100.0)
        async with anyio.create_task_group() as group:
            worker = worker_of(shift.old, None, None, 1000.0)
            await group.start(worker.run)
            await shift.log.wait()
            worker.stop()
            await anyio.sleep(10)
            worker.interrupt()

        assert anyio.current_time() - began == pytest.approx(10.0, abs=0.1)
        assert (await shift.old.stats()).ready == 1


async def test_stopping_before_anything_began(shift):
    """A worker that is stopped before it runs takes nothing and ends."""
    async with shift.old:
        await shift.enqueue(1.0)
        worker = worker_of(shift.old, None, None, None)
        worker.stop()
        with anyio.fail_after(5):
            await worker.run()

        assert (await shift.old.stats()).ready == 1
    assert shift.log == []


async def test_an_idle_worker_stops_at_once(shift):
    """Without work there is nothing to wait for."""
    began = anyio.current_time()
    async with shift.old.running(grace=1000.0):
        await anyio.sleep(1)

    assert anyio.current_time() - began == pytest.approx(1.0)


async def test_stopping_while_the_broker_is_gone(shift):
    """A worker that cannot give back what it has still ends; the leases do the rest (F09)."""
    async with shift.old, shift.new:
        began = anyio.current_time()
        async with shift.old.running(grace=5.0):
            [job] = await shift.enqueue(100.0)
            await shift.log.wait()
            shift.backend.faults.fail("receive", "settle", "extend")
        ended = anyio.current_time() - began
        shift.backend.faults.heal()
        async with shift.new.running():
            assert await job.result(timeout=300) == "new"

    assert ended <= 5.0 + 5.0 + 0.1


async def test_cleaning_up_takes_the_time_it_takes(shift):
    """An interrupted function may clean up; what it does in finally is done."""
    cleaned = []

    @shift.old.task
    async def careful() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3.0)
            cleaned.append(True)

    async with shift.old:
        async with shift.old.running(grace=1.0):
            await careful.enqueue()
            await anyio.sleep(0.5)

        assert (await shift.old.stats()).ready == 1
    assert cleaned == [True]


async def test_a_function_that_ends_in_spite_of_the_interruption(shift):
    """A function that catches the cancellation and returns has succeeded."""

    @shift.old.task
    async def stubborn() -> str:
        with anyio.move_on_after(1000) as scope:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                scope.shield = True
                return "made it"
        return "never"

    async with shift.old:
        async with shift.old.running(grace=1.0):
            job = await stubborn.enqueue()
            await anyio.sleep(0.5)

        assert await job.result(timeout=1) == "made it"


async def test_a_job_that_waits_for_the_store_is_given_back(shift):
    """A job that may not start because the store is gone does not hold up the end."""

    @shift.old.task(key="word")
    async def keyed(word: str) -> None:
        await anyio.sleep(1000.0)

    async with shift.old:
        await keyed.enqueue("a")
        shift.store.faults.fail("get")
        began = anyio.current_time()
        async with shift.old.running(grace=1000.0):
            await anyio.sleep(3)

        assert anyio.current_time() - began <= 10.0
        assert (await shift.old.stats()).ready == 1
