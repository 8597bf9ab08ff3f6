"""Calls to broker and store that are carried out or answered late, at every verb, under workers with short leases."""

from __future__ import annotations

import os

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskcore import App, Expired, Reject
from taskcore.backends.memory import MemoryBackend
from taskcore.faults import Delay, DropReply, Fail, FlakyBackend, FlakyStore, Hang, LateReply
from taskcore.stores.memory import MemoryStore
from tests.support.late_play import LEASE, WORKERS, JobPlan, Plan, Stop, play
from tests.support.virtual import clock

VERBS = (
    "publish", "receive", "settle", "extend", "admin",
    "store.get", "store.get_many", "store.put", "store.put_many", "store.delete", "store.watch",
)  # fmt: skip
EXAMPLES = int(os.environ.get("TASKCORE_LATE_PLAYS", "60"))  #: plays; thousands of them are a run by hand
SECONDS = (0.05, 0.5, LEASE / 3, LEASE - 0.5, LEASE, 1.5 * LEASE, 3 * LEASE)

times = st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 3.0, LEASE, 2 * LEASE])
seconds = st.sampled_from(SECONDS)
slow = st.one_of(st.builds(LateReply, seconds), st.builds(Delay, seconds))
failing = st.one_of(slow, slow, st.just(Fail()), st.just(DropReply()), st.none())
actors = st.sampled_from(["client", *WORKERS])
calls = st.tuples(actors, st.sampled_from(VERBS))
jobs = st.builds(
    JobPlan,
    task=st.sampled_from(["work", "work", "once", "thread"]),
    at=times,
    seconds=st.sampled_from([0.0, 0.0, 0.1, 1.0, LEASE, 2 * LEASE]),
    fails=st.sampled_from([0, 0, 0, 1, 2, 3]),
    key=st.none(),
    delay=st.sampled_from([0.0, 0.0, 0.0, 0.5, 5.0]),
    expires=st.sampled_from([None, None, None, 0.5, LEASE, 3 * LEASE]),
    timeout=st.sampled_from([None, None, None, 0.5]),
    cancel=st.sampled_from([None, None, 0.0, 0.2, 1.0, LEASE]),
)
keyed = st.builds(
    JobPlan,
    task=st.just("work"),
    at=times,
    seconds=st.sampled_from([0.0, 1.0, LEASE, 2 * LEASE]),
    fails=st.sampled_from([0, 0, 1, 3]),
    key=st.sampled_from(["k1", "k2"]),
    delay=st.sampled_from([0.0, 0.0, 1.0]),
    expires=st.none(),
    timeout=st.none(),
    cancel=st.none(),
)
stops = st.builds(
    Stop, worker=st.sampled_from(WORKERS), at=times, grace=st.sampled_from([None, 0.0, 0.5, LEASE, 3 * LEASE])
)
plans = st.builds(
    Plan,
    jobs=st.lists(st.one_of(jobs, jobs, keyed), min_size=1, max_size=6),
    always=st.dictionaries(calls, slow, max_size=2),
    next=st.dictionaries(calls, st.lists(failing, min_size=1, max_size=4), max_size=3),
    stops=st.lists(stops, max_size=2),
    removes=st.sampled_from([True, True, False]),
)


@pytest.mark.timeout(300)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans)
def test_no_late_answer_loses_or_doubles_a_job(plan):
    """Whatever call is late, or is answered late, no job is lost, doubled, early, stuck, or gone in silence."""
    play(plan).expect_kept()


class Two:
    """Two programs with the same tasks on one broker and one store; calls of the first meet faults."""

    def __init__(self) -> None:
        self.starts: list[str] = []
        broker, records = MemoryBackend(), MemoryStore()
        self.broker, self.store = FlakyBackend(broker), FlakyStore(records)
        self.one = self.program("one", self.broker, self.store)
        self.two = self.program("two", broker, records)

    def program(self, name, backend, store):
        """Make a program."""
        app = App(backend, store=store, clock=clock, lease=LEASE, source=name)

        @app.task(name="work", queue="q")
        async def work(seconds: float = 0.0) -> str:
            self.starts.append(name)
            await anyio.sleep(seconds)
            return name

        @app.task(name="refuse", queue="q")
        async def refuse() -> None:
            self.starts.append(name)
            raise Reject("never")

        return app


