"""Queues with limits of their own: never more of their jobs at once, and no queue waits for another."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App
from taskcore.errors import InvalidSetting
from taskcore.worker.hosting import WorkerChoice, worker_options
from taskcore.worker.pools import pools_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> App:
    """Make an app with tasks in three queues; ``app.most`` has how many ran at once in each."""
    app = App("memory://", concurrency=4)
    now: dict[str, int] = {}
    app.most = {}

    for queue in ("mail", "default", "slow"):

        @app.task(name=queue, queue=queue)
        async def work(queue: str, seconds: float = 0.01) -> None:
            now[queue] = now.get(queue, 0) + 1
            app.most[queue] = max(app.most.get(queue, 0), now[queue])
            await anyio.sleep(seconds)
            now[queue] -= 1

    return app


async def test_a_limit_holds(app):
    """At most so many jobs of a queue run at once, however fast they end."""
    async with app.running(queue_limits={"mail": 2, "default": 3}):
        calls = [app.tasks[queue].call(queue) for _ in range(60) for queue in ("mail", "default", "slow")]
        await app.enqueue_many(calls)
        await app.drain(timeout=15)

    assert app.most == {"mail": 2, "default": 3, "slow": 4}


async def test_a_full_queue_delays_no_other(app):
    """While one queue has as many jobs as it may, jobs of the others start at once."""
    async with app.running(queue_limits="slow=2,mail=1", grace=0.0):
        await app.enqueue_many([app.tasks["slow"].call("slow", 60.0) for _ in range(50)])
        with anyio.fail_after(5):
            for queue in ("mail", "default"):
                await (await app.tasks[queue].enqueue(queue)).result(timeout=5)
        assert app.most["slow"] == 2


@pytest.mark.parametrize(
    ("queues", "limits", "slots", "pools"),
    [
        ("mail,default", None, 4, {("mail", "default"): 4}),
        ("mail,default", {"mail": 5}, 9, {("mail",): 5, ("default",): 4}),
        ("mail,default", {"mail": 5, "default": 50}, 55, {("mail",): 5, ("default",): 50}),
        ("default", {"mail": 5}, 4, {("default",): 4}),  # a limit of a queue that this worker leaves alone
    ],
)
def test_slots(app, queues, limits, slots, pools):
    """Each queue with a limit has slots of its own, beside those that the others share."""
    options = worker_options(app.settings, app.tasks, WorkerChoice(queues, queue_limits=limits))
    assert options.concurrency == slots
    assert {pool.queues: pool.limit for pool in pools_of(options, app.tasks.values())} == pools


@pytest.mark.parametrize("limits", ["mail", "mail=0", "mail=x", "=5", {"mail": 0}, "mail=100001", "Mail!=5"])
def test_wrong_limits(limits):
    """A limit that cannot be is an error, as of any setting."""
    with pytest.raises(InvalidSetting):
        App("memory://", queue_limits=limits)
