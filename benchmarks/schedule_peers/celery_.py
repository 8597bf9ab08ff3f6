"""Celery: a worker, and beat beside it."""

from __future__ import annotations

import os
import time

from celery import Celery
from celery.schedules import crontab

app = Celery("schedules", broker=os.environ["SCHEDULES_URL"])
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="note")
def note(schedule: str) -> None:
    """Write a line for this tick."""
    file = os.open(os.environ["SCHEDULES_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{schedule} {time.time():.3f}\n".encode())
    os.close(file)


app.conf.beat_schedule = {
    f"s{number}": {"task": "note", "schedule": crontab(), "args": (f"s{number}",)}
    for number in range(int(os.environ["SCHEDULES_NUMBER"]))
}
