"""Where queue and records are in one database, a job's outcome and its end are one transaction."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from taskcore import App, JobFailed, Retry
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Outgoing
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import ACK, Reschedule
from taskcore.records.names import outcome_name
from taskcore.store import ABSENT, Write

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

RAN: list[int] = []  #: the arguments with which the function was called


def make_app(url: str, **settings: Any) -> tuple[App, Any, Any]:
    """Make an app with a task that returns, and one that raises."""
    app = App(url, **settings)
    RAN.clear()

    @app.task(name="double")
    async def double(number: int) -> int:
        RAN.append(number)
        return number * 2

    @app.task(name="broken", retry=Retry(attempts=2, base=0.01))
    async def broken() -> None:
        raise ValueError

    return app, double, broken


def parts_of(app: App) -> tuple[Any, Any]:
    """Return the app's backend and store themselves."""
    components: Any = app.components
    return components.backend.inner, components.store.inner


async def test_results_and_ends_are_one_step(url: str, monkeypatch: pytest.MonkeyPatch):
    """Results are there, and retries and deaths too, although no worker writes an outcome by itself."""
    app, double, broken = make_app(url)
    backend, store = parts_of(app)
    put_many = store.put_many
    alone: list[Write] = []

    async def put(writes: list[Write]) -> Any:
        alone.extend(write for write in writes if write.key.startswith(outcome_name("")) and write.value is not None)
        return await put_many(writes)

    monkeypatch.setattr(store, "put_many", put)
    async with app.running():
        jobs = await app.enqueue_many(double.call(number) for number in range(50))
        assert [await job.result(timeout=20) for job in jobs] == [number * 2 for number in range(50)]
        job = await broken.enqueue()
        with pytest.raises(JobFailed):
            await job.result(timeout=20)
        [stats] = await backend.admin.stats(["default"])
        assert (stats.ready, stats.leased, stats.dead) == (0, 0, 1)
    assert not alone
    assert app.counters["job.succeeded"] == 50
    assert app.counters["job.buried"] == 1
    assert app.counters["job.lost"] == app.counters["settle.unconfirmed"] == 0


async def test_keyed_jobs_end_together_with_their_outcomes(url: str):
    """A key's outcome is committed first, as everywhere; a second call with it gets the first one's result."""
    app, double, _ = make_app(url)
    async with app.running():
        first = await double.using(key="order-1").enqueue(4)
        assert await first.result(timeout=20) == 8
        second = await double.using(key="order-1").enqueue(4)
        assert await second.result(timeout=20) == 8
    assert RAN == [4]


async def test_nothing_is_done_if_the_transaction_fails(url: str, monkeypatch: pytest.MonkeyPatch):
    """A fault between the verdict and the outcome leaves neither; the next try, step by step, has both."""
    app, double, _ = make_app(url)
    backend, store = parts_of(app)
    joining, seen = store.joining, list[Any]()

    def fail(writes: list[Write]) -> Any:
        work = joining(writes)

        def stumble(*place: Any) -> Any:
            seen.append(work(*place))
            raise BrokerUnavailable("the disk is full")

        async def stumble_later(*place: Any) -> Any:
            seen.append(await work(*place))
            raise BrokerUnavailable("the disk is full")

        return stumble if url.startswith("sqlite") else stumble_later

    monkeypatch.setattr(store, "joining", fail)
    async with app.running():
        job = await double.enqueue(1)
        assert await job.result(timeout=20) == 2
        with anyio.fail_after(20):
            while (await backend.admin.stats(["default"]))[0].unfinished:  # noqa: ASYNC110 - a worker changes it
                await anyio.sleep(0.01)
    assert len(seen) == 1
    assert app.counters["job.succeeded"] == 1
    assert RAN == [1]


async def test_a_lost_lease_or_an_outcome_that_stands_undoes_all(url: str):
    """With one lost lease in a batch, or one outcome that is there already, no job ends and no outcome is written."""
    backend: Any = open_backend(url)
    store: Any = open_store(url)
    assert backend.database == store.database
    async with backend, store, backend.consume(["q"], lease=60) as source:
        await backend.publish([Outgoing("q", str(number), b"x") for number in range(3)])
        found = [*await source.receive(3)]
        assert not await source.settle([(found[2], Reschedule(0.0, b""))])
        writes = [Write(key=f"o{number}", value=b"end", expect=ABSENT, keep=60) for number in range(3)]
        all_three = [(delivery, ACK) for delivery in found]
        assert await source.settle_together(all_three, store.joining(writes)) is None
        assert await store.get_many(["o0", "o1", "o2"]) == [None] * 3
        await store.put("o1", b"stands", expect=ABSENT, keep=60)
        assert await source.settle_together(all_three[:2], store.joining(writes[:2])) is None
        assert [record and record.value for record in await store.get_many(["o0", "o1"])] == [None, b"stands"]
        [stats] = await backend.admin.stats(["q"])
        assert (stats.ready, stats.leased) == (1, 2)
        versions = await source.settle_together(all_three[:1], store.joining(writes[:1]))
        assert [(await store.get("o0")).version] == versions
        [stats] = await backend.admin.stats(["q"])
        assert (stats.ready, stats.leased) == (1, 1)


async def test_databases_that_differ_are_settled_step_by_step(url: str, tmp_path: Any):
    """With the records in another database the outcome is written first, and then the job ends."""
    app, double, _ = make_app(url, store=f"sqlite:///{tmp_path}/records.db")
    kinds: Counter[str] = Counter()
    app.on_event(lambda event: kinds.update([event.name]))
    async with app.running():
        assert await (await double.enqueue(2)).result(timeout=20) == 4
    assert kinds["store.put_many.complete"] >= 1
