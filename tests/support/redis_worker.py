"""A worker that tests of Redis start as a process, kill, freeze and stop; its orders are JSON on the command line."""

from __future__ import annotations

import json
import logging
import sys

import anyio

from taskcore import App
from taskcore.adapters import open_backend, open_store
from taskcore.conformance.checking import RecordingBackend
from taskcore.faults.crash import history_from_environment, install_from_environment
from tests.support.redis_play import declare


async def main() -> None:
    """Work until a signal stops it."""
    install_from_environment()
    orders = json.loads(sys.argv[1])
    url, store, queue = orders.pop("url"), orders.pop("store"), orders.pop("queue")
    history = history_from_environment()
    backend = RecordingBackend(open_backend(url), history, history.who)
    app = App(backend, store=open_store(store), **{"lease": 1.0, "concurrency": 5, **orders})
    history.listen(app, who=history.who)
    declare(app, history, queue, history.who)
    async with anyio.create_task_group() as group:
        await group.start(app.run_worker)
        print("ready", flush=True)  # noqa: T201 - the test waits for it


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    anyio.run(main)
