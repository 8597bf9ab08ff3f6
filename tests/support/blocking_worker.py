"""A worker whose tasks block its event loop: ``python blocking_worker.py URL STORE LEDGER LEASE MAX_BLOCK``.

On memory:// it is two workers, and sends the jobs itself, because no other process could.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path

import anyio

from taskcore import App, Job


def make_app(url: str, store: str, ledger: str, lease: float | None, max_block: float) -> App:
    """Make the app; its tasks write when they start and end, and where, to the ledger."""
    app = App(url, store=None if store == "-" else store, lease=lease, max_block=max_block, grace=1.0)

    def note(text: str) -> None:
        with Path(ledger).open("a") as file:
            file.write(f"{text} {os.getpid()} {time.time():.2f}\n")

    def read() -> str:
        return Path(ledger).read_text()

    @app.task(name="block", queue="block", key="n")
    async def block(n: int, seconds: float) -> int:
        note(f"start block-{n}")
        time.sleep(seconds)  # noqa: ASYNC251 - what the tests are about
        await anyio.sleep(0.2)
        note(f"end block-{n}")
        return n

    @app.task(name="quick", queue="block")
    async def quick(n: int) -> int:
        note(f"start quick-{n}")
        return n

    @app.task(name="linger", queue="block")
    async def linger(n: int) -> int:
        first = f"start linger-{n} " not in read()
        note(f"start linger-{n}")
        if first:
            await anyio.sleep(600)
        return n

    @app.task(name="neighbour", queue="block")
    async def neighbour(n: int) -> int:
        note(f"start neighbour-{n}")
        await anyio.sleep(1)
        return n

    @app.task(name="die", queue="block")
    async def die() -> None:
        note("start die")
        await anyio.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="hold", queue="block", key="n")
    async def hold(n: int, seconds: int) -> int:
        note(f"start hold-{n}")
        ctypes.PyDLL(None).sleep(seconds)
        await anyio.sleep(0.2)
        note(f"end hold-{n}")
        return n

    @app.task(name="hold_thread", queue="block", key="n")
    def hold_thread(n: int, seconds: int) -> int:
        note(f"start hold_thread-{n}")
        ctypes.PyDLL(None).sleep(seconds)
        note(f"end hold_thread-{n}")
        return n

    return app


async def send(app: App, seconds: float, *, others: int) -> tuple[Job[int], list[Job[int]]]:
    """Send one job that blocks, and others a moment later, when it does."""
    first: Job[int] = await app.tasks["block"].enqueue(1, seconds)
    await anyio.sleep(0.5)
    return first, await app.enqueue_many([app.tasks["quick"].call(n) for n in range(others)])


async def main(url: str, store: str, ledger: str, lease: str, max_block: str) -> None:
    """Work until killed; on memory:// until the jobs are done."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    app = make_app(url, store, ledger, None if lease == "-" else float(lease), float(max_block))
    if url != "memory://":
        async with app.running(concurrency=4):
            print("ready", flush=True)  # noqa: T201 - the test waits for it
            await anyio.sleep_forever()
    async with app.running(concurrency=4), app.running(concurrency=4):
        first, others = await send(app, float(os.environ["SECONDS_BLOCKED"]), others=4)
        print(await first.outcome(timeout=60), *[await job.outcome(timeout=60) for job in others])  # noqa: T201
        await anyio.sleep(float(lease))
    print("done")  # noqa: T201


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
