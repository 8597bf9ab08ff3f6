"""Procrastinate, on PostgreSQL."""

from __future__ import annotations

import asyncio
import sys

import procrastinate
import ruler

PEER = ruler.Peer(
    name="Procrastinate",
    package="procrastinate",
    requirements=["procrastinate", "psycopg[binary,pool]"],
    brokers=["postgresql"],
    command=["{python}", "procrastinate_.py", "work"],
    slots=100,
    settings="concurrency 100, LISTEN/NOTIFY, successful jobs deleted, bulk by batch_defer_async, pool of up to 20 connections; "
    "stalled jobs are looked for and retried while workers are killed, as its documentation shows.",
    source="https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html",
    guarantee="at least once, if the program itself retries stalled jobs",
)
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=ruler.URL, min_size=1, max_size=20))


@app.task(name="job", queue=ruler.QUEUE)
async def job(data: str) -> int:
    """Do the job."""
    return await ruler.ajob(data)


class Adapter(ruler.Adapter):
    """Everything is a coroutine."""

    async def open(self):
        """Connect; the first one makes the tables."""
        await app.open_async()
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()

    async def close(self):
        """Disconnect."""
        await app.close_async()

    async def one(self, data):
        """Insert one row."""
        await job.defer_async(data=data)

    async def many(self, batch):
        """Insert many rows in one statement."""
        await job.batch_defer_async(*({"data": data} for data in batch))


async def work():
    """Run one worker."""
    beats = {"update_heartbeat_interval": ruler.LEASE / 5, "stalled_worker_timeout": ruler.LEASE} if ruler.LEASE else {}
    async with app.open_async(), asyncio.TaskGroup() as group:
        if ruler.LEASE:
            group.create_task(retry_stalled())
        await app.run_worker_async(
            queues=[ruler.QUEUE], concurrency=100, delete_jobs="successful", install_signal_handlers=False, **beats
        )


async def retry_stalled():
    """Put jobs of workers whose heart has stopped back into the queue. The library leaves it to the program to ask."""
    while True:
        for stalled in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=ruler.LEASE):
            await app.job_manager.retry_job(stalled)
        await asyncio.sleep(1)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        asyncio.run(work())
