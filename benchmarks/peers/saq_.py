"""SAQ, on Redis."""

from __future__ import annotations

import ruler
from saq import Queue

PEER = ruler.Peer(
    name="SAQ",
    package="saq",
    requirements=["saq[hiredis]", "uvloop", "typing_extensions"],
    brokers=["redis"],
    command=["{python}", "-m", "saq", "saq_.settings"],
    slots=100,
    settings="concurrency 100, max_concurrent_ops 100, results kept only when asked for (ttl -1 deletes the job), sweep as documented.",
    source="https://saq-py.readthedocs.io/en/latest/",
    guarantee="at least once: a job is active until it has run, and swept when its timeout is over",
)
queue = Queue.from_url(ruler.URL or "redis://localhost", name=ruler.QUEUE, max_concurrent_ops=100)


async def job(ctx, *, data):
    """Do the job."""
    return await ruler.ajob(data)


settings = {
    "queue": queue,
    "functions": [job],
    "concurrency": 100,
    **({"timers": {"sweep": 1}} if ruler.LEASE else {}),
}
OPTIONS = {"ttl": 60 if ruler.RESULTS else -1, "retries": 3, **({"timeout": int(ruler.LEASE)} if ruler.LEASE else {})}


class Adapter(ruler.Adapter):
    """Everything is a coroutine; there is no bulk call, so many are sent at once."""

    async def open(self):
        """Connect."""
        await queue.connect()

    async def close(self):
        """Disconnect."""
        await queue.disconnect()

    async def one(self, data):
        """Enqueue one job."""
        await queue.enqueue("job", data=data, **OPTIONS)

    async def trip(self, data):
        """Await one result."""
        await queue.apply("job", data=data, poll_interval=0.002, **OPTIONS)
