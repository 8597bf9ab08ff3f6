"""A program whose worker runs until a signal stops it. Tests read what it prints.

python signal_program.py LOOP KIND GRACE
"""

from __future__ import annotations

import sys
import threading
import time

import anyio

from taskcore import App
from taskcore.toolkit.call_soon import call_soon_in_loop
from taskcore.worker import signals

app = App("memory://")


def say(word: str) -> None:
    """Print a word at once, for the test that reads it."""
    print(word, flush=True)  # noqa: T201


@app.task
async def sleeper(seconds: float) -> None:
    """Sleep, and tell how it ended."""
    say("started")
    try:
        await anyio.sleep(seconds)
    except BaseException:
        say("interrupted")
        raise
    say("finished")


@app.task
async def stubborn() -> None:
    """Refuse to be interrupted."""
    say("started")
    with anyio.CancelScope(shield=True):
        await anyio.sleep(60.0)


@app.task
def thread() -> None:
    """Block a thread, which cannot be interrupted."""
    say("started")
    time.sleep(60.0)


@app.task
async def blocked() -> None:
    """Block the event loop."""
    say("started")
    time.sleep(60.0)  # noqa: ASYNC251 - it is what the test is about


@app.task
async def flooded() -> None:
    """Block the event loop for a while, in which a thread calls into it ten thousand times."""
    call_soon = call_soon_in_loop()
    calls = threading.Thread(target=lambda: [call_soon(lambda: None) for _ in range(10_000)])
    calls.start()
    calls.join()
    say("started")
    time.sleep(1.5)  # noqa: ASYNC251 - it is what the test is about
    say("finished")


KINDS = {
    "short": sleeper.call(0.5),
    "long": sleeper.call(60.0),
    "stubborn": stubborn.call(),
    "thread": thread.call(),
    "blocked": blocked.call(),
    "flooded": flooded.call(),
}


async def main(kind: str, grace: float) -> None:
    """Run one job at a time; the second never starts."""
    if kind == "blocked":
        signals.CLEANUP_TIMEOUT = 1.0
    async with app:
        await app.send(KINDS[kind])
        await app.send(KINDS[kind])
        await app.run_worker(concurrency=1, grace=grace)
        stats = await app.stats()
        say(f"ready {stats.ready} leased {stats.leased}")


if __name__ == "__main__":
    anyio.run(main, sys.argv[2], float(sys.argv[3]), backend=sys.argv[1])
