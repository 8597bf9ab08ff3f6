"""Taskiq, on Redis streams, RabbitMQ and NATS JetStream."""

from __future__ import annotations

import ruler

PEER = ruler.Peer(
    name="Taskiq",
    package="taskiq",
    requirements=["taskiq", "taskiq-redis", "taskiq-aio-pika", "taskiq-nats", "hiredis", "uvloop"],
    brokers=["redis", "rabbitmq", "nats"],
    command=[
        "{python}",
        "-m",
        "taskiq",
        "worker",
        "taskiq_:broker",
        "--workers",
        "1",
        "--ack-type",
        "when_executed",
        "--max-async-tasks",
        "100",
        "--max-prefetch",
        "100",
        "--log-level",
        "ERROR",
    ],
    slots=100,
    settings="one worker process, ack when executed, 100 async tasks, prefetch 100, uvloop; Redis: stream broker, "
    "xread_count 100 (abandoned messages are looked for only after a read that brought new ones); RabbitMQ: qos 100; NATS: pull consumer, one at a time as is its default (a batch waits until it is full; the push consumer subscribes in senders, too).",
    source="https://taskiq-python.github.io/available-components/brokers.html",
)


def make_broker():
    """Make the broker of this environment."""
    if ruler.BROKER == "redis":
        from taskiq_redis import RedisStreamBroker

        return RedisStreamBroker(
            ruler.URL,
            queue_name=ruler.QUEUE,
            xread_count=100,
            xread_block=500,
            consumer_id="0",
            idle_timeout=int((ruler.LEASE or 600) * 1000),
            unacknowledged_lock_timeout=ruler.LEASE or 60,  # without it a worker killed in there locks all others out
        )
    if ruler.BROKER == "rabbitmq":
        from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

        return AioPikaBroker(
            ruler.URL,
            qos=100,
            exchange=Exchange(name=ruler.QUEUE),
            task_queues=[Queue(name=ruler.QUEUE, routing_key=ruler.QUEUE)],
        )
    from nats.js.api import ConsumerConfig
    from taskiq_nats import PullBasedJetStreamBroker

    return PullBasedJetStreamBroker(
        ruler.URL,
        subject=ruler.QUEUE,
        stream_name=ruler.QUEUE,
        durable=f"{ruler.QUEUE}-workers",
        consumer_config=ConsumerConfig(
            durable_name=f"{ruler.QUEUE}-workers",
            ack_wait=ruler.LEASE or 30,
            max_ack_pending=10_000,
        ),
    )


broker = make_broker()
if ruler.RESULTS:
    from taskiq_redis import RedisAsyncResultBackend

    broker = broker.with_result_backend(RedisAsyncResultBackend(ruler.RESULTS, result_ex_time=60))


@broker.task(task_name="bench.job")
async def job(data: str) -> int:
    """Do the job."""
    return await ruler.ajob(data)


class Adapter(ruler.Adapter):
    """Everything is a coroutine; there is no bulk call, so many are sent at once."""

    async def open(self):
        """Connect."""
        await broker.startup()

    async def close(self):
        """Disconnect."""
        await broker.shutdown()

    async def one(self, data):
        """Send one message."""
        await job.kiq(data)

    async def trip(self, data):
        """Poll for one result, in the shortest sensible interval."""
        if not ruler.RESULTS:
            raise NotImplementedError
        task = await job.kiq(data)
        await task.wait_result(check_interval=0.002, timeout=20)
