"""A worker process whose tasks and parts misbehave; its orders are JSON on the command line.

``broken``: its listeners, hooks, log handlers and middleware raise. ``jump``: seconds by which its monotonic clock
jumps when it gets SIGUSR1, as that of a machine that was suspended does, or does not.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from typing import Any

import anyio

from taskcore import App
from taskcore.adapters import open_backend, open_store
from taskcore.conformance.checking import RecordingBackend
from taskcore.faults.crash import history_from_environment, install_from_environment
from tests.support.fault_tasks import BrokenCommit, break_logging, declare_faults
from tests.support.redis_play import declare


async def main() -> None:
    """Work until a signal stops it."""
    install_from_environment()
    orders = json.loads(sys.argv[1])
    url, store, queue = orders.pop("url"), orders.pop("store"), orders.pop("queue")
    broken, jump = orders.pop("broken", False), orders.pop("jump", None)
    history = history_from_environment()
    backend = RecordingBackend(open_backend(url), history, history.who)
    options: dict[str, Any] = {"lease": 1.0, "concurrency": 5, **orders}
    app = App(backend, store=open_store(store), middleware=[BrokenCommit()] if broken else [], **options)
    history.listen(app, who=history.who)
    declare(app, history, queue, history.who)
    declare_faults(app, history, queue, history.who)
    if broken:
        break_logging(app)
    if jump is not None:
        signal.signal(signal.SIGUSR1, lambda *_: shift_clocks(jump))
    async with anyio.create_task_group() as group:
        await group.start(app.run_worker)
        print("ready", flush=True)  # noqa: T201 - the test waits for it


def shift_clocks(seconds: float) -> None:
    """Let the monotonic clock of this process jump: the event loop's, and what reads it directly."""
    real = time.monotonic
    time.monotonic = lambda: real() + seconds  # type: ignore[method-assign]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    anyio.run(main)
