"""Huey, on Redis."""

from __future__ import annotations

import ruler
from huey import RedisHuey

PEER = ruler.Peer(
    name="Huey",
    package="huey",
    requirements=["huey", "redis", "hiredis"],
    brokers=["redis"],
    command=["{python}", "-m", "huey.bin.huey_consumer", "huey_.huey", "-w", "4", "-k", "thread", "-n", "-q"],
    slots=4,
    settings="4 threads, blocking pop, results only when asked for, no periodic tasks.",
    source="https://huey.readthedocs.io/en/latest/consumer.html",
    guarantee="AT MOST ONCE: a job leaves Redis before it runs; there is no other mode",
)
huey = RedisHuey(ruler.QUEUE, url=ruler.URL or "redis://localhost", results=bool(ruler.RESULTS), blocking=True)


@huey.task()
def job(data):
    """Do the job."""
    return ruler.job(data)


class Adapter(ruler.Adapter):
    """Huey's calls block."""

    async def one(self, data):
        """Enqueue one job."""
        job(data)

    async def many(self, batch):
        """Enqueue one by one, as there is no bulk call."""
        for data in batch:
            job(data)

    async def trip(self, data):
        """Await one result."""
        if job(data).get(blocking=True, timeout=20, backoff=1.05, max_delay=0.01) is None:
            raise TimeoutError

    async def trips(self, batch):
        """Send all, then await all."""
        for sent in [job(data) for data in batch]:
            sent.get(blocking=True, timeout=20, backoff=1.05, max_delay=0.01)
