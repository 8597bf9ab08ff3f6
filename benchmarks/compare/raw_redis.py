"""Redis by redis-py and hiredis: streams, a script for a hundred entries, acks pipelined with the next read."""

from __future__ import annotations

import time

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.compare.raw import PAYLOAD

XADD_MANY = "for i=1,#ARGV do redis.call('XADD', KEYS[1], '*', 'e', ARGV[i]) end"
KEY = "bench-raw"


class RawRedis:
    """One connection."""

    how = "redis-py with hiredis: XADD awaited; EVALSHA of 100 XADD; XREADGROUP 100 in one pipeline with XACK and XDEL"
    verbs = ("one", "bulk", "drain")

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2)

    async def open(self) -> None:
        """Load the script."""
        self.script = self.redis.register_script(XADD_MANY)
        await self.redis.delete(KEY)

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.redis.delete(KEY)
        await self.redis.aclose()

    async def one(self, jobs: int) -> float:
        """Send XADD after XADD."""
        start = time.perf_counter()
        for _ in range(jobs):
            await self.redis.execute_command("XADD", KEY, "*", "e", PAYLOAD)
        seconds = time.perf_counter() - start
        await self.redis.delete(KEY)
        return seconds

    async def bulk(self, jobs: int) -> float:
        """Send a hundred XADD in a script."""
        seconds = await self._fill(jobs)
        await self.redis.delete(KEY)
        return seconds

    async def _fill(self, jobs: int) -> float:
        batch = [PAYLOAD] * 100
        start = time.perf_counter()
        for _ in range(jobs // 100):
            await self.script(keys=[KEY], args=batch)
        return time.perf_counter() - start

    async def drain(self, jobs: int) -> float:
        """Read a hundred; acknowledge and delete them together with the next read."""
        await self._fill(jobs)
        await self.redis.execute_command("XGROUP", "CREATE", KEY, "g", "0")
        done: list[bytes] = []
        start = time.perf_counter()
        while True:
            pipeline = self.redis.pipeline(transaction=False)
            if done:
                pipeline.execute_command("XACK", KEY, "g", *done)
                pipeline.execute_command("XDEL", KEY, *done)
            pipeline.execute_command("XREADGROUP", "GROUP", "g", "c", "COUNT", 100, "STREAMS", KEY, ">")
            entries = (await pipeline.execute())[-1]
            if not entries:
                break
            [(_, found)] = entries.items() if isinstance(entries, dict) else entries
            done = [entry for entry, _ in (found[0] if isinstance(entries, dict) else found)]
        seconds = time.perf_counter() - start
        await self.redis.delete(KEY)
        return seconds
