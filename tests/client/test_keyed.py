"""Where a broker does not notice an id that is published twice, the sender of a key gets time to confirm it (C10)."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from taskcore import App, BrokerUnavailable, EnqueueUncertain
from taskcore.backend import Uncertain
from taskcore.backends.memory import FEATURES, MemoryBackend
from taskcore.faults import FlakyStore
from taskcore.stores.memory import MemoryStore
from taskcore.testing.clock import run_virtually
from taskcore.testing.crash_points import SimulatedCrash, crash_at


class Forgetful(MemoryBackend):
    """A slow broker that stores the same id as often as it is published, each time as another job."""

    def __init__(self):
        super().__init__()
        self.published = []

    @property
    def features(self):
        """It notices no id."""
        return msgspec.structs.replace(FEATURES, dedup="absent", locate="absent")

    async def publish(self, batch):
        """Publish slowly, and under other ids."""
        await anyio.sleep(0.5)
        self.published += [job.id for job in batch]
        return await super().publish(
            [msgspec.structs.replace(job, id=f"{job.id}/{len(self.published)}") for job in batch]
        )


def make_app():
    """Make an app on such a broker, with a task that has a key."""
    broker = Forgetful()
    app = App(broker, store="memory://")

    @app.task(name="pay", key="order")
    async def pay(order: int) -> None: ...

    return broker, app, pay


def test_calls_at_the_same_time_are_published_once():
    """Ten calls with one key, some of them in one batch: one message."""

    async def scenario():
        broker, app, pay = make_app()
        async with app, anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(app.send, pay.call(7))
            group.start_soon(app.enqueue_many, [pay.call(7) for _ in range(5)])
        return broker.published

    assert len(run_virtually(scenario)) == 1


@pytest.mark.anyio
async def test_a_batch_tells_what_was_sent_before_the_store_was_asked():
    """While the store is away, a batch sends its calls without a key, and the error has their jobs."""
    store = FlakyStore(MemoryStore())
    app = App("memory://", store=store)

    @app.task(name="note")
    async def note(number: int) -> None: ...

    @app.task(name="pay", key="order")
    async def pay(order: int) -> None: ...

    async with app:
        store.partition()
        with pytest.raises(BrokerUnavailable) as failed:
            await app.enqueue_many([note.call(1), pay.call(7), note.call(2)])
        store.heal()
        jobs = failed.value.jobs
        assert [job is not None for job in jobs] == [True, False, True]
        assert (await app.stats("default")).ready == 2


def test_a_dead_sender_is_not_waited_for_for_ever():
    """A sender that claimed the key and died published nothing: after some seconds the next one does."""

    async def scenario():
        broker, app, pay = make_app()
        async with app:
            with pytest.raises(SimulatedCrash), crash_at("enqueue.claimed"):
                await pay.enqueue(7)
            began = anyio.current_time()
            await pay.enqueue(7)
            assert 4.9 < anyio.current_time() - began < 6.5
        return broker.published

    assert len(run_virtually(scenario)) == 1


class Silent(Forgetful):
    """A broker that never answers."""

    async def publish(self, batch):
        """Answer that every job is uncertain."""
        return [Uncertain("no answer")] * len(batch)


@pytest.mark.parametrize(
    ("broker", "store", "key", "advice"),
    [
        (Silent, "memory://", None, "the job may run twice, with one outcome; with a key it runs once"),
        (Silent, "none", None, "the job may run twice, because there is no store; with a key it runs once"),
        (Silent, "memory://", "number", "repeat it: with its key, both calls are one job"),
    ],
)
def test_what_is_said_of_repeating(broker, store, key, advice):
    """An enqueue that is uncertain says what repeating it comes to on this broker, with this store."""

    async def scenario():
        app = App(broker(), store=store, keep_result=60.0 if store != "none" else None)

        @app.task(name="work", key=key)
        async def work(number: int) -> None: ...

        async with app:
            with pytest.raises(EnqueueUncertain) as caught:
                await work.enqueue(1)
        return caught.value.fix

    assert advice in run_virtually(scenario)
