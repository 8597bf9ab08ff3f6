"""Dramatiq, on Redis and RabbitMQ."""

from __future__ import annotations

import dramatiq
import ruler
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

PEER = ruler.Peer(
    name="Dramatiq",
    package="dramatiq",
    requirements=["dramatiq[redis,rabbitmq]", "hiredis"],
    brokers=["redis", "rabbitmq"],
    command=["{python}", "-m", "dramatiq", "dramatiq_", "--processes", "1", "--threads", "8", "--skip-logging"],
    slots=8,
    settings="one process, 8 threads (its default), default middleware without Prometheus, prefetch left at twice the "
    "threads; Redis: heartbeats as they are (shortened, and looked at by every command, while workers are killed); RabbitMQ: publisher confirms.",
    source="https://dramatiq.io/guide.html",
)

if ruler.BROKER == "redis":
    beats = {"heartbeat_timeout": int(ruler.LEASE * 1000), "maintenance_chance": 1_000_000} if ruler.LEASE else {}
    broker = RedisBroker(url=ruler.URL, **beats)
else:
    broker = RabbitmqBroker(url=ruler.URL, confirm_delivery=True)
if ruler.RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=ruler.RESULTS)))
dramatiq.set_broker(broker)


def _job(data):
    result = ruler.job(data)
    return result if ruler.RESULTS else None  # a value without a result backend is a warning for each job


job = dramatiq.actor(
    _job, actor_name="job", queue_name=ruler.QUEUE, **({"store_results": True} if ruler.RESULTS else {})
)


class Adapter(ruler.Adapter):
    """Dramatiq's calls block."""

    async def one(self, data):
        """Send one message."""
        job.send(data)

    async def many(self, batch):
        """Send one by one, as there is no bulk call."""
        for data in batch:
            job.send(data)

    async def trip(self, data):
        """Await one result."""
        job.send(data).get_result(block=True, timeout=20_000)

    async def trips(self, batch):
        """Await a group's results together."""
        waiting = dramatiq.group([job.message(data) for data in batch]).run()
        list(waiting.get_results(block=True, timeout=60_000))
