"""taskcore: a worker, which fires schedules as each worker does."""

from __future__ import annotations

import os
import time

from taskcore import App, current

app = App(os.environ["SCHEDULES_URL"])


@app.task(name="note")
def note() -> None:
    """Write a line for this tick."""
    tick = current().tick
    assert tick is not None
    file = os.open(os.environ["SCHEDULES_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{tick.schedule} {time.time():.3f}\n".encode())
    os.close(file)


for number in range(int(os.environ["SCHEDULES_NUMBER"])):
    app.schedule(f"s{number}", cron="* * * * *")(note)
