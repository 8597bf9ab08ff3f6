"""Events: their names, and the numbers that they carry."""

from __future__ import annotations

import re

import anyio
import pytest

from taskcore import App, JobFailed, Retry, observe
from taskcore.errors import BrokerUnavailable
from taskcore.observe import EVENT_NAMES, Events, ObservedStore
from taskcore.store import ANY, Write
from taskcore.stores.memory import MemoryStore
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


def listen(app):
    """Collect the events of an app, as (name, facts)."""
    seen = []
    app.on_event(lambda event: seen.append((event.name, dict(event.facts))))
    return seen


def test_the_table_has_every_name():
    """The module's table and the type of the names are the same list."""
    names = r"\b(?:job|key|result|broker|loop|thread|slot|schedule)\.[a-z_]+|settle\.unconfirmed"
    table = re.findall(names, observe.__doc__)
    spans = [
        name
        for name in EVENT_NAMES
        if name.endswith((".complete", ".failed")) and name not in ("job.failed", "schedule.failed")
    ]
    assert sorted({*table, *spans}) == sorted(EVENT_NAMES)
    assert all(f"{name.rpartition('.')[0]}.*" in observe.__doc__ for name in spans)


async def test_a_run_has_numbers():
    """Attempt, wait, run time and error are facts of a job's events."""
    app = App("memory://", clock=clock)

    @app.task(name="flaky", retry=Retry(attempts=2, base=1.0, jitter="none"))
    async def flaky() -> None:
        await anyio.sleep(3)
        raise ValueError("no")

    seen = listen(app)
    async with app:
        job = await flaky.enqueue()
        await anyio.sleep(5)
        async with app.running():
            with pytest.raises(JobFailed):
                await job.result(timeout=60)
    events = {name: facts for name, facts in seen if name.startswith("job.") and facts["job_id"] == job.id}
    named = {"job_id": job.id, "task": "flaky", "queue": "default"}
    first = next(facts for name, facts in seen if name == "job.started")
    assert first == {**named, "attempt": 1, "waited": pytest.approx(5, abs=0.1)}
    assert events["job.started"] == {**named, "attempt": 2, "waited": None}
    retried, buried = events["job.retried"], events["job.buried"]
    assert (retried["attempt"], retried["seconds"], retried["reason"]) == (1, pytest.approx(3, abs=0.1), None)
    assert (buried["attempt"], buried["seconds"], buried["reason"]) == (2, pytest.approx(3, abs=0.1), "exhausted")
    assert (buried["error"].type, buried["error"].message, buried["queue"]) == ("ValueError", "no", "default")


async def test_a_deferred_job_says_why():
    """A job whose key another job holds is deferred, without an attempt, and its event has the reason."""
    app = App("memory://", clock=clock)

    @app.task(name="keyed", key="number")
    async def keyed(number: int) -> None:
        await anyio.sleep(3)

    seen = listen(app)
    async with app.running():
        first = await keyed.enqueue(1)
        store = app.components.store
        [name] = [key for key in store.inner._records if key.startswith("key/")]
        await anyio.sleep(1)
        twin = first.task.using(id="twin")
        record = await store.get(name)
        await store.delete(name, expect=ANY)
        await twin.enqueue(1)
        await store.put(name, record.value, expect=ANY, keep=60.0)
        await first.result(timeout=10)
        await anyio.sleep(5)
    deferred = [facts for name, facts in seen if name == "job.deferred"]
    assert deferred
    assert {(facts["job_id"], facts["attempt"], facts["reason"]) for facts in deferred} == {
        ("twin", 1, "another job holds its key")
    }


async def test_the_store_is_observed():
    """Each call of a store is counted and timed, those that fail too."""
    events, inner = Events(), MemoryStore()
    seen = []
    events.listen(lambda event: seen.append((event.name, event.facts["size"], event.facts["error"])))
    async with ObservedStore(inner, events) as store:
        await store.put("a", b"1", expect=ANY, keep=60.0)
        await store.put_many([Write(key="b", value=b"2", keep=60.0), Write(key="c", value=b"3", keep=60.0)])
        assert (await store.get("a")).value == b"1"
        found = await store.get_many(["c", "none", "a"])
        assert [record and record.value for record in found] == [b"3", None, b"1"]
        assert await store.delete("a", expect=ANY)
        async with store.watch("b") as records:
            assert (await anext(records)).value == b"2"
        error = BrokerUnavailable("gone")

        async def fail(*_, **__):
            raise error

        inner.get = fail
        with pytest.raises(BrokerUnavailable):
            await store.get("a")
    assert seen == [
        ("store.put.complete", 1, None),
        ("store.put_many.complete", 2, None),
        ("store.get.complete", 1, None),
        ("store.get_many.complete", 3, None),
        ("store.delete.complete", 1, None),
        ("store.get.failed", 1, error),
    ]
    assert events.counters["store.get.failed"] == 1
