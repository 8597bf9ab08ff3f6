"""How much faster several processes of `taskcore worker` empty a queue than one does.

    python benchmarks/processes.py                       Redis, jobs that compute for a millisecond each
    python benchmarks/processes.py --url amqp://… --work 0 --jobs 50000

Each round fills a queue, starts the command with one process and then with several, waits until all of them are ready,
and measures how fast the rest of the jobs ends. The best of the rounds counts, because other programs only slow it.

On a machine that is busy with other programs these times say little. The CPU time that the processes spend on a job
still does: as long as it stays the same with several processes, they are as many times as fast on free cores.
"""

from __future__ import annotations

import argparse
import os
import re
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
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
"""


@contextmanager
def workers(folder: Path, url: str, number: int) -> Iterator[list[int]]:
    """Run the command; all its processes are ready inside, which gets their ids."""
    command = [sys.executable, "-m", "taskcore", "worker", "program:app", "--processes", str(number)]
    environment = {**os.environ, "TASKCORE_URL": url}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        ready: list[int] = []
        while len(ready) < number:
            line = process.stderr.readline()
            if not line:
                raise SystemExit(f"the workers ended with exit code {process.wait()}")
            ready += [int(pid) for pid in re.findall(r"process (\d+) is ready", line)]
        yield ready
    finally:
        process.terminate()
        process.communicate()


def spent(pids: list[int]) -> float:
    """Return the seconds of CPU time that processes have spent."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(user) + int(system) for *_, user, system in (each[:13] for each in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


async def drain(folder: Path, url: str, number: int, jobs: int, seconds: float) -> tuple[float, float]:
    """Empty the queue once; return the jobs a second, and the CPU milliseconds of each."""
    app = App(url)

    @app.task(name="compute", keep_result=None)
    async def compute(seconds: float) -> None: ...

    async with app:
        for _ in range(jobs // 1000):
            await app.enqueue_many([compute.call(seconds) for _ in range(1000)])
        starting = workers(folder, url, number)
        pids = await anyio.to_thread.run_sync(starting.__enter__)
        try:
            began, before, cpu = time.perf_counter(), await app.stats(), spent(pids)
            rest = before.ready + (before.leased or 0)
            if not rest:
                raise SystemExit("all jobs ended before the processes were ready: use more --jobs")
            await app.drain()
            return rest / (time.perf_counter() - began), (spent(pids) - cpu) / rest * 1000
        finally:
            await anyio.to_thread.run_sync(starting.__exit__, None, None, None)


async def measure(url: str, given: argparse.Namespace) -> None:
    """Measure one process and several, in turns, and print what they did."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.py").write_text(PROGRAM)
        fastest, costs = dict.fromkeys((1, given.processes), 0.0), dict.fromkeys((1, given.processes), 1e9)
        for _ in range(given.rounds):
            for number in fastest:
                rate, cost = await drain(folder, url, number, given.jobs, given.work / 1000)
                print(f"  {number} process(es): {rate:8,.0f} jobs/s, {cost:.3f} ms of CPU each", flush=True)
                fastest[number], costs[number] = max(fastest[number], rate), min(costs[number], cost)
        many = given.processes
        times, cheap = fastest[many] / fastest[1], many * costs[1] / costs[many]
        print(f"{many} processes drain {times:.2f} × one: {fastest[many]:,.0f} and {fastest[1]:,.0f} jobs/s")
        print(f"by their CPU time {cheap:.2f} × one: {costs[many]:.3f} and {costs[1]:.3f} ms a job")


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
