"""Programs that tell: tasks of every kind, for workers in processes of their own, and a worker that is killed."""

from __future__ import annotations

import sys
import time
from typing import Any

import anyio

from taskcore import App, Retry, Router, current

LEASE = 2.0


ROUTER = Router()


def make(url: str, store: Any = None) -> App:
    """Make an app with tasks that tell."""
    app = App(url, store=store, lease=LEASE, retry=Retry(attempts=5, base=0.05))
    app.include(ROUTER)
    return app


@ROUTER.task(name="in-loop")
async def in_loop(rows: int, pause: float, fails_at: int = -1) -> int:
    """Tell in the event loop."""
    async for row in current().progress(range(rows), message="rows", resume=True):
        await anyio.sleep(pause)
        _fail(row, fails_at)
    return rows


@ROUTER.task(name="in-thread")
def in_thread(rows: int, pause: float, fails_at: int = -1) -> int:
    """Tell in a thread."""
    for row in current().progress(range(rows), message="rows", resume=True):
        time.sleep(pause)
        _fail(row, fails_at)
    return rows


@ROUTER.task(name="in-process", runs_in="process")
def in_process(rows: int, pause: float, fails_at: int = -1) -> int:
    """Tell in a process."""
    for row in current().progress(range(rows), message="rows", resume=True):
        time.sleep(pause)
        _fail(row, fails_at)
    return rows


def _fail(row: int, fails_at: int) -> None:
    current().log("row %d", row)
    if row == fails_at and current().attempt == 1:
        raise ValueError(f"row {row}")


KINDS = {"loop": in_loop, "thread": in_thread, "process": in_process}


async def work(url: str, store: str) -> None:
    """Run a worker until it is killed."""
    async with make(url, store or None).running():
        print("ready", flush=True)  # noqa: T201
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(work, *sys.argv[1:3])
