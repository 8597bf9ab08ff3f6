"""Leases: a worker holds a job while it renews in time; a worker that lost its lease changes nothing (C6, C7)."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore import App, current
from tests.support.faulty import FaultyBackend, FaultyStore, doomed
from tests.support.virtual import block, clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

LEASE = 60.0


class Pair:
    """Two programs, ``one`` and ``two``, with the same task on the same broker and store."""

    def __init__(self) -> None:
        self.backend, self.store = FaultyBackend(), FaultyStore()
        self.starts: list[tuple[str, float]] = []
        self.fences: list[int] = []
        self.interrupted: list[tuple[str, float]] = []
        self.seconds = {"one": 10.0, "two": 10.0}
        self.one, self.two = self.program("one"), self.program("two")

    def program(self, name):
        """Make a program whose task works for a while and returns the program's name."""
        app = App(self.backend, store=self.store, clock=clock, lease=LEASE, source=name)

        @app.task(name="work")
        async def work() -> str:
            self.starts.append((name, anyio.current_time() - self.began))
            self.fences.append(current().fence)
            try:
                await anyio.sleep(self.seconds[name])
            except BaseException:
                self.interrupted.append((name, anyio.current_time() - self.began))
                raise
            return name

        return app

    async def enqueue(self):
        """Enqueue one job."""
        self.began = anyio.current_time()
        async with self.one:
            return await self.one.tasks["work"].enqueue()


@pytest.fixture
def pair():
    """Make two programs on one broker."""
    return Pair()


async def test_a_lease_is_kept_as_long_as_it_takes(pair):
    """A job may run for many leases; no other worker gets it meanwhile (C6)."""
    pair.seconds["one"] = 10 * LEASE
    job = await pair.enqueue()

    async with pair.one.running(), pair.two.running():
        assert await job.result() == pair.starts[0][0]
    assert len(pair.starts) == 1


async def test_leases_are_extended_in_one_batch(pair):
    """A hundred running jobs cost three calls a lease, not three hundred."""
    pair.seconds["one"] = 5 * LEASE
    async with pair.one.running(concurrency=100):
        pair.began = anyio.current_time()
        await pair.one.enqueue_many([pair.one.tasks["work"].call() for _ in range(100)])
        await pair.one.drain(timeout=1000)

    assert len(pair.starts) == 100
    assert pair.backend.faults.calls["extend"] <= 16


async def test_a_lease_lost_unnoticed(pair):
    """A worker that finishes after losing the lease records nothing; the caller gets the new holder's result (C7)."""
    pair.seconds["one"] = 2 * LEASE
    job = await pair.enqueue()

    async with doomed(pair.one, concurrency=1):
        pair.backend.sources[0].frozen = True
        await anyio.sleep(1)
        async with pair.two.running():
            assert await job.result() == "two"
            await anyio.sleep(2 * LEASE)

    assert pair.starts == [("one", pytest.approx(0)), ("two", pytest.approx(LEASE))]
    assert pair.fences[0] < pair.fences[1]
    assert pair.one.counters["job.lost"] == 1
    assert pair.one.counters["job.succeeded"] == 0
    assert pair.two.counters["job.succeeded"] == 1


async def test_a_lost_lease_interrupts_the_job(pair):
    """As soon as the broker says that a lease is lost, the function is interrupted and nothing is recorded."""
    pair.seconds |= {"one": 10 * LEASE, "two": 3 * LEASE}
    job = await pair.enqueue()

    async with doomed(pair.one, concurrency=1):
        await anyio.sleep(1)
        [source] = pair.backend.sources
        source.frozen = True
        async with pair.two.running():
            await anyio.sleep(LEASE)
            source.frozen = False
            assert await job.result() == "two"

    assert pair.interrupted == [("one", pytest.approx(4 / 3 * LEASE))]
    assert pair.one.counters["job.lost"] == 1
    assert pair.one.counters["job.retried"] + pair.one.counters["job.released"] == 0
    assert (await count_letters(pair.two)) == 0


async def count_letters(app):
    """List the dead letters in the default queue."""
    async with app:
        return await app.dead_letters.count()


async def test_a_lost_lease_of_a_job_that_waits(pair):
    """A prefetched job whose lease is lost never starts here."""
    pair.seconds |= {"one": 3 * LEASE, "two": 0.0}
    async with doomed(pair.one, concurrency=1):
        pair.began = anyio.current_time()
        jobs = await pair.one.enqueue_many([pair.one.tasks["work"].call() for _ in range(3)])
        await anyio.sleep(1)
        pair.backend.sources[0].frozen = True
        async with pair.two.running():
            assert [await job.result() for job in jobs[1:]] == ["two", "two"]
            assert await jobs[0].result() == "two"

    assert [name for name, _ in pair.starts].count("one") == 1


async def test_a_blocked_loop_does_not_claim_success(pair, caplog):
    """A worker that was stopped, or computing, for longer than a lease does not settle what it had (F07, F13)."""
    pair.seconds["one"] = 0.5
    job = await pair.enqueue()

    async with doomed(pair.one, concurrency=1), pair.two:
        await anyio.sleep(0.1)
        block(3 * LEASE)
        async with doomed(pair.two):
            assert await job.result() == pair.starts[1][0]
            await anyio.sleep(LEASE)

    assert len(pair.starts) == 2
    assert pair.one.counters["job.lost"] == 1
    assert pair.one.counters["job.succeeded"] + pair.two.counters["job.succeeded"] == 1
    assert pair.one.counters["loop.blocked"] == 1
    assert "the event loop stood still for 160." in caplog.text


async def test_an_abandoned_job_is_found_without_new_traffic(pair):
    """When a worker dies, another has its job after the lease, and no new job has to come along (C4, F01)."""
    pair.seconds["one"] = 10 * LEASE
    job = await pair.enqueue()
    async with doomed(pair.one, concurrency=1):
        await anyio.sleep(15)
    async with pair.two.running():
        assert await pair.two.tasks["work"].job(job.id).result() == "two"

    assert pair.starts == [("one", pytest.approx(0)), ("two", pytest.approx(LEASE))]


async def test_settling_at_the_edge_of_a_lease(pair):
    """However close to its end a lease is when a job ends: it is settled once, never twice (F62)."""
    offsets = [number / 1000 for number in range(-5, 6)]
    for offset in offsets:
        pair.seconds |= {"one": LEASE + offset, "two": 0.0}
        job = await pair.enqueue()
        async with doomed(pair.one, concurrency=1):
            pair.backend.sources[-1].frozen = True
            await anyio.sleep(0.0005)
            async with pair.two.running():
                await job.result()
                await anyio.sleep(1)

    names = ("job.succeeded", "job.skipped")
    settled = sum(app.counters[name] for app in (pair.one, pair.two) for name in names)
    assert settled == len(offsets)


async def test_lost_leases_are_logged(pair, caplog):
    """A lost lease is never silent: an event with the job's id, and a warning (C19)."""
    events = []
    pair.one.on_event(events.append)
    pair.seconds["one"] = 1.5 * LEASE
    with caplog.at_level(logging.WARNING, "taskcore"):
        job = await pair.enqueue()
        async with doomed(pair.one, concurrency=1):
            pair.backend.sources[0].frozen = True
            await anyio.sleep(1)
            async with pair.two.running():
                await job.result()
                await anyio.sleep(LEASE)

    [lost] = [event for event in events if event.name == "job.lost"]
    assert lost.facts["job_id"] == job.id
    assert job.id in caplog.text
