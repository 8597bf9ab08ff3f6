"""RabbitMQ by aiormq: quorum queue, persistent, frames packed by hand, a thousand confirms in flight, multiple acks."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

import aiormq
from aiormq.channel import ChannelFrame

from benchmarks.compare.raw import PAYLOAD

NAME = "bench-raw"
WINDOW = 1_000
PERSISTENT = aiormq.spec.Basic.Properties(delivery_mode=2)


class RawRabbit:
    """Two channels of one connection."""

    how = (
        "aiormq, quorum queue, persistent: confirms awaited singly; bulk: frames packed by hand, 1,000 in flight, "
        "twice as fast as its own publish; drain: prefetch 1,000, a callback each, acknowledged in hundreds"
    )
    verbs = ("one", "bulk", "drain")

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        """Declare a durable queue."""
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
        """Keep a thousand confirms in flight."""
        seconds = await self._fill(jobs)
        await self.sending.queue_purge(NAME)
        return seconds

    async def _fill(self, jobs: int) -> float:
        start = time.perf_counter()
        for _ in range(jobs // WINDOW):
            await self._window()
        return time.perf_counter() - start

    async def _window(self) -> None:
        """Write what aiormq writes for so many publishes, in one piece on its write queue; then await all confirms."""
        channel, loop, waiting, out = self.sending, asyncio.get_running_loop(), [], bytearray()
        method = struct.pack(">HHHB", 60, 40, 0, 0) + bytes((len(NAME),)) + NAME.encode() + b"\x00"
        header = struct.pack(">HHQH", 60, 0, len(PAYLOAD), 1 << 12) + b"\x02"
        frames = b"".join(
            struct.pack(">BHI", kind, channel.number, len(content)) + content + b"\xce"
            for kind, content in ((1, method), (2, header), (3, PAYLOAD))
        )
        async with channel.lock:
            for _ in range(WINDOW):
                channel.delivery_tag += 1
                waiting.append(channel.confirmations.setdefault(channel.delivery_tag, loop.create_future()))
                out += frames
            await channel.write_queue.put(ChannelFrame(payload=bytes(out), should_close=False))
        await asyncio.gather(*waiting)

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
