"""FastStream, on Redis streams, RabbitMQ and NATS JetStream: messages, no tasks; the thinnest of the peers."""

from __future__ import annotations

from contextlib import suppress

import ruler
from faststream import AckPolicy, FastStream

PEER = ruler.Peer(
    name="FastStream",
    package="faststream",
    requirements=["faststream[redis,rabbit,nats]", "faststream[cli]", "hiredis", "uvloop"],
    brokers=["redis", "rabbitmq", "nats"],
    command=["{python}", "-m", "faststream", "run", "faststream_:app", "--log-level", "error"],
    slots=100,
    settings="100 workers of one subscriber, acknowledged on success, no validation by pydantic (apply_types off), uvloop; "
    "Redis: stream with a group, batches of 100, a claiming subscriber while workers are killed; RabbitMQ: durable queue, prefetch 100, persistent, confirmed; NATS: push "
    "subscription. No retries, no results, no dead letters: less than a task library does.",
    source="https://faststream.ag2.ai/latest/",
)


async def job(data: str) -> None:
    """Do the job."""
    await ruler.ajob(data)


if ruler.BROKER == "redis":
    from faststream.redis import RedisBroker, StreamSub

    broker = RedisBroker(ruler.URL or "redis://localhost", apply_types=False, logger=None)
    stream = StreamSub(ruler.QUEUE, group="bench", consumer="one", max_records=100)
    broker.subscriber(stream=stream, max_workers=100, ack_policy=AckPolicy.REJECT_ON_ERROR)(job)
    if ruler.LEASE:  # a second subscriber claims what a dead one has left
        left = StreamSub(
            ruler.QUEUE, group="bench", consumer="two", max_records=100, min_idle_time=int(ruler.LEASE * 1000)
        )
        broker.subscriber(stream=left, max_workers=100, ack_policy=AckPolicy.REJECT_ON_ERROR)(job)

    async def publish(data):
        """Publish one message."""
        await broker.publish(data, stream=ruler.QUEUE)
elif ruler.BROKER == "rabbitmq":
    from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

    broker = RabbitBroker(ruler.URL, apply_types=False, logger=None, default_channel=Channel(prefetch_count=100))
    queue = RabbitQueue(ruler.QUEUE, durable=True)
    broker.subscriber(queue, ack_policy=AckPolicy.REJECT_ON_ERROR)(job)

    async def publish(data):
        """Publish one message."""
        await broker.publish(data, queue=queue, persist=True)
else:
    from faststream.nats import JStream, NatsBroker
    from nats.js.api import ConsumerConfig

    broker = NatsBroker(ruler.URL, apply_types=False, logger=None)
    jet = JStream(f"s-{ruler.QUEUE}", subjects=[ruler.QUEUE])
    broker.subscriber(
        ruler.QUEUE,
        stream=jet,
        durable=f"d-{ruler.QUEUE}",
        max_workers=100,
        ack_policy=AckPolicy.REJECT_ON_ERROR,
        config=ConsumerConfig(ack_wait=ruler.LEASE or 30, max_ack_pending=10_000),
    )(job)

    async def publish(data):
        """Publish one message."""
        await broker.publish(data, ruler.QUEUE, stream=jet.name)


app = FastStream(broker, logger=None)


class Adapter(ruler.Adapter):
    """Everything is a coroutine; many are sent at once."""

    async def open(self):
        """Connect, and declare what the subscriber declares."""
        await broker.connect()
        if ruler.BROKER == "redis":  # a group that the subscriber makes would begin with what comes later
            from redis.asyncio import Redis
            from redis.exceptions import ResponseError

            async with Redis.from_url(ruler.URL) as redis:
                with suppress(ResponseError):  # it is there
                    await redis.xgroup_create(ruler.QUEUE, "bench", id="0", mkstream=True)
        if ruler.BROKER == "nats":  # not broker.start(): that would subscribe here, too
            import nats

            client = await nats.connect(ruler.URL)
            await client.jetstream().add_stream(name=jet.name, subjects=[ruler.QUEUE])
            await client.close()
        if ruler.BROKER == "rabbitmq":
            await broker.declare_queue(queue)

    async def close(self):
        """Disconnect."""
        await broker.stop()

    async def one(self, data):
        """Publish one message."""
        await publish(data)
