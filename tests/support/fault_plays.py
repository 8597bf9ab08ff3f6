"""Plays with tasks that misbehave, on any broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from taskcore import App
from taskcore.faults import RabbitServer, Server, WorkerProcess
from tests.support.fault_tasks import declare_faults
from tests.support.rabbit_play import RabbitPlay
from tests.support.redis_play import Play

__all__ = ["SCRIPT", "client_of", "play_on", "worker_of"]

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