@pytest.fixture
def two():
    """Make two programs."""
    return Two()


@pytest.mark.anyio
@pytest.mark.virtual
async def test_a_deadline_that_passes_on_the_way_to_the_start_counts(two):
    """A job that waits for its key, longer than its deadline lets it, expires and frees the key (C17)."""
    async with two.one:
        late = await two.one.tasks["work"].using(key="k", expires=1.0).enqueue()
        two.store.next("put_many", Delay(2.0))
        async with two.one.running():
            assert await late.outcome(timeout=60) == Expired()
        again = await two.one.tasks["work"].using(key="k").enqueue()
        async with two.one.running():
            assert await again.result(timeout=60) == "one"
    assert two.starts == ["one"]


@pytest.mark.anyio
@pytest.mark.virtual
async def test_a_slow_store_does_not_end_leases(two):
    """Keys whose renewal takes longer than a lease do not keep the leases from being extended (C6)."""
    async with two.one:
        job = await two.one.tasks["work"].using(key="k").enqueue(3 * LEASE)
        async with two.one.running():
            await anyio.sleep(0.1)
            two.store.always("put_many", Delay(2 * LEASE))
            async with two.two.running():
                assert await job.result(timeout=60) == "one"
    assert two.starts == ["one"]


@pytest.mark.anyio
@pytest.mark.virtual
async def test_a_job_that_waits_is_let_go_when_its_lease_cannot_be_extended(two, caplog):
    """A job that waits for an answer of the store starts at another worker only, when its lease ends meanwhile (C7)."""
    async with two.one:
        waits = await two.one.tasks["work"].using(key="k").enqueue()
        two.store.next("get", Delay(1.5 * LEASE))
        two.broker.always("extend", Hang())
        async with two.one.running(concurrency=1):
            await anyio.sleep(0.1)
            two.broker.always("receive", Hang())
            async with two.two.running():
                assert await waits.result(timeout=60) == "two"
                await anyio.sleep(3 * LEASE)
            two.broker.heal()
    assert two.starts == ["two"]
    assert two.one.counters["job.lost"] == 1
    assert "1 jobs that waited here are let go" in caplog.text


@pytest.mark.anyio
@pytest.mark.virtual
async def test_an_end_whose_answer_is_lost_is_not_told_as_a_lost_lease(two):
    """A burial that was carried out ends the lease; an extension that finds that does not make the job a lost one."""
    told = []
    two.one.on_event(lambda event: told.append(event.name))
    async with two.one:
        await two.one.tasks["refuse"].enqueue()
        two.broker.play("settle", [DropReply(), *[Fail()] * 3])
        async with two.one.running():
            await anyio.sleep(3 * LEASE)
        assert await two.one.dead_letters.count("q") == 1
    assert two.one.counters["job.buried"] == 1
    assert two.one.counters["job.lost"] == 0
    assert "settle.unconfirmed" in told


@pytest.mark.anyio
@pytest.mark.virtual
async def test_a_worker_that_ends_before_the_broker_answers_says_so(two, caplog):
    """What a stopping worker could not settle in time is in its log, and is not counted as done."""
    async with two.one:
        job = await two.one.tasks["work"].enqueue()
        async with two.one.running():
            two.broker.always("settle", Hang())
            await anyio.sleep(1.0)
        assert await job.result(timeout=1) == "one"
    assert "the broker has not confirmed the ends of 1 jobs in time" in caplog.text
    assert two.one.counters["settle.unconfirmed"] == 1
