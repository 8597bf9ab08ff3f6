"""How much faster several processes of `taskcore worker` empty a queue than one does.

    python benchmarks/processes.py                       Redis, jobs that compute for a millisecond each
    python benchmarks/processes.py --url amqp://… --work 0 --jobs 50000

Each round fills a queue, starts the command with one process and then with several, waits until all of them are ready,
and measures how fast the rest of the jobs ends. The best of the rounds counts, because other programs only slow it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from taskcore import App
from taskcore.faults import RedisServer

PROGRAM = """
import time

from taskcore import App

app = App.from_config()


@app.task(name="compute", keep_result=None)
async def compute(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
"""


@contextmanager
def workers(folder: Path, url: str, number: int) -> Iterator[None]:
    """Run the command; all its processes are ready inside."""
    command = [sys.executable, "-m", "taskcore", "worker", "program:app", "--processes", str(number)]
    environment = {**os.environ, "TASKCORE_URL": url}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        ready = 0
        while ready < number:
            line = process.stderr.readline()
            if not line:
                raise SystemExit(f"the workers ended with exit code {process.wait()}")
            ready += "is ready" in line
        yield
    finally:
        process.terminate()
        process.communicate()


async def drained_per_second(folder: Path, url: str, number: int, jobs: int, seconds: float) -> float:
    """Empty the queue once; return the jobs a second."""
    app = App(url)

    @app.task(name="compute", keep_result=None)
    async def compute(seconds: float) -> None: ...

    async with app:
        for _ in range(jobs // 1000):
            await app.enqueue_many([compute.call(seconds) for _ in range(1000)])
        starting = workers(folder, url, number)
        await anyio.to_thread.run_sync(starting.__enter__)
        try:
            began, before = time.perf_counter(), await app.stats()
            await app.drain()
            return (before.ready + before.leased) / (time.perf_counter() - began)
        finally:
            await anyio.to_thread.run_sync(starting.__exit__, None, None, None)


async def measure(url: str, given: argparse.Namespace) -> None:
    """Measure one process and several, in turns, and print what they did."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.py").write_text(PROGRAM)
        best = dict.fromkeys((1, given.processes), 0.0)
        for _ in range(given.rounds):
            for number in best:
                rate = await drained_per_second(folder, url, number, given.jobs, given.work / 1000)
                print(f"  {number} process(es): {rate:8,.0f} jobs/s", flush=True)
                best[number] = max(best[number], rate)
        one, several = best.values()
        print(f"{given.processes} processes drain {several / one:.2f} × one: {several:,.0f} and {one:,.0f} jobs/s")


async def main() -> None:
    """Read the options, start a Redis if no URL is given, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="a broker that runs; default: a Redis of its own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=8_000)
    parser.add_argument("--work", type=float, default=1.0, metavar="MS", help="milliseconds that each job computes")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.url:
        await measure(given.url, given)
        return
    async with RedisServer() as server:
        await measure(server.url, given)


if __name__ == "__main__":
    anyio.run(main)
