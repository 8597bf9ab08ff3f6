"""The example application with more schedules, as a process of its own.

python -m benchmarks.schedule_kills.program work|preview|records|clean LEDGER [SECONDS]

Broker, store and the times of the application's schedules come from the environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio

from examples.code_index.upkeep import app
from taskcore import current

ROLE, LEDGER, *SECONDS = sys.argv[1:]
TICKS: Final = "schedule-kills.ticks"
EVERY_SECOND: Final = 5
TIMES: Final = 20
BEGIN = datetime.fromisoformat(os.environ["SCHEDULE_KILLS_BEGIN"])  #: by then a worker has declared the schedules


@app.task(name="schedule-kills.note", queue=TICKS, key_window="30m")
def note() -> None:
    """Write a line for this tick, in one write."""
    tick = current().tick
    assert tick is not None
    line = f"{tick.schedule} {round(tick.at.timestamp() * 1000)} {time.time():.3f} {os.getpid()} {current().job_id}\n"
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


for number in range(EVERY_SECOND):
    app.schedule(f"second-{number}", every=1, overlap="allow")(note)
app.schedule("spread", every=1, spread="700ms", overlap="allow")(note)
app.schedule("times", every="2s", times=TIMES, start=BEGIN, overlap="allow")(note)
app.schedule("minute", cron="* * * * *", overlap="allow")(note)
app.schedule("berlin", cron="*/2 * * * *", tz="Europe/Berlin", overlap="allow")(note)


async def work() -> None:
    """Run and fire until killed."""
    async with app.running():
        print("ready", flush=True)
        await anyio.sleep_forever()


async def preview() -> None:
    """Print the instants of each schedule for some seconds, as ``Schedule.preview`` tells them."""
    until = datetime.now(UTC) + timedelta(seconds=float(SECONDS[0]))
    found = {}
    async with app:
        async for schedule in app.schedules.all():
            instants = schedule.preview(int(float(SECONDS[0])) + 10)
            found[schedule.id] = [round(one.timestamp() * 1000) for one in instants if one <= until]
    print(json.dumps(found))


async def records() -> None:
    """Print since when each schedule counts, and what it passed over."""
    async with app:
        found = [schedule.record async for schedule in app.schedules.all()]
    print(json.dumps({one.id: [one.since, one.missed + one.overlapped + one.lost] for one in found}))


async def clean() -> None:
    """Leave nothing in a broker and a store that other programs use."""
    async with app:
        for schedule in app.schedule.ids:
            await app.schedules.remove(schedule)
        for queue in {task.options.queue for task in app.tasks.values()}:
            await app.purge(queue)


if __name__ == "__main__":
    anyio.run({"work": work, "preview": preview, "records": records, "clean": clean}[ROLE])
