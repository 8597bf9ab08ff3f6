"""Celery, on Redis and RabbitMQ."""

from __future__ import annotations

import ruler
from celery import Celery

PEER = ruler.Peer(
    name="Celery",
    package="celery",
    requirements=["celery[redis]", "hiredis"],
    brokers=["redis", "rabbitmq"],
    command=[
        "{python}",
        "-m",
        "celery",
        "-A",
        "celery_",
        "worker",
        "--pool",
        "solo",
        "-Q",
        "{queue}",
        "--loglevel",
        "ERROR",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ],
    slots=1,
    settings="solo pool (the fastest for no-op jobs), acks_late, prefetch multiplier 100, results ignored unless asked for, "
    "no gossip, mingle or heartbeat; RabbitMQ: persistent messages, publisher confirms. One producer connection is reused.",
    source="https://docs.celeryq.dev/en/stable/userguide/optimizing.html",
)

app = Celery("bench", broker=ruler.URL, backend=ruler.RESULTS or None)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=100,
    task_ignore_result=not ruler.RESULTS,
    task_default_queue=ruler.QUEUE,
    broker_pool_limit=1,
    task_store_eager_result=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options=(
        {"confirm_publish": True} if ruler.BROKER == "rabbitmq" else {"visibility_timeout": ruler.LEASE or 3600}
    ),
)


@app.task(name="bench.job")
def job(data):
    """Do the job."""
    return ruler.job(data)


class Adapter(ruler.Adapter):
    """Celery's calls block."""

    async def one(self, data):
        """Enqueue one job through the pooled producer."""
        job.apply_async((data,), retry=False)

    async def many(self, batch):
        """Enqueue one by one, as there is no bulk call; one producer for all saves taking it from the pool."""
        with app.producer_or_acquire() as producer:
            for data in batch:
                job.apply_async((data,), producer=producer, retry=False)

    async def trip(self, data):
        """Await one result."""
        job.apply_async((data,)).get(timeout=20)

    async def trips(self, batch):
        """Send all, then await all."""
        for sent in [job.apply_async((data,)) for data in batch]:
            sent.get(timeout=60)
