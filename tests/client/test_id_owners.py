"""An id that a caller chooses belongs to the task of its first call (TC409)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, BrokerUnavailable, Succeeded, WrongTask
from taskcore.backends.memory import MemoryBackend
from taskcore.stores.memory import MemoryStore
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class MoodyStore(MemoryStore):
    """A store that is away, or never answers, when an id is claimed."""

    mood = ""

    async def put_many(self, writes):
        """Write, or not."""
        if any(write.key.startswith("owner/") for write in writes):
            if self.mood == "away":
                raise BrokerUnavailable("the store is away")
            if self.mood == "frozen":
                await anyio.sleep_forever()
        return await super().put_many(writes)


@pytest.fixture
def store():
    """Make a store whose mood a test may change."""
    return MoodyStore()


@pytest.fixture
def app(store):
    """Make an app with two tasks."""
    app = App("memory://", store=store, clock=clock, key_window=1000.0)

    @app.task(name="charge")
    async def charge() -> str:
        return "charged"

    @app.task(name="refund")
    async def refund() -> str:
        return "refunded"

    return app


async def test_an_id_of_a_job_that_waits(app):
    """The id of a job that waits is refused to another task, and nothing is sent; its own task may repeat it."""
    charge, refund = app.tasks["charge"], app.tasks["refund"]
    async with app:
        job = await charge.using(id="order-7", delay=100.0).enqueue()
        with pytest.raises(WrongTask, match="order-7 belongs to a job of charge, not of refund; nothing was sent"):
            await refund.using(id="order-7").enqueue()
        with pytest.raises(WrongTask) as caught:
            await app.enqueue_many([refund.call(), refund.using(id="order-7").call()])
        assert caught.value.job_id == "order-7"
        assert (await app.stats()).ready == 0
        assert await charge.using(id="order-7").enqueue() == job
        async with app.running():
            assert await job.outcome(timeout=200) == Succeeded("charged")


async def test_an_id_is_free_again(app):
    """An id may be used by another task when a key would be forgotten, too, counted from when its job was due."""
    charge, refund = app.tasks["charge"], app.tasks["refund"]
    async with app:
        await charge.using(id="x", delay=500.0).enqueue()
        await app.purge("default")
        await anyio.sleep(1400)
        with pytest.raises(WrongTask):
            await refund.using(id="x").enqueue()
        await anyio.sleep(101)
        await refund.using(id="x").enqueue()


@pytest.mark.parametrize("mood", ["away", "frozen"])
async def test_a_store_that_cannot_tell(app, store, mood):
    """A store that cannot be asked keeps no job from being sent."""
    store.mood = mood
    async with app:
        await app.tasks["charge"].using(id="x").enqueue()
        await app.enqueue_many([app.tasks["charge"].using(id="y").call()])
        assert (await app.stats()).ready == 2


async def test_without_a_store():
    """Without a store an id is what the broker makes of it."""
    app = App(MemoryBackend(), store="none", clock=clock)

    @app.task
    async def work() -> None: ...

    async with app:
        assert (await work.using(id="x").enqueue()).id == "x"
