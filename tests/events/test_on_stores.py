"""On every store: another program hears of jobs within a heartbeat of its entry, and soon after they happen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App, Reject
from tests.support.stores import KINDS_OF_STORES, store_of

pytestmark = pytest.mark.timeout(60)

BEAT = 0.3


def make(store: Any, name: str) -> App:
    """Make a program over a store."""
    app = App("memory://", store=store, source=name, heartbeat=BEAT)

    @app.task(name="work")
    async def work(number: int) -> None:
        if number == 2:
            raise Reject("two")

    return app


@pytest.mark.parametrize("kind", KINDS_OF_STORES)
def test_every_store_carries_events(kind: str, tmp_path: Path) -> None:
    """A subscriber hears of each job of a worker that it shares the store with, in order, and again after it left."""

    async def main(store: Any) -> None:
        worker, listener = make(store, "worker"), make(store, "listener")
        [work] = worker
        async with worker.running(), listener:
            for _ in range(2):
                async with listener.events(kinds=["job.succeeded", "job.buried"]) as events:
                    jobs = [await work.enqueue(number) for number in range(4)]  # type: ignore[call-arg]
                    with anyio.fail_after(20):
                        heard = [(await anext(events)) for _ in jobs]
                    late = time.time() - max(event.at for event in heard)
                assert {event.job_id for event in heard} == {job.id for job in jobs}
                [dead] = [event for event in heard if event.name == "job.buried"]
                assert (dead.job_id, dead.reason) == (jobs[2].id, "rejected: two")
                assert all(event.missed == 0 for event in heard)
                assert late < 3.0

    with store_of(kind, tmp_path) as store:
        anyio.run(main, store)


def test_blocking_programs_hear() -> None:
    """``app.sync.events`` is a context whose value is iterated, or asked with a time limit."""
    app = make(None, "worker")
    [work] = app
    with app.sync.running(), app.sync.events(kinds="job.succeeded") as events:
        assert events.get(timeout=0.05) is None
        job = work.sync.enqueue(1)  # type: ignore[call-arg]
        event = events.get(timeout=10)
        assert event is not None
        assert event.job_id == job.id
        again = work.sync.enqueue(3)  # type: ignore[call-arg]
        for event in events:
            assert event.job_id == again.id
            break
