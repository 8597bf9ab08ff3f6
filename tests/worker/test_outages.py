"""When broker or store are gone for a while: nothing is lost, nothing is settled too early, and the log stays short."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore import App, BrokerUnavailable, JobFailed, Retry, current
from taskcore.backends.memory.backend import MemoryAdmin
from taskcore.lifecycle import Bury
from tests.support.faulty import BROKER_VERBS, STORE_VERBS, FaultyBackend, FaultyStore, eventually, letters
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

LEASE = 60.0


@pytest.fixture
def backend():
    """Make a broker that can be gone."""
    return FaultyBackend()


@pytest.fixture
def store():
    """Make a store that can be gone."""
    return FaultyStore()


@pytest.fixture
def app(backend, store):
    """Make an app on both."""
    return App(backend, store=store, clock=clock, lease=LEASE)


def make_slow(app, **options):
    """Declare a task that takes its time; return it with the list of its starts."""
    starts = []

    @app.task(name="slow", **options)
    async def slow(seconds: float) -> float:
        starts.append(anyio.current_time())
        await anyio.sleep(seconds)
        return seconds

    return slow, starts


async def test_the_broker_is_gone_for_less_than_a_lease(app, backend, caplog):
    """Running jobs go on, their outcome waits, each is settled once; what comes meanwhile runs afterwards."""
    slow, starts = make_slow(app)
    with caplog.at_level(logging.WARNING, "taskcore"):
        async with app.running():
            job = await slow.enqueue(10.0)
            await anyio.sleep(5)
            await backend.faults.outage(30, *BROKER_VERBS)
            assert await job.result() == 10.0
            assert await (await slow.enqueue(1.0)).result() == 1.0
            await app.drain(timeout=100)

    assert len(starts) == 2
    assert app.counters["job.succeeded"] == 2
    assert app.counters["job.lost"] == 0
    texts = [record.getMessage() for record in caplog.records]
    lost = [text.partition(" lost")[0] for text in texts if " lost: " in text]
    back = [text.partition(" back")[0] for text in texts if " back after " in text]
    assert lost == back == ["broker"]


async def test_a_long_outage_logs_one_line_and_one_at_its_end(app, backend, caplog):
    """An hour without a broker is two lines in the log of an idle worker, not two for every attempt."""
    slow, _ = make_slow(app)
    with caplog.at_level(logging.WARNING, "taskcore"):
        async with app.running():
            await anyio.sleep(1)
            await backend.faults.outage(3600, "receive")
            await (await slow.enqueue(1.0)).result()

    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.records[0].getMessage().startswith("broker lost: ")
    assert caplog.records[1].getMessage().startswith("broker back after 36")
    assert backend.faults.calls["receive"] < 300


async def test_the_end_of_an_outage_is_logged_on_an_idle_queue(app, backend, caplog):
    """The worker says that the broker is back although no job is sent (C19)."""
    make_slow(app)
    with caplog.at_level(logging.WARNING, "taskcore"):
        async with app.running():
            await anyio.sleep(5)
            await backend.faults.outage(30, *BROKER_VERBS)
            await anyio.sleep(60)
            assert any("broker back after" in record.getMessage() for record in caplog.records)
            assert app.counters["broker.back"] == 1


@pytest.mark.parametrize("seconds", [1, 10, 300])
async def test_the_end_of_an_outage_is_told_within_a_second(app, backend, caplog, monkeypatch, seconds):
    """An idle worker says that the broker is back within a second, and for how long it was gone."""
    make_slow(app)
    count = MemoryAdmin.stats

    async def stats(admin, queue):
        if "receive" in backend.faults.down:
            raise BrokerUnavailable("there is no connection")
        return await count(admin, queue)

    monkeypatch.setattr(MemoryAdmin, "stats", stats)
    with caplog.at_level(logging.WARNING, "taskcore"):
        async with app.running():
            await anyio.sleep(5)
            await backend.faults.outage(seconds, *BROKER_VERBS)
            await anyio.sleep(1)
            [told] = [record.getMessage() for record in caplog.records if "broker back after" in record.getMessage()]
    assert seconds <= float(told.split()[3]) <= seconds + 1


async def test_the_broker_is_gone_for_longer_than_a_lease(app, backend):
    """A job whose lease ended before its verdict was carried out comes back, and its stored result ends it (F03)."""
    slow, starts = make_slow(app)
    async with app.running():
        job = await slow.enqueue(10.0)
        await anyio.sleep(5)
        await backend.faults.outage(3 * LEASE, *BROKER_VERBS)

        assert await job.result() == 10.0
        await app.drain(timeout=100)
    assert len(starts) == 1
    assert app.counters["job.lost"] == 1
    assert app.counters["job.skipped"] == 1


async def test_no_ack_before_the_result_is_stored(app, backend, store):
    """While results cannot be stored, the job stays with the broker, under a lease that is kept (C8, F63)."""
    slow, starts = make_slow(app)
    async with app.running():
        job = await slow.enqueue(10.0)
        await anyio.sleep(5)
        store.faults.fail(*STORE_VERBS)
        await anyio.sleep(10 * LEASE)

        assert backend.faults.calls["settle"] == 0
        assert (await app.stats()).leased == 1

        store.faults.heal()
        assert await job.result() == 10.0
        await app.drain(timeout=60)
    assert len(starts) == 1
    assert app.counters["job.succeeded"] == 1


async def test_a_store_that_fails_after_writing(app, store):
    """A result that was stored, but whose answer was lost, is stored once and the job acked."""
    slow, starts = make_slow(app)
    failures = 3

    async def fail(writes) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BrokerUnavailable("the answer was lost")

    store.faults.after["put_many"] = fail
    async with app.running():
        assert await (await slow.enqueue(1.0)).result() == 1.0
        await app.drain(timeout=60)

    assert len(starts) == 1
    assert app.counters["job.succeeded"] == 1
    assert app.counters["result.ignored"] == 0


async def test_a_broker_that_fails_after_settling(app, backend):
    """A verdict that was carried out, but whose answer was lost, is no lost lease and no second run."""
    slow, starts = make_slow(app)
    failures = 2

    async def fail(batch) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BrokerUnavailable("the answer was lost")

    backend.faults.after["settle"] = fail
    async with app.running():
        assert await (await slow.enqueue(1.0)).result() == 1.0
        await app.drain(timeout=60)
        await anyio.sleep(2 * LEASE)

    assert len(starts) == 1
    assert app.counters["job.lost"] == 0


async def test_the_store_is_gone_when_a_job_with_a_key_comes(app, store):
    """Without its key a job does not start, and the worker lives: it goes on when the store is back (F65)."""
    slow, starts = make_slow(app, key="seconds")
    async with app:
        job = await slow.enqueue(1.0)
        store.faults.fail(*STORE_VERBS)
        async with app.running():
            await anyio.sleep(10)
            assert starts == []

            store.faults.heal()
            assert await job.result(timeout=60) == 1.0
    assert len(starts) == 1


async def test_the_store_is_gone_when_a_retry_comes(app, store):
    """A retry needs its start marked; without a store it waits, and no attempt is used."""
    seen = []

    @app.task(retry=Retry(attempts=2, base=10.0, jitter="none"))
    async def fail() -> None:
        seen.append(anyio.current_time())
        raise ConnectionError

    async with app.running():
        began = anyio.current_time()
        job = await fail.enqueue()
        await anyio.sleep(5)
        await store.faults.outage(100, *STORE_VERBS)
        with pytest.raises(JobFailed, match="exhausted"):
            await job.result(timeout=100)
        [letter] = await letters(app)

    assert seen[0] - began == pytest.approx(0.0, abs=0.1)
    assert seen[1] - began >= 105.0
    assert len(seen) == 2
    assert letter.trail.attempts == 2


async def test_a_start_marker_whose_answer_was_lost(app, store):
    """Marking a start again after a lost answer counts it once: a bad connection makes no job a suspect."""
    seen, failures = [], 5

    @app.task(retry=Retry(attempts=2, base=1.0, jitter="none"), crashes=2)
    async def fail() -> None:
        seen.append(current().crashes)
        raise ConnectionError

    async def lose_answer(_) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BrokerUnavailable("the answer was lost")

    store.faults.after["put_many"] = lose_answer
    async with app.running():
        with pytest.raises(JobFailed, match="exhausted"):
            await (await fail.enqueue()).result(timeout=100)

    assert (seen, failures) == ([0, 0], 0)


async def test_the_store_is_gone_after_settling(app, store, backend):
    """A start marker that cannot be cleared does not make a settled job look lost."""

    @app.task(retry=Retry(base=1.0, jitter="none"))
    async def second_time_lucky() -> str:
        attempts.append(1)
        if len(attempts) < 2:
            raise ConnectionError
        return "done"

    attempts = []

    async def break_store(batch) -> None:
        if len(attempts) == 2:
            store.faults.fail(*STORE_VERBS)

    backend.faults.after["settle"] = break_store
    async with app.running():
        await second_time_lucky.enqueue()
        await eventually(lambda: "put_many" in store.faults.down)
        await anyio.sleep(20)
        backend.faults.after.clear()
        store.faults.heal()
        await anyio.sleep(2 * LEASE)

    assert len(attempts) == 2
    assert app.counters["job.succeeded"] == 1
    assert app.counters["job.lost"] == 0


@pytest.mark.parametrize("comes_back", [True, False], ids=["back later", "gone for ever"])
async def test_a_settled_verdict_is_reported_at_once(app, store, backend, comes_back):
    """A verdict that was carried out is reported once, before the store has forgotten the start marker (C19)."""

    @app.task(name="fail", retry=Retry(attempts=2, base=1.0, jitter="none"))
    async def fail() -> None:
        raise ConnectionError

    async def break_store(batch) -> None:
        if [verdict for _, verdict in batch if isinstance(verdict, Bury)]:
            store.faults.fail(*STORE_VERBS)

    backend.faults.after["settle"] = break_store
    app.on_event(lambda event: names.append(event.name))
    names = []
    async with app.running(grace=1.0):
        await fail.enqueue()
        await eventually(lambda: "put_many" in store.faults.down)
        await anyio.sleep(1)
        assert names.count("job.buried") == 1
        if comes_back:
            store.faults.heal()
            await anyio.sleep(2 * LEASE)

    assert names.count("job.buried") == 1
    assert app.counters["job.buried"] == 1


async def test_sending_while_the_broker_is_gone(app, backend):
    """A publish that cannot reach the broker says that nothing was stored."""
    slow, _ = make_slow(app)
    async with app:
        backend.faults.fail("publish")
        with pytest.raises(BrokerUnavailable):
            await slow.enqueue(1.0)
        backend.faults.heal()

        assert (await app.stats()).ready == 0


async def test_a_broker_that_is_not_there_at_the_start(app, backend):
    """A worker that cannot reach its broker at the start says so, as itself and not in a group."""

    async def refuse(_) -> None:
        raise BrokerUnavailable("unreachable")

    class Gone(FaultyBackend):
        async def __aenter__(self):
            raise BrokerUnavailable("unreachable")

    gone = App(Gone(), clock=clock)
    make_slow(gone)

    with pytest.raises(BrokerUnavailable, match="unreachable"):
        async with gone.running():
            pass
    with pytest.raises(BrokerUnavailable, match="unreachable"):
        await gone.run_worker()
