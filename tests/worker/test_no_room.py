"""A broker that has no room for retries and dead letters: those jobs wait, and no other job waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from taskcore import App, Dead, Retry
from taskcore.backend import Delivery, Source
from taskcore.backends.limits import NoRoom
from taskcore.backends.memory import MemoryBackend
from taskcore.lifecycle import Bury, Reschedule, Verdict
from taskcore.worker import outages

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


class FullSource:
    """A source that carries out all verdicts but those that leave something behind."""

    def __init__(self, source: Source, broker: FullBroker) -> None:
        self._source = source
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        """Settle; refuse for lack of room."""
        held = [one for one, verdict in batch if isinstance(verdict, Bury | Reschedule) and not self._broker.has_room]
        lost = await self._source.settle([(one, verdict) for one, verdict in batch if one not in held])
        if held:
            self._broker.refusals += 1
            raise NoRoom("the queue of dead letters is full", held=held)
        return lost


class FullBroker(MemoryBackend):
    """Memory that is full until a test says that it is not."""

    has_room = False
    refusals = 0

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, lease: float) -> AsyncIterator[Any]:
        """Return a source that refuses."""
        async with super().consume(queues, lease=lease) as source:
            yield FullSource(source, self)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FullBroker:
    """Make a full broker, whose worker looks for room twice a second."""
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 0.5)
    return FullBroker()


def app_on(broker: FullBroker, runs: list[str]) -> App:
    """Make an app with jobs of each kind."""
    app = App(broker, store="memory://", lease=3.0, retry=Retry(attempts=1))

    @app.task(name="fail")
    async def fail(word: str) -> None:
        runs.append(word)
        raise ValueError(word)

    @app.task(name="flaky", retry=Retry(attempts=2, base=0.0, jitter="none"))
    async def flaky(word: str) -> str:
        runs.append(word)
        if runs.count(word) == 1:
            raise ValueError(word)
        return word

    @app.task(name="work")
    async def work(word: str) -> str:
        return word

    return app


async def until_refused(broker: FullBroker, number: int) -> None:
    """Wait until the broker has refused so often."""
    with anyio.fail_after(20):
        while broker.refusals < number:  # noqa: ASYNC110 - a count has no event
            await anyio.sleep(0.01)


async def test_other_jobs_end_meanwhile(broker: FullBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs without room are held, longer than a lease, and run once; they end when there is room; the log says why."""
    runs = list[str]()
    app = app_on(broker, runs)
    async with app.running(concurrency=4):
        bad = [await app.tasks["fail"].enqueue(f"bad {number}") for number in range(3)]
        twice = await app.tasks["flaky"].enqueue("twice")
        await until_refused(broker, 1)
        for number in range(30):
            good = await app.tasks["work"].enqueue(f"good {number}")
            assert await good.result(timeout=15) == f"good {number}"
        refusals = broker.refusals
        await until_refused(broker, refusals + 8)  # longer than a lease
        assert sorted(runs) == ["bad 0", "bad 1", "bad 2", "twice"]
        assert await app.dead_letters.count() == 0
        assert "broker lost: [TC201] the queue of dead letters is full" in caplog.text
        assert "broker back" not in caplog.text
        broker.has_room = True
        assert all([isinstance(await job.outcome(timeout=15), Dead) for job in bad])
        assert await twice.result(timeout=15) == "twice"
        await app.drain(timeout=15)
        assert {letter.job_id async for letter in app.dead_letters.read()} == {job.id for job in bad}
    assert "broker back" in caplog.text
    assert sorted(runs) == ["bad 0", "bad 1", "bad 2", "twice", "twice"]


async def test_a_worker_that_stops_keeps_none_of_them(broker: FullBroker) -> None:
    """A worker ends within its grace, and the next one has its jobs."""
    runs = list[str]()
    app = app_on(broker, runs)
    async with app:
        with anyio.fail_after(20):
            async with app.running(grace=0.5):
                await app.tasks["fail"].enqueue("bad")
                await until_refused(broker, 1)
        broker.has_room = True
        async with app.running():
            await app.drain(timeout=10)
        assert await app.dead_letters.count() == 1
