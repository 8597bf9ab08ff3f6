"""NATS JetStream by nats-py: a reply inbox of our own, windows of publishes, a pull loop that asks ahead."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from benchmarks.compare.raw import PAYLOAD

NAME = "bench-raw"
WINDOW = 500


class RawNats:
    """One connection."""

    how = (
        "nats-py: js.publish awaited; windows of 500 publishes with one reply inbox; "
        "pull requests of 500 asked ahead, each acknowledged"
    )
    verbs = ("one", "bulk", "drain")

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        """Make a stream on disk, and one inbox for all answers."""
        self.client = await nats.connect(self.url)
        self.js = self.client.jetstream()
        await self.js.add_stream(StreamConfig(name=NAME, subjects=[NAME]))
        self.inbox = self.client.new_inbox()
        self.answered = 0
        self.all_answered = asyncio.Event()
        self.waiting_for = 0
        await self.client.subscribe(self.inbox, cb=self._answer)

    async def _answer(self, message: Any) -> None:
        if b'"error"' in message.data:
            raise RuntimeError(json.loads(message.data)["error"])
        self.answered += 1
        if self.answered >= self.waiting_for:
            self.all_answered.set()

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.js.delete_stream(NAME)
        await self.client.close()

    async def one(self, jobs: int) -> float:
        """Publish after publish."""
        start = time.perf_counter()
        for _ in range(jobs):
            await self.js.publish(NAME, PAYLOAD)
        seconds = time.perf_counter() - start
        await self.js.purge_stream(NAME)
        return seconds

    async def bulk(self, jobs: int) -> float:
        """Publish in windows."""
        seconds = await self._fill(jobs)
        await self.js.purge_stream(NAME)
        return seconds

    async def _fill(self, jobs: int) -> float:
        start = time.perf_counter()
        for _ in range(jobs // WINDOW):
            self.answered, self.waiting_for = 0, WINDOW
            self.all_answered.clear()
            for _ in range(WINDOW):
                await self.client.publish(NAME, PAYLOAD, reply=self.inbox)
            await self.all_answered.wait()
        return time.perf_counter() - start

    async def drain(self, jobs: int) -> float:
        """Ask for five hundred, and again when half of them are there."""
        await self._fill(jobs)
        await self.js.add_consumer(
            NAME, ConsumerConfig(durable_name=NAME, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=10 * WINDOW)
        )
        inbox = self.client.new_inbox()
        done = asyncio.Event()
        seen = asked = 0
        ask = json.dumps({"batch": WINDOW, "expires": 5_000_000_000}).encode()

        async def take(message: Any) -> None:
            nonlocal seen, asked
            if not message.reply:
                return  # a status
            seen += 1
            await self.client.publish(message.reply, b"+ACK")
            if asked - seen < WINDOW // 2 and asked < jobs:
                asked += WINDOW
                await self.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.{NAME}", ask, reply=inbox)
            if seen >= jobs:
                done.set()

        subscription = await self.client.subscribe(inbox, cb=take)
        start = time.perf_counter()
        asked = WINDOW
        await self.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.{NAME}", ask, reply=inbox)
        await done.wait()
        await self.client.flush()
        seconds = time.perf_counter() - start
        await subscription.unsubscribe()
        await self.js.delete_consumer(NAME, NAME)
        await self.js.purge_stream(NAME)
        return seconds
