"""RQ, on Redis."""

from __future__ import annotations

import time

import ruler
from redis import Redis
from rq import Queue
from rq.job import Retry

PEER = ruler.Peer(
    name="RQ",
    package="rq",
    requirements=["rq", "hiredis"],
    brokers=["redis"],
    command=[
        "{python}",
        "-m",
        "rq.cli",
        "worker",
        "{queue}",
        "--url",
        "{url}",
        "--worker-class",
        "rq.SimpleWorker",
        "--quiet",
    ],
    slots=1,
    settings="SimpleWorker (jobs in the worker's process: a fork for each is its default and four times slower), "
    "results not kept unless asked for, bulk by enqueue_many.",
    source="https://python-rq.org/docs/workers/",
    guarantee="a dead worker's job is moved to the failed registry by the clean-up, and retried if it has retries left",
)


def job(data):
    """Do the job."""
    return ruler.job(data)


class Adapter(ruler.Adapter):
    """RQ's calls block."""

    async def open(self):
        """Connect."""
        self.queue = Queue(ruler.QUEUE, connection=Redis.from_url(ruler.URL))
        self.kept = {"result_ttl": 60 if ruler.RESULTS else 0}

    async def one(self, data):
        """Enqueue one job."""
        self.queue.enqueue("rq_.job", data, retry=Retry(max=2) if ruler.LEASE else None, **self.kept)

    async def many(self, batch):
        """Send them in a pipeline."""
        self.queue.enqueue_many(
            [
                Queue.prepare_data("rq_.job", (data,), retry=Retry(max=2) if ruler.LEASE else None, **self.kept)
                for data in batch
            ]
        )

    async def trip(self, data):
        """Await one result; results are polled, or come through a stream that is read blocking."""
        sent = self.queue.enqueue("rq_.job", data, **self.kept)
        _latest(sent)

    async def trips(self, batch):
        """Send all, then await all."""
        for sent in [self.queue.enqueue("rq_.job", data, **self.kept) for data in batch]:
            _latest(sent)


def _latest(sent):
    end = time.monotonic() + 20
    while sent.latest_result(timeout=1) is None:
        if time.monotonic() > end:
            raise TimeoutError
