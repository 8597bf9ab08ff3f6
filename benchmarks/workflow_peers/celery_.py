"""Celery's chains and chords: the worker's tasks, and, run as a program, what sends them and prints figures as JSON.

Its results are read one after the other, which costs the worker nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from celery import Celery, chain, chord

RATE, SECONDS, CHAINS, PLACES, CHILDREN = map(int, os.environ["WORKFLOWS_SIZES"].split())
LONGEST = 300

app = Celery("workflows", broker=os.environ["WORKFLOWS_URL"], backend=os.environ["WORKFLOWS_URL"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=100,
    task_default_queue="workflows",
    broker_connection_retry_on_startup=True,
)


@app.task(name="plain")
def plain(a: int) -> int:
    """Add one."""
    return a + 1


@app.task(name="now")
def now(_: object = None) -> float:
    """Tell the time."""
    return time.time()


@app.task(name="stamp")
def stamp(before: float) -> list[float]:
    """Tell when the step before ended, and the time."""
    return [before, time.time()]


@app.task(name="collect")
def collect(numbers: list[int]) -> int:
    """Add."""
    return sum(numbers)


def worker() -> subprocess.Popen[bytes]:
    """Start a worker."""
    command = [sys.executable, "-m", "celery", "-A", "celery_", "worker", "--pool", "solo", "-Q", "workflows"]
    options = ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def hop() -> tuple[list[float], list[float]]:
    """Let jobs and chains of two steps come at a rate; return the times of hops, and of jobs to their result."""
    jobs: list[float] = []
    for _ in range(RATE * SECONDS):
        began = time.perf_counter()
        plain.delay(1).get(timeout=LONGEST)
        jobs.append(time.perf_counter() - began)
        time.sleep(max(began + 1 / RATE - time.perf_counter(), 0.0))
    sent = []
    for _ in range(RATE * SECONDS):
        began = time.perf_counter()
        sent.append(chain(now.s(), stamp.s()).apply_async())
        time.sleep(max(began + 1 / RATE - time.perf_counter(), 0.0))
    ends = [one.get(timeout=LONGEST) for one in sent]
    return [end - before for before, end in ends], jobs


def steps() -> float:
    """Let a worker drain chains that wait for it; return steps a second."""
    sent = [chain(now.s(), *[now.s() for _ in range(PLACES - 2)], stamp.s()).apply_async() for _ in range(CHAINS)]
    alive = worker()
    firsts, lasts = [], []
    for one in sent:
        lasts.append(one.get(timeout=LONGEST)[1])
        first = one
        while first.parent is not None:
            first = first.parent
        firsts.append(first.get(timeout=LONGEST))
    alive.kill()
    alive.wait()
    return CHAINS * PLACES / (max(lasts) - min(firsts))


def wide() -> float:
    """Run a chord; return seconds from its submission to its result."""
    began = time.perf_counter()
    sent = chord((plain.s(number) for number in range(CHILDREN)), collect.s()).apply_async()
    assert sent.get(timeout=LONGEST) == sum(range(1, CHILDREN + 1))
    return time.perf_counter() - began


if __name__ == "__main__":
    first = worker()
    plain.delay(1).get(timeout=LONGEST)
    hops, jobs = hop()
    seconds = wide()
    first.kill()
    first.wait()
    print(json.dumps({"hops": hops, "jobs": jobs, "steps": steps(), "map": seconds}))
