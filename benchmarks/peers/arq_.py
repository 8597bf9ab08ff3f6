"""arq, on Redis."""

from __future__ import annotations

import ruler
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import func

PEER = ruler.Peer(
    name="arq",
    package="arq",
    requirements=["arq", "hiredis", "uvloop"],
    brokers=["redis"],
    command=["{python}", "-m", "arq", "arq_.WorkerSettings"],
    slots=100,
    settings="max_jobs 100, poll_delay 0.01 s (the default is 0.5 s), results not kept unless asked for, job results not logged.",
    source="https://arq-docs.helpmanual.io/#arq.worker.Worker",
    guarantee="at least once: a job stays in its queue until it has run, under a lock",
)
REDIS = RedisSettings.from_dsn(ruler.URL or "redis://localhost")


async def job(ctx, data):
    """Do the job."""
    return await ruler.ajob(data)


class WorkerSettings:
    """The worker's settings."""

    functions = [func(job, name="job", timeout=ruler.LEASE or 300, keep_result=60 if ruler.RESULTS else 0)]
    redis_settings = REDIS
    queue_name = ruler.QUEUE
    max_jobs = 100
    poll_delay = 0.01
    log_results = False


class Adapter(ruler.Adapter):
    """Everything is a coroutine; there is no bulk call, so many are sent at once."""

    async def open(self):
        """Connect."""
        self.redis = await create_pool(REDIS, default_queue_name=ruler.QUEUE)

    async def close(self):
        """Disconnect."""
        await self.redis.aclose()

    async def one(self, data):
        """Enqueue one job."""
        await self.redis.enqueue_job("job", data)

    async def trip(self, data):
        """Poll for one result, in the shortest sensible interval."""
        sent = await self.redis.enqueue_job("job", data)
        await sent.result(timeout=20, poll_delay=0.002)
