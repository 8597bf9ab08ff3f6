"""The program of a plain worker, without the command: works until SIGTERM, or until it dies."""

from __future__ import annotations

import logging
import sys

import anyio
import anyio.abc
import msgspec

from benchmarks.soak.app import Spec, make_app
from taskcore.errors import BrokerUnavailable

__all__ = ["GAVE_UP", "UNREACHABLE"]

log = logging.getLogger("soak")

UNREACHABLE = 75  #: the exit code of a child that could not connect at its start, which is no offence
GAVE_UP = 76  #: … and of one that was connected, and ended because broker or store went away


async def work(spec: Spec, queues: list[str]) -> int:
    """Run one worker; return the exit code."""
    app, ready, status = make_app(spec), False, 0
    try:
        async with app, anyio.create_task_group() as group:

            async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                await app.run_worker(queues=queues, task_status=task_status)

            await group.start(serve)
            ready = True
            print("ready", flush=True)
    except* BrokerUnavailable:
        log.exception("the worker cannot go on")
        status = GAVE_UP if ready else UNREACHABLE
    return status


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.exit(anyio.run(work, msgspec.json.decode(sys.argv[1], type=Spec), sys.argv[2:]))
