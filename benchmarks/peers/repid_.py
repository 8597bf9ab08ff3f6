"""Repid, on Redis streams."""

from __future__ import annotations

import asyncio
import sys

import ruler
from repid import Repid, Router
from repid.connections.redis.message_broker import RedisServer

PEER = ruler.Peer(
    name="Repid",
    package="repid",
    requirements=["repid[redis]", "hiredis", "uvloop", "typing_extensions"],
    brokers=["redis"],
    command=["{python}", "repid_.py", "work"],
    slots=100,
    settings="tasks_limit 100, batches of 10 (larger ones are slower), acknowledged after the run; messages of dead "
    "consumers are claimed only while workers are killed, because that is off by default.",
    source="https://repid.aleksul.space/",
)
app = Repid()
app.servers.register_server(
    "redis",
    RedisServer(
        ruler.URL or "redis://localhost",
        batch_size=10,
        claim_interval=1.0 if ruler.LEASE else 0.0,
        min_idle_ms=int((ruler.LEASE or 60) * 1000),
    ),
    is_default=True,
)
router = Router()


@router.actor(channel=ruler.QUEUE)
async def job(data: str) -> None:
    """The job."""
    await ruler.ajob(data)


app.include_router(router)


class Adapter(ruler.Adapter):
    """Everything is a coroutine; there is no bulk call, so many are sent at once."""

    async def open(self):
        """Connect."""
        self.server = app.servers.default
        self.connection = self.server.connection()
        await self.connection.__aenter__()

    async def close(self):
        """Disconnect."""
        await self.connection.__aexit__(None, None, None)

    async def one(self, data):
        """One message."""
        await app.send_message_json(channel=ruler.QUEUE, payload={"data": data}, headers={"topic": "job"})


async def work():
    """One worker."""
    async with app.servers.default.connection():
        await app.run_worker(tasks_limit=100)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
