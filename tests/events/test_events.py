"""Events for outsiders: heard by any program while it subscribes, and nothing at all otherwise."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

from taskcore import App, InvalidSetting, Reject, Retry, StoreRequired
from taskcore.events import JobEvent
from taskcore.events.feed import SUBSCRIPTION_TIMEOUT, WINDOW_EVENTS
from tests.support.faulty import FaultyBackend, FaultyStore, doomed, eventually
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

BEAT = 2.0


@pytest.fixture
def parts():
    """Make what several programs share."""
    return FaultyBackend(), FaultyStore()


def make(parts, name="worker", **settings):
    """Make an app with tasks that end in several ways."""
    backend, store = parts
    given = {"heartbeat": BEAT, "retry": Retry(attempts=2, base=0.0), **settings}
    app = App(backend, store=store, clock=clock, source=name, **given)

    @app.task(name="work")
    async def work(way: str) -> str:
        if way == "slow":
            await anyio.sleep(1.0)
        if way == "reject":
            raise Reject("no use\x1b[2J")
        if way == "retry":
            raise ValueError("at redis://user:secret@host")
        return way

    @app.task(name="other", queue="others")
    async def other() -> None: ...

    return app, work, other


async def take(events, number):
    """Take so many events."""
    return [await anext(events) for _ in range(number)]


async def test_another_program_hears_how_jobs_go(parts):
    """Started, ended, retried and dead: with the facts of each, in their order, from the entry on."""
    app, work, _ = make(parts)
    listener, _, _ = make(parts, "listener")
    async with listener, app.running():
        await (await work.enqueue("before")).result(5.0)
        async with listener.events() as events:
            jobs = [await work.enqueue("good")]
            first = await take(events, 3)
            jobs.append(await work.enqueue("retry"))
            second = await take(events, 5)
            jobs.append(await work.enqueue("reject"))
            third = await take(events, 3)
    assert [event.name for event in first] == ["job.enqueued", "job.started", "job.succeeded"]
    assert {event.job_id for event in first} == {jobs[0].id}
    assert all(isinstance(event, JobEvent) and event.worker == "worker" and event.missed == 0 for event in first)
    assert (first[1].task, first[1].queue, first[1].attempt) == ("work", "default", 1)
    assert first[1].waited == pytest.approx(0.0, abs=0.1)
    assert [event.name for event in second[1:]] == ["job.started", "job.retried", "job.started", "job.buried"]
    assert second[2].error.startswith("ValueError: at redis://")
    assert "secret" not in second[2].error
    assert [event.attempt for event in second[1:]] == [1, 1, 2, 2]
    assert third[2].reason == "rejected: no use\\x1b[2J"


async def test_a_subscriber_hears_what_it_wants(parts):
    """Kinds and queues choose, and two subscribers do not disturb each other."""
    app, work, other = make(parts)
    one, _, _ = make(parts, "one")
    two, _, _ = make(parts, "two")
    async with (
        one,
        two,
        app.running(),
        one.events(kinds="job.buried") as dead,
        two.events(kinds=["job.succeeded"], queues=["others"]) as ended,
    ):
        for way in ("good", "reject", "good"):
            await work.enqueue(way)
        job = await other.enqueue()
        assert [(event.name, event.reason) for event in await take(dead, 1)] == [
            ("job.buried", "rejected: no use\\x1b[2J")
        ]
        assert [(event.name, event.job_id) for event in await take(ended, 1)] == [("job.succeeded", job.id)]
        with anyio.move_on_after(3.0) as waited:
            await anext(dead)
        assert waited.cancelled_caught


async def test_every_worker_is_heard(parts):
    """Events of all workers come, those of a worker that starts later too."""
    subscriber, work, _ = make(parts, "subscriber")
    first, _, _ = make(parts, "first", concurrency=2)
    second, _, _ = make(parts, "second", concurrency=2)
    async with subscriber, first.running(), subscriber.events(kinds="job.started") as events, second.running():
        await anyio.sleep(3 * BEAT)
        await subscriber.enqueue_many([work.call("slow") for _ in range(12)])
        heard = {event.worker for event in await take(events, 12)}
    assert heard == {"first", "second"}


async def test_without_a_subscriber_nothing_is_written_or_read(parts):
    """A worker without subscribers reads nothing at its heartbeats, writes its own record, and makes no events."""
    app, work, _ = make(parts)
    async with app.running():
        await (await work.enqueue("good")).result(5.0)
        await anyio.sleep(10 * BEAT)
        before = Counter(parts[1].faults.calls)
        await anyio.sleep(10 * BEAT)
        made = Counter(parts[1].faults.calls) - before
        assert set(made) == {"put"}
        assert 9 <= made["put"] <= 11
        assert not app._events.listeners


async def test_a_worker_falls_silent_after_its_last_subscriber(parts):
    """A subscriber that leaves, or that dies, is forgotten; one that stays is heard for as long as it does."""
    app, work, _ = make(parts)
    listener, _, _ = make(parts, "listener")
    async with app.running():
        async with listener, listener.events() as events:
            assert app._events.listeners
            await anyio.sleep(4 * SUBSCRIPTION_TIMEOUT)
            await work.enqueue("good")
            assert [event.name for event in await take(events, 3)][-1] == "job.succeeded"
        await anyio.sleep(SUBSCRIPTION_TIMEOUT + 2 * BEAT)
        assert not app._events.listeners
        async with listener, listener.events() as events:
            await work.enqueue("good")
            assert len(await take(events, 3)) == 3


async def test_gaps_are_counted(parts):
    """What a feed has no room for is missing, and the next event says how many."""
    app, work, _ = make(parts, concurrency=10)
    listener, _, _ = make(parts, "listener")
    async with listener, app.running(), listener.events(kinds="job.started") as events:
        parts[1].faults.fail("put")
        jobs = await app.enqueue_many([work.call("good") for _ in range(WINDOW_EVENTS + 500)])
        for job in jobs:
            await job.result(60.0)
        parts[1].faults.heal()
        await work.enqueue("good")
        heard = await take(events, 100)
        assert heard[0].missed + WINDOW_EVENTS >= len(jobs)
        assert all(event.missed == 0 for event in heard[1:])


async def test_a_dead_worker_is_not_kept_alive(parts):
    """A subscriber does not keep a worker's record in the roster that has died."""
    app, _, _ = make(parts)
    listener, _, _ = make(parts, "listener")
    async with listener, listener.events():
        parts[1].faults.fail("delete")
        async with doomed(app):
            await anyio.sleep(4 * BEAT)
            assert len(await listener.workers()) == 1
        await eventually(lambda: _is_empty(listener), within=10 * BEAT)


async def _is_empty(app):
    return not await app.workers()


@pytest.mark.parametrize("wrong", ["job.bruied", "store.get.complete", 3, ["job.buried", None]])
async def test_what_cannot_be_heard_is_refused(parts, wrong):
    """An event that jobs do not have is an error, with the name that was probably meant."""
    app, _, _ = make(parts)
    async with app:
        with pytest.raises(InvalidSetting) as refused:
            app.events(kinds=wrong)
    assert wrong != "job.bruied" or "did you mean 'job.buried'" in str(refused.value)


async def test_events_need_a_store_and_a_heartbeat(parts):
    """Both errors say what to set."""
    with pytest.raises(InvalidSetting, match="heartbeat="):
        make(parts, heartbeat=0)[0].events()
    with pytest.raises(StoreRequired, match="give it one"):
        App("memory://", store="none", heartbeat=BEAT).events()
