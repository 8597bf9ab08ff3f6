"""streaQ, on Redis streams."""

from __future__ import annotations

import ruler
from streaq import Worker

PEER = ruler.Peer(
    name="streaQ",
    package="streaq",
    requirements=["streaq", "uvloop"],
    brokers=["redis"],
    command=["{python}", "-m", "streaq", "run", "streaq_:worker"],
    slots=100,
    settings="concurrency 100, prefetch 100, results not kept unless asked for (ttl 0), bulk by enqueue_many, uvloop.",
    source="https://streaq.readthedocs.io/en/latest/worker.html",
)

worker = Worker(
    redis_url=ruler.URL or "redis://localhost",
    concurrency=100,
    prefetch=100,
    queue_name=ruler.QUEUE,
    idle_timeout=ruler.LEASE or 60,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=60 if ruler.RESULTS else 0, silent=True)
async def job(data: str) -> int:
    """Do the job."""
    return await ruler.ajob(data)


class Adapter(ruler.Adapter):
    """Everything is a coroutine, inside of the worker's context."""

    async def open(self):
        """Connect."""
        await worker.__aenter__()

    async def close(self):
        """Disconnect."""
        await worker.__aexit__(None, None, None)

    async def one(self, data):
        """Enqueue one job."""
        await job.enqueue(data)

    async def many(self, batch):
        """Send them in a pipeline."""
        await worker.enqueue_many([job.enqueue(data) for data in batch])

    async def trip(self, data):
        """Await one result."""
        sent = await job.enqueue(data)
        await sent.result(20)

    async def trips(self, batch):
        """Send all, then await all, each through a subscription of its own; a hundred at once time out."""
        sent = [job.enqueue(data) for data in batch]
        await worker.enqueue_many(sent)
        for one in sent:
            await one.result(20)
