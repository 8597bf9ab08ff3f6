"""RabbitMQ by aiormq: quorum queue, persistent, windows of a thousand confirms, multiple acks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiormq

from benchmarks.compare.raw import PAYLOAD

NAME = "bench-raw"
WINDOW = 1_000
PERSISTENT = aiormq.spec.Basic.Properties(delivery_mode=2)


class RawRabbit:
    """Two channels of one connection."""

    how = (
        "aiormq, quorum queue, persistent: confirms awaited singly; 1,000 in flight; "
        "prefetch 1,000, acknowledged in hundreds"
    )
    verbs = ("one", "bulk", "drain")

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        """A durable queue."""
        self.connection = await aiormq.connect(self.url)
        self.sending = await self.connection.channel(publisher_confirms=True)
        self.taking = await self.connection.channel()
        await self.sending.queue_declare(NAME, durable=True, arguments={"x-queue-type": "quorum"})
        await self.taking.basic_qos(prefetch_count=WINDOW)

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.sending.queue_delete(NAME)
        await self.connection.close()

    async def _publish(self) -> None:
        await self.sending.basic_publish(PAYLOAD, routing_key=NAME, properties=PERSISTENT)

    async def one(self, jobs: int) -> float:
        """Confirm after confirm."""
        start = time.perf_counter()
        for _ in range(jobs):
            await self._publish()
        seconds = time.perf_counter() - start
        await self.sending.queue_purge(NAME)
        return seconds

    async def bulk(self, jobs: int) -> float:
        """A thousand confirms in flight."""
        seconds = await self._fill(jobs)
        await self.sending.queue_purge(NAME)
        return seconds

    async def _fill(self, jobs: int) -> float:
        start = time.perf_counter()
        for _ in range(jobs // WINDOW):
            await asyncio.gather(*(self._publish() for _ in range(WINDOW)))
        return time.perf_counter() - start

    async def drain(self, jobs: int) -> float:
        """Acknowledge up to every hundredth."""
        await self._fill(jobs)
        done = asyncio.Event()
        seen = 0

        async def take(message: Any) -> None:
            nonlocal seen
            seen += 1
            if seen % 100 == 0 or seen == jobs:
                await self.taking.basic_ack(message.delivery_tag, multiple=True, wait=False)
            if seen >= jobs:
                done.set()

        start = time.perf_counter()
        answer = await self.taking.basic_consume(NAME, take)
        await done.wait()
        seconds = time.perf_counter() - start
        await self.taking.basic_cancel(answer.consumer_tag)
        return seconds
