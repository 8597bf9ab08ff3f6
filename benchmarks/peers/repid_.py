"""Repid, on Redis streams and NATS JetStream. On RabbitMQ it speaks AMQP 1.0, which RabbitMQ has since version 4."""

from __future__ import annotations

import asyncio
import sys

import ruler
from repid import Repid, Router

PEER = ruler.Peer(
    name="Repid",
    package="repid",
    requirements=["repid[redis,nats]", "hiredis", "uvloop", "typing_extensions"],
    brokers=["redis", "nats"],
    command=["{python}", "repid_.py", "work"],
    slots=100,
    settings="tasks_limit 100, acknowledged after the run; Redis: batches of 10 (larger ones are slower), messages of dead "
    "consumers are claimed only while workers are killed, because that is off by default; NATS: its push consumer with a "
    "queue group. Not on RabbitMQ: it speaks AMQP 1.0, with the addresses of RabbitMQ 4.",
    source="https://repid.aleksul.space/",
)
app = Repid()
if ruler.BROKER == "nats":
    from repid.connections.nats.message_broker import NatsServer

    server = NatsServer(ruler.URL)
else:
    from repid.connections.redis.message_broker import RedisServer

    server = RedisServer(
        ruler.URL or "redis://localhost",
        batch_size=10,
        claim_interval=1.0 if ruler.LEASE else 0.0,
        min_idle_ms=int((ruler.LEASE or 60) * 1000),
    )
app.servers.register_server("broker", server, is_default=True)
router = Router()


@router.actor(channel=ruler.QUEUE)
async def job(data: str) -> None:
    """Do the job."""
    await ruler.ajob(data)


app.include_router(router)


class Adapter(ruler.Adapter):
    """Everything is a coroutine; there is no bulk call, so many are sent at once."""

    async def open(self):
        """Connect; on NATS the stream and its consumer are made first, because Repid expects them."""
        if ruler.BROKER == "nats":
            await declare()
        self.server = app.servers.default
        self.connection = self.server.connection()
        await self.connection.__aenter__()

    async def close(self):
        """Disconnect."""
        await self.connection.__aexit__(None, None, None)

    async def one(self, data):
        """Send one message."""
        await app.send_message_json(channel=ruler.QUEUE, payload={"data": data}, headers={"topic": "job"})


async def declare():
    """Declare the stream, and the consumer that Repid subscribes to, by the names that it gives them."""
    import nats
    from nats.js.api import ConsumerConfig

    client = await nats.connect(ruler.URL)
    jetstream, group = client.jetstream(), f"{ruler.QUEUE}_group"
    await jetstream.add_stream(name=ruler.QUEUE, subjects=[ruler.QUEUE])
    await jetstream.add_consumer(
        ruler.QUEUE,
        ConsumerConfig(
            durable_name=group,
            deliver_group=group,
            deliver_subject=f"{group}.deliver",
            ack_policy="explicit",
            ack_wait=ruler.LEASE or 30,
        ),
    )
    await client.close()


async def work():
    """Run one worker."""
    async with app.servers.default.connection():
        await app.run_worker(tasks_limit=100)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
