"""One instance as a process of its own. Tests start several of them, and kill them.

python program.py worker|scheduler URL STORE LEDGER [POINT]
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import anyio

from taskcore import App, current
from taskcore.testing.crash_points import exit_at

ROLE, URL, STORE, LEDGER, *POINT = sys.argv[1:]
SCHEDULES = ("first", "second", "third")

app = App(URL, store=STORE or None, schedules=ROLE == "scheduler", key_window="10m")


@app.task(name="note", queue="notes")
async def note() -> None:
    """Write the tick of this job into the ledger, in one write."""
    tick = current().tick
    assert tick is not None
    line = f"{tick.schedule} {round(tick.at.timestamp() * 1000)} {current().enqueued_at:.3f}\n"
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


for name in SCHEDULES:
    app.schedule(name, every=1, overlap="allow")(note)


async def main() -> None:
    """Run until killed."""
    with exit_at(POINT[0]) if POINT else nullcontext():
        async with app.running(queues=["notes" if ROLE == "worker" else "idle"]):
            print("ready", flush=True)  # noqa: T201
            await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main)
