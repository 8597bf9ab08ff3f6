"""RabbitMQ keeps no ids: an enqueue that is repeated may be two jobs, which may run at once, with one outcome."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest

from taskcore import App, Dead, EnqueueUncertain, Succeeded, current
from taskcore.adapters import open_backend, open_store
from taskcore.client import keyed
from taskcore.faults import DropReply, FlakyBackend, RabbitServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def flaky(node: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> FlakyBackend:
    """Return the broker, with faults on command; no sender waits long for the sender of a key."""
    monkeypatch.setattr(keyed, "SENDER_TIMEOUT", 0.1)
    return FlakyBackend(open_backend(f"{node.url}?min_queue_age=0.1"))


async def twice(app: App, flaky: FlakyBackend, task: Any, by: str) -> Any:
    """Lose the confirm of an enqueue, and repeat it with its id or its key: RabbitMQ has the job twice."""
    flaky.next("publish", DropReply())
    with pytest.raises(EnqueueUncertain) as caught:
        await task.enqueue(1)
    [first] = caught.value.job_ids
    job = await (task.using(id=first) if by == "id" else task).enqueue(1)
    assert job.id == first
    assert (await app.stats(task.options.queue)).ready == 2
    return job


async def all_over(app: App) -> None:
    """Wait until both jobs have ended, in whatever way."""
    with anyio.fail_after(15):
        while sum(app.counters[f"job.{name}"] for name in ("succeeded", "skipped", "buried")) < 2:  # noqa: ASYNC110 - no event
            await anyio.sleep(0.02)


@pytest.mark.parametrize("ends", [("first", "second"), ("first", None), (None, "second")], ids=str)
async def test_repeated_with_its_id(flaky: FlakyBackend, tmp_path: Any, ends: tuple[str | None, str | None]):
    """Without a key both may run at once: the outcome that is recorded first stands, and every caller gets it (C18)."""
    store = open_store(f"sqlite:///{tmp_path}/records.db")
    app = App(flaky, store=store, lease=10.0)
    starts: list[str] = []
    second = anyio.Event()

    @app.task(name="race", queue=f"twice-{secrets.token_hex(4)}", retry=None)
    async def race(number: int) -> str:
        me = len(starts)
        starts.append(current().job_id)
        if me:
            second.set()
            with anyio.fail_after(10):
                while await store.get(f"job/{starts[0]}") is None:  # noqa: ASYNC110 - a record has no event
                    await anyio.sleep(0.01)
        await second.wait()
        if (text := ends[me]) is None:
            raise ValueError(number)
        return text

    async with app:
        job = await twice(app, flaky, race, "id")
        async with app.running(concurrency=2):
            outcome = await job.outcome(timeout=10)
            await all_over(app)
            assert await job.outcome(timeout=5) == outcome
        assert starts == [job.id] * 2
        assert app.counters["result.ignored"] == 1
        assert isinstance(outcome, Dead) if ends[0] is None else outcome == Succeeded(ends[0])
        letters = {letter.job_id async for letter in app.dead_letters.read(job.queue)}
        assert letters == ({job.id} if ends[0] is None else set())


@pytest.mark.parametrize("fails", [False, True], ids=["it succeeds", "it fails"])
async def test_repeated_with_its_key(flaky: FlakyBackend, tmp_path: Any, fails: bool):
    """With a key the second one waits for the first, however long it runs, and gets its outcome: one run (C10)."""
    app = App(flaky, store=f"sqlite:///{tmp_path}/records.db", lease=1.0)
    starts: list[str] = []

    @app.task(name="race", queue=f"twice-{secrets.token_hex(4)}", retry=None, key="number")
    async def race(number: int) -> str:
        starts.append(current().job_id)
        await anyio.sleep(2.5)
        if fails:
            raise ValueError(number)
        return f"run {len(starts)}"

    async with app:
        job = await twice(app, flaky, race, "key")
        async with app.running(concurrency=2):
            outcome = await job.outcome(timeout=15)
            await all_over(app)
            assert await job.outcome(timeout=5) == outcome
        assert starts == [job.id]
        assert isinstance(outcome, Dead) if fails else outcome == Succeeded("run 1")
        letters = {letter.job_id async for letter in app.dead_letters.read(job.queue)}
        assert letters == ({job.id} if fails else set())


async def test_two_copies_with_a_key_never_share_a_fence(flaky: FlakyBackend, tmp_path: Any):
    """Whichever copy starts, and how often, its fence is higher than those before."""
    app = App(flaky, store=f"sqlite:///{tmp_path}/records.db", lease=1.0)
    fences: list[int] = []

    @app.task(name="race", queue=f"twice-{secrets.token_hex(4)}", key="number")
    async def race(number: int) -> int:
        fences.append(current().fence)
        await anyio.sleep(30.0 if len(fences) < 4 else 0.0)
        return number

    async with app:
        job = await twice(app, flaky, race, "key")
        for starts in (1, 2, 3):
            async with app.running(concurrency=2, grace=0.0):
                with anyio.fail_after(15):
                    while len(fences) < starts:  # noqa: ASYNC110 - no event
                        await anyio.sleep(0.02)
        async with app.running(concurrency=2):
            assert await job.result(timeout=15) == 1
            await all_over(app)
    assert len(fences) == 4
    assert fences == sorted(set(fences))
