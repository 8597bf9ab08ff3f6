"""Plays with tasks that misbehave, on any broker."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from taskcore import App
from taskcore.adapters import open_backend
from taskcore.faults import RabbitServer, Server, WorkerProcess
from tests.support.fault_tasks import declare_faults
from tests.support.rabbit_play import RabbitPlay
from tests.support.redis_play import CRASHES, Play, send

__all__ = ["SCRIPT", "client_of", "kill_workers", "play_on", "worker_of"]

SCRIPT = Path(__file__).with_name("fault_worker.py")


def play_on(broker: Server, folder: Path) -> Play:
    """Make a play on a queue of its own; beside RabbitMQ with a SQLite file as the store."""
    return RabbitPlay(broker.url, folder) if isinstance(broker, RabbitServer) else Play(broker.url)


@asynccontextmanager
async def client_of(play: Play, **settings: Any) -> AsyncIterator[App]:
    """Open an app that sends, with the tasks that misbehave, too."""
    async with play.app("client", **settings) as app:
        declare_faults(app, play.history, play.queue, "client")
        yield app


@asynccontextmanager
async def worker_of(play: Play, folder: Path, who: str = "worker", **orders: Any) -> AsyncIterator[WorkerProcess]:
    """Run a worker process that has the tasks that misbehave; it is ready inside."""
    async with play.worker(folder, who, script=SCRIPT, **orders) as worker:
        await worker.says("ready")
        yield worker


async def kill_workers(play: Play, folder: Path, kills: int) -> None:
    """Kill workers in the middle of 200 jobs, at random moments.

    All jobs end, only those in hand at a death run twice, and none is poison but one that was in hand at three deaths.
    """
    dice = random.Random(1)
    async with play.app("client") as app, AsyncExitStack() as exits:
        await send(app, range(200), seconds=0.02)
        workers = [await exits.enter_async_context(play.worker(folder, f"w{number}")) for number in range(2)]
        for number in range(kills):
            victim = workers.pop(0)
            await victim.says("ready")
            await anyio.sleep(dice.uniform(0.1, 0.3))
            victim.kill()
            workers.append(await exits.enter_async_context(play.worker(folder, f"w{number + 2}")))
        await play.quiet()
        entries = play.merged().entries
        dead = {entry.who for entry in entries if entry.kind == "died"}
        started = {(entry.who, entry.job) for entry in entries if entry.kind == "start" and entry.who in dead}
        in_hand = started - {(entry.who, entry.job) for entry in entries if entry.kind == "settled"}
        await play.check(duplicates_allowed=len(in_hand))
        async with open_backend(play.url) as backend:
            letters = await backend.admin.letters(play.queue, limit=100)
    assert len(dead) == kills
    assert len({entry.job for entry in entries if entry.kind == "ok"}) >= 200 - len(letters)
    often = [job for job, deaths in Counter(job for _, job in in_hand).items() if deaths >= CRASHES]
    assert len(letters) <= len(often), "a killed worker's jobs are no poison"
