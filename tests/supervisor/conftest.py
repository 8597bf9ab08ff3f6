"""Shared by the tests of supervised workers: a project on a Redis, and the command that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App
from taskcore.faults import RedisServer
from tests.support.command import WorkerCommand
from tests.support.real import serving

SHOP = '''
import os
import time
from pathlib import Path

import anyio

from taskcore import App, current

app = App.from_config(lease=2.0, grace=10.0)
DONE = Path(__file__).with_name("done")


@app.task(name="note")
async def note(number: int, seconds: float = 0.0) -> int:
    """Leave a line at the start and one at the end."""
    leave(f"began {number} {os.getpid()}")
    await anyio.sleep(seconds)
    leave(f"ended {number} {os.getpid()}")
    return os.getpid()


@app.task(name="block")
async def block(seconds: float) -> None:
    """Block the event loop."""
    leave(f"began block {os.getpid()}")
    time.sleep(seconds)


def leave(line: str) -> None:
    with DONE.open("a") as file:
        file.write(line + "\\n")
'''


class Project:
    """A directory with an app, whose jobs leave lines in a file."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        (directory / "shop.py").write_text(SHOP)

    def run(self, *arguments: str, **variables: str) -> Any:
        """Run ``taskcore worker`` on the app, as a context manager."""
        return WorkerCommand.running(self.directory, "shop:app", *arguments, **{"TASKCORE_URL": self.url} | variables)

    def lines(self, word: str) -> list[str]:
        """Return the lines that jobs have left, which begin with this word."""
        file = self.directory / "done"
        return [line for line in file.read_text().splitlines() if line.startswith(word)] if file.exists() else []

    def send(self, name: str, *calls: dict[str, Any]) -> None:
        """Send jobs of one of its tasks."""
        app = App(self.url)

        @app.task(name="note")
        async def note(number: int, seconds: float = 0.0) -> int: ...

        @app.task(name="block")
        async def block(seconds: float) -> None: ...

        @app.task(name="fail")
        async def fail() -> None: ...

        task: Any = app.tasks[name]

        async def send() -> None:
            async with app:
                await app.enqueue_many([task.call(**call) for call in calls])

        anyio.run(send)


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """Run one Redis for these tests."""
    with serving(RedisServer) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, redis: RedisServer) -> Project:
    """Make a project on a database of Redis of its own."""
    return Project(tmp_path, f"{redis.url.rpartition('/')[0]}/{_next_database()}")


@pytest.fixture
def alone(tmp_path: Path) -> Project:
    """Make a project without a broker."""
    return Project(tmp_path, "memory://")


def _next_database() -> int:
    _next_database.last = (getattr(_next_database, "last", 0) + 1) % 16
    return _next_database.last
