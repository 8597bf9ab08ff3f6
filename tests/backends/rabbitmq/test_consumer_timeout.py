"""A job that runs longer than the broker allows is taken back: the holder learns it, another one gets it (Q10)."""

from __future__ import annotations

import anyio
import pytest

from taskcore.backend import Outgoing
from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.errors import BrokerUnavailable
from taskcore.faults import RabbitServer
from taskcore.lifecycle import ACK
from tests.support.rabbit_play import RabbitPlay
from tests.support.real import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def strict():
    """Serve a node that closes a channel that holds a job for longer than two seconds."""
    settings = {"consumer_timeout": 2_000, "channel_tick_interval": 1_000}  # the second is in no configuration file
    with serving(RabbitServer) as server:
        for name, value in settings.items():
            anyio.run(server.control, "eval", f"application:set_env(rabbit, {name}, {value}).")
        yield server


async def test_a_job_over_the_time_limit_is_lost_and_comes_again(strict):
    """Extending does not help; the source goes on with another channel, and nothing settles twice."""
    async with RabbitBackend(f"{strict.url}?min_queue_age=0.1&consumer_timeout=0") as backend:
        await backend.publish([Outgoing("slow", "1", b"slow")])
        async with backend.consume(["slow"], lease=60) as source:
            [held] = await source.receive(1)
            with anyio.fail_after(20):
                while not await source.extend([held]):  # noqa: ASYNC110 - the holder gets no event
                    await anyio.sleep(0.1)
            found = []
            with anyio.fail_after(10):
                while not found:
                    try:
                        found = await source.receive(1)
                    except BrokerUnavailable:
                        await anyio.sleep(0.1)
            assert (found[0].envelope, found[0].redeliveries) == (b"slow", 1)
            assert [delivery is held for delivery in await source.settle([(held, ACK)])] == [True]
            assert not await source.settle([(found[0], ACK)])


async def test_a_delay_longer_than_every_limit(strict, tmp_path):
    """F60: a job that is due long after leases and the broker's time limit have passed starts then, and once."""
    play = RabbitPlay(strict.url, tmp_path, "min_queue_age=0.1&consumer_timeout=0")
    async with play.running("worker", lease=0.5) as app:
        job = await app.tasks["work"].using(delay=4.0).enqueue(1)
        assert await job.result(timeout=15) == 1
        report = await play.check(delta=0.3)
    assert sum(entry.kind == "start" for entry in report.histories[job.id]) == 1


async def test_the_diagnosis_has_each_check(strict):
    """Version, kind of queues, time limit, alarms, heartbeat; and a sentence on what is durable."""
    async with RabbitBackend(f"{strict.url}?min_queue_age=0.1&heartbeat=7") as backend:
        diagnosis = await backend.diagnose()
    facts = {fact.name: fact for fact in diagnosis.checks}
    assert diagnosis.server == f"RabbitMQ {strict.version}"
    assert "quorum" in diagnosis.durability
    assert diagnosis.unsafe == ()
    assert facts["heartbeat"].text.endswith("14 to 21 s")
    assert {"version", "queues", "time limit", "limit", "alarm", "heartbeat", "policies", "lost"} <= set(facts)
    async with RabbitBackend(f"{strict.url}?min_queue_age=0.1&queue_type=classic") as backend:
        assert {clause for fact in (await backend.diagnose()).unsafe for clause in fact.clauses} == {"C5", "C12"}
